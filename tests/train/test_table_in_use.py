"""The table is what networks are made of and stepped by: every cell seen in what weights and logits do.

Each check compares a real network with the README's formulas; a mutant is the network built or stepped as if one cell
of the table were ignored, and its check must fail.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, silu
from torch.optim import AdamW
from transformers import GraniteForCausalLM

import train.model
from configs.schema import RunConfig
from tests.configs.mup_cells import attention, expected, run_config
from train.model import blank, build, granite_config, initialise, loss_of
from train.parametrization import Row, optimizer_groups, role_of, table

RUNS = {
    "mup": run_config(),
    "sp": run_config("sp"),
    "wider heads": run_config(width=64, head_dim=16, base_head_dim=8),
    "normed": run_config(qk_norm=True),
    "tied": run_config(tied=True),
    # Gains of blocks and the last one differ in nothing but eps.
    "alpha 1": run_config(depth_alpha=1.0, embedding_lr_multiplier=1.0),
}
by_run = pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)
by_rule_field = pytest.mark.parametrize("field", ["lr_multiplier", "weight_decay_multiplier", "eps_multiplier"])
ATTENTION = ("q_proj", "k_proj", "v_proj")


def tokens(config: RunConfig, sequences: int = 2) -> Tensor:
    """Sequences of one token more than the context."""
    model = config.model
    return torch.randint(model.vocab_size, (sequences, model.seq_len + 1), generator=torch.Generator().manual_seed(0))


# Initial weights.


def check_init(network: nn.Module, config: RunConfig) -> None:
    """Every matrix has its role's spread around 0, gains are 1 and biases 0."""
    for name, parameter in network.named_parameters():
        role, values = role_of(name), parameter.detach()
        if role in ("norm", "final_norm", "bias"):
            assert (values == (role != "bias")).all(), name
        else:
            std = expected(config, role, "init_std")
            error = 5 / math.sqrt(2 * values.numel())  # five standard errors of a standard deviation
            assert values.std().item() == pytest.approx(std, rel=error), name
            assert abs(values.mean().item()) <= 5 * std / math.sqrt(values.numel()), name


@by_run
def test_initial_weights_have_the_table_s_spread(config):
    check_init(build(config.model, seed=0), config)


@pytest.mark.parametrize("role", ["embedding", "hidden", "residual_out", "output"])
def test_a_role_whose_std_is_ignored_is_found(role, monkeypatch):
    stds = train.model.init_stds
    monkeypatch.setattr("train.model.init_stds", lambda model: stds(model) | {role: 1.0})
    with pytest.raises(AssertionError):
        check_init(build(RUNS["mup"].model, seed=0), RUNS["mup"])


@pytest.mark.parametrize("parametrization", ["mup", "sp"])
def test_a_head_of_zeros_predicts_all_tokens_alike(parametrization):
    config = run_config(parametrization, output_init_std=0)
    network = build(config.model, seed=0)
    check_init(network, config)
    loss = loss_of(network, tokens(config)).item()
    assert loss == pytest.approx(math.log(config.model.vocab_size), rel=1e-6)


# Forward multipliers.


def check_forward(network: GraniteForCausalLM, config: RunConfig) -> None:
    """The logits of a network with random gains are those of `logits_by_hand`."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0)))
        ours, by_hand = network(tokens(config)).logits, logits_by_hand(dict(network.named_parameters()), config)
    assert by_hand.std() > 0.1
    assert torch.allclose(ours, by_hand, rtol=1e-4, atol=1e-4), (ours - by_hand).abs().max().item()


def logits_by_hand(weights: dict[str, nn.Parameter], config: RunConfig) -> Tensor:
    """The whole forward pass in plain torch, its multipliers from the README."""
    model = config.model
    embedding, residual, output = (
        expected(config, role, "forward_multiplier") for role in ("embedding", "residual_out", "output")
    )
    x = weights["model.embed_tokens.weight"][tokens(config)] * embedding
    for layer in range(model.depth):
        block = {name.split(f"layers.{layer}.")[1]: w for name, w in weights.items() if f"layers.{layer}." in name}
        normed = rms_norm(x) * block["input_layernorm.weight"]
        x = x + residual * attention_by_hand(normed, block, config) @ block["self_attn.o_proj.weight"].T
        normed = rms_norm(x) * block["post_attention_layernorm.weight"]
        gate, up = (normed @ block[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + residual * (silu(gate) * up) @ block["mlp.down_proj.weight"].T
    head = weights["model.embed_tokens.weight" if model.tied else "lm_head.weight"]
    return output * (rms_norm(x) * weights["model.norm.weight"]) @ head.T


def attention_by_hand(x: Tensor, block: dict[str, nn.Parameter], config: RunConfig) -> Tensor:
    """Causal attention of one block, (B, S, D) -> (B, S, D), before its output matrix."""
    size = config.model.head_dim
    q, k, v = ((x @ block[f"self_attn.{name}.weight"].T).unflatten(-1, (-1, size)) for name in ATTENTION)
    if config.model.qk_norm:
        q, k = (rms_norm(y) * block[f"self_attn.{name}_norm.weight"] for y, name in ((q, "q"), (k, "k")))
    q, k, v = (y.transpose(1, 2) for y in (rotated(q, config), rotated(k, config), v))
    future = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)
    weights = (attention(config) * q @ k.transpose(-1, -2) + future).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(-2)


def rms_norm(x: Tensor) -> Tensor:
    """Each vector divided by the root of its mean square."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotated(x: Tensor, config: RunConfig) -> Tensor:
    """Rotary positions, (B, S, heads, size): coordinate i turns with coordinate i + size / 2."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]), config.model.rope_theta ** (-torch.arange(half) / half))
    turned = torch.view_as_complex(torch.stack(x.split(half, dim=-1), dim=-1).contiguous())
    turned = turned * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


@by_run
def test_the_forward_pass_is_that_of_plain_torch(config):
    check_forward(build(config.model, seed=0), config)


@by_run
@pytest.mark.parametrize("multiplier", ["embedding", "attention", "residual", "logits"])
def test_a_forward_multiplier_that_is_ignored_is_found(multiplier, config, monkeypatch):
    multipliers = train.model.forward_multipliers
    monkeypatch.setattr("train.model.forward_multipliers", lambda model: replace(multipliers(model), **{multiplier: 1}))
    with pytest.raises(AssertionError):
        check_forward(build(config.model, seed=0), config)


def test_missing_query_and_key_norms_are_found():
    normed = build(RUNS["normed"].model, seed=0)
    for block in normed.model.layers:
        block.self_attn.q_proj._forward_hooks.clear()
    with pytest.raises(AssertionError):
        check_forward(normed, RUNS["normed"])


# Steps of the optimizer.


def steps(network: nn.Module, rows: tuple[Row, ...], config: RunConfig, gradient: float) -> dict[str, tuple]:
    """Each parameter before and after one step of AdamW in which every gradient is the given number."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    AdamW(optimizer_groups(network, rows, config), betas=(0.9, 0.95)).step()
    return {name: (before[name], parameter.detach()) for name, parameter in network.named_parameters()}


def check_lr(network: nn.Module, rows: tuple[Row, ...], config: RunConfig) -> None:
    """The first step of Adam moves every entry by its learning rate, whatever the size of its gradient."""
    bare = with_optimizer(config, weight_decay=0.0, eps=1e-12)
    for name, (before, after) in steps(network, rows, bare, 1.0).items():
        lr = config.lr * expected(config, role_of(name), "lr_multiplier")
        assert (before - after).mean().item() == pytest.approx(lr, rel=1e-3), name


def check_decay(network: nn.Module, rows: tuple[Row, ...], config: RunConfig) -> None:
    """A step without a gradient is decay alone, by lr x weight decay of the role."""
    strong = with_optimizer(config, weight_decay=2.0)
    for name, (before, after) in steps(network, rows, strong, 0.0).items():
        role = role_of(name)
        shrinks = config.lr * expected(config, role, "lr_multiplier") * 2.0
        shrinks *= expected(config, role, "weight_decay_multiplier")
        assert (1 - after.norm() / before.norm()).item() == pytest.approx(shrinks, rel=1e-3, abs=1e-6), name


def check_eps(network: nn.Module, rows: tuple[Row, ...], config: RunConfig) -> None:
    """The step of a gradient as large as optimizer.eps shows the role's own eps: lr / (1 + eps multiplier)."""
    bare = with_optimizer(config, weight_decay=0.0)
    for name, (before, after) in steps(network, rows, bare, bare.optimizer.eps).items():
        role = role_of(name)
        step = config.lr * expected(config, role, "lr_multiplier") / (1 + expected(config, role, "eps_multiplier"))
        assert (before - after).mean().item() == pytest.approx(step, rel=1e-3), name


def with_optimizer(config: RunConfig, **changes) -> RunConfig:
    """The run with other fields of its optimizer."""
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update=changes)})


CHECKS: dict[str, Callable[..., None]] = {
    "lr_multiplier": check_lr,
    "weight_decay_multiplier": check_decay,
    "eps_multiplier": check_eps,
}


@by_rule_field
@by_run
def test_a_step_moves_every_parameter_as_its_role_says(config, field):
    network = build(config.model, seed=0)
    CHECKS[field](network, table(network, config), config)


@by_rule_field
def test_optimizer_groups_that_ignore_a_column_are_found(field):
    config = RUNS["mup"]
    network = build(config.model, seed=0)
    rows = tuple(replace(row, rule=replace(row.rule, **{field: 1.0})) for row in table(network, config))
    with pytest.raises(AssertionError):
        CHECKS[field](network, rows, config)


@by_rule_field
def test_a_group_that_takes_in_parameters_of_another_is_found(field):
    config = RUNS["mup"]
    network = build(config.model, seed=0)
    rows = table(network, config)
    other = next(row.rule for row in rows if row.role == "hidden")
    swapped = tuple(replace(row, rule=other) if row.role in ("embedding", "output") else row for row in rows)
    with pytest.raises(AssertionError):
        CHECKS[field](network, swapped, config)


# Roles that are not in every network.


def test_biases_start_at_zero_and_are_stepped_by_their_row():
    config = run_config()
    hf = granite_config(config.model)
    hf.attention_bias = hf.mlp_bias = True
    network = GraniteForCausalLM(hf)
    assert {role_of(name) for name, _ in network.named_parameters() if name.endswith("bias")} == {"bias"}
    initialise(network, config.model, seed=0)
    check_init(network, config)
    check_lr(network, table(network, config), config)
    check_eps(network, table(network, config), config)


def test_a_tied_head_is_the_embedding_and_no_parameter_of_its_own():
    network = build(RUNS["tied"].model, seed=0)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert not any(row.role == "output" for row in table(network, RUNS["tied"]))
    again = blank(RUNS["tied"].model)
    initialise(again, RUNS["tied"].model, seed=0)
    assert torch.equal(again.lm_head.weight, network.model.embed_tokens.weight)


# The base.


@pytest.mark.parametrize("shape", [{}, {"qk_norm": True}, {"tied": True}], ids=["plain", "normed", "tied"])
def test_at_base_width_and_depth_mup_trains_as_sp_bit_for_bit(shape):
    base = {"width": 32, "depth": 2, "base_head_dim": 8}
    mup, sp = (trained(run_config(parametrization, **base, **shape)) for parametrization in ("mup", "sp"))
    assert all(torch.equal(mup[name], sp[name]) for name in mup)
    deeper = [trained(run_config(parametrization, **base | {"depth": 3}, **shape)) for parametrization in ("mup", "sp")]
    assert not torch.equal(*(weights["model.norm.weight"] for weights in deeper))  # it is the base that is equal


def trained(config: RunConfig) -> dict[str, Tensor]:
    """Weights after three steps."""
    network = build(config.model, seed=0)
    optimizer = AdamW(optimizer_groups(network, table(network, config), config))
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(network(tokens(config)[:, :-1]).logits.flatten(0, 1), tokens(config)[:, 1:].flatten()).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in network.named_parameters()}
