"""The table of parameters, against mup, against standard parametrisation, and after DeepSpeed has wrapped it."""

from dataclasses import replace

import pytest
import torch

from configs.plan import Hardware, plan
from configs.schema import ModelConfig, RunConfig
from tests.configs.mup_cells import run_config
from train.model import build, loss_of, skeleton
from train.parametrization import ParametrizationError, base_shapes, check_against_mup, role_of, table, verify

BASE = ModelConfig(width=32, base_width=32, depth=2, head_dim=16, seq_len=16)
WIDE = RunConfig(model=BASE.model_copy(update={"width": 128}))
ROLES = {"embedding", "hidden", "residual_out", "norm", "final_norm"}
SHAPES = {
    "base": {},
    "more heads": {"width": 128},
    "wider heads": {"width": 128, "head_dim": 64, "base_head_dim": 16},
    "deeper": {"width": 64, "depth": 4, "base_depth": 2, "depth_alpha": 0.5},
    "normed": {"width": 128, "head_dim": 64, "base_head_dim": 16, "qk_norm": True},
    "tied": {"width": 128, "tied": True},
}


def run_of(**changes: object) -> RunConfig:
    return RunConfig(model=BASE.model_copy(update=changes))


@pytest.mark.parametrize("parametrization", ["mup", "sp"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mup_agrees_with_the_table(shape, parametrization):
    config = run_of(parametrization=parametrization, **shape)
    rows = verify(skeleton(config.model), config)
    assert {row.role for row in rows} == ROLES | ({"output"} if not config.model.tied else set())


def test_a_wrong_role_is_found_by_mup_and_named(monkeypatch):
    monkeypatch.setattr("train.parametrization.role_of", lambda name: "norm" if "q_proj" in name else role_of(name))
    with pytest.raises(ParametrizationError, match=r"layers\.0\.self_attn\.q_proj.*mup infers 2"):
        verify(skeleton(WIDE.model), WIDE)


def test_a_wrong_fan_in_is_found_by_mup_and_named():
    rows = table(skeleton(WIDE.model), run_of(width=64))  # the table of another width
    with pytest.raises(ParametrizationError, match=r"q_proj.*fan-in ratio 2, mup's is 4"):
        check_against_mup(skeleton(WIDE.model), base_shapes(BASE), rows, WIDE)


@pytest.mark.parametrize("config", [WIDE, run_of(width=128, depth=4, base_depth=2, depth_alpha=0.5)])
def test_a_wrong_learning_rate_is_found_by_mup_and_named(config):
    rows = table(skeleton(config.model), config)
    wrong = tuple(replace(row, rule=replace(row.rule, lr_multiplier=0.5)) for row in rows)
    with pytest.raises(ParametrizationError, match=r"q_proj.*lr multiplier 0\.5, mup's fan-in ratio is 4"):
        check_against_mup(skeleton(config.model), base_shapes(config.model), wrong, config)


def test_a_model_of_other_shapes_than_its_configuration_is_found():
    with pytest.raises(ParametrizationError, match="shapes differ"):
        verify(skeleton(BASE.model_copy(update={"width": 64})), WIDE)


def test_an_unknown_name_is_an_error():
    with pytest.raises(ParametrizationError, match=r"model\.layers\.0\.router\.weight"):
        role_of("model.layers.0.router.weight")


@pytest.mark.parametrize("shape", [{}, {"qk_norm": True}, {"tied": True}], ids=["plain", "normed", "tied"])
def test_mup_at_base_width_is_standard_parametrisation_bit_for_bit(shape):
    at_base, standard = run_of(base_depth=2, **shape), run_of(parametrization="sp", **shape)
    assert_same_bits(at_base, standard)


@pytest.mark.parametrize("width", [32, 128])
def test_at_its_base_depth_a_model_is_as_if_depth_were_not_scaled_bit_for_bit(width):
    assert_same_bits(run_of(width=width, base_depth=2, depth_alpha=0.5), run_of(width=width))


def assert_same_bits(one: RunConfig, other: RunConfig) -> None:
    """The same initial weights, the same logits, the same table."""
    tokens = torch.arange(16).reshape(1, 16)
    mine, theirs = (build(config.model, seed=3) for config in (one, other))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(mine(tokens).logits, theirs(tokens).logits)
    assert table(mine, one) == table(theirs, other)


def test_the_seed_and_nothing_else_decides_the_weights():
    again, other = build(BASE, seed=0), build(BASE, seed=1)
    torch.manual_seed(5)
    same = build(BASE, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))
    assert not torch.equal(again.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_keeps_every_group_and_its_rate(stage, process_group):
    from train.engine import check_groups, optimizer_step, set_groups, set_lr, wrap

    config = run_config(depth=3).model_copy(update={"batch_tokens": 64, "budget_tokens": 640})
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": stage})})
    network = build(config.model, 0)
    rows = verify(network, config)
    engine = wrap(network, rows, config, plan(config, Hardware(world_size=1)))
    tokens = torch.arange(68).reshape(4, 17) % 48
    for step in range(3):
        set_lr(engine, config.lr * (step + 1) / 4)
        optimizer_step(engine, [loss_of(engine, tokens)], config.optimizer.clip_norm)
    last = config.model_copy(update={"lr": config.lr * 0.75})
    check_groups(engine, rows, last)
    with pytest.raises(ParametrizationError, match=r"embed_tokens\.weight: lr"):
        check_groups(engine, rows, config)
    held = engine.optimizer.param_groups[1]
    for key, wrong in (("weight_decay", 0.5), ("eps", 0.5), ("betas", (0.5, 0.95)), ("betas", (0.9, 0.5))):
        right, held[key] = held[key], wrong
        with pytest.raises(ParametrizationError, match=key.removesuffix("s") if key == "betas" else key):
            check_groups(engine, rows, last)
        held[key] = right
    check_groups(engine, rows, last)
    for group in engine.optimizer.param_groups:  # as a checkpoint of another run would leave them
        group.update(lr_multiplier=7.0, weight_decay=7.0, eps=7.0, betas=(0.7, 0.7))
    set_groups(engine, rows, config)
    set_lr(engine, config.lr)
    check_groups(engine, rows, config)
    engine.destroy()
