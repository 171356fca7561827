"""The table of parameters, against mup, against standard parametrisation, and after DeepSpeed has wrapped it."""

import math

import pytest
import torch

from configs.plan import Hardware, plan
from configs.schema import ModelConfig, OptimizerConfig, RunConfig
from train.model import build, loss_of, skeleton
from train.parametrization import ParametrizationError, check_against_mup, role_of, table, verify

BASE = ModelConfig(width=32, base_width=32, depth=2, head_dim=16, seq_len=16)
WIDE = BASE.model_copy(update={"width": 128})
WIDE_HEADS = BASE.model_copy(update={"width": 128, "head_dim": 64, "base_head_dim": 16})


@pytest.mark.parametrize("model", [BASE, WIDE, WIDE_HEADS], ids=["base", "more heads", "wider heads"])
def test_mup_agrees_with_the_table(model):
    rows = verify(skeleton(model), model)
    assert {row.role for row in rows} == {"embedding", "hidden", "residual_out", "norm", "output"}


def test_a_wrong_role_is_found_by_mup_and_named(monkeypatch):
    monkeypatch.setattr("train.parametrization.role_of", lambda name: "norm" if "q_proj" in name else role_of(name))
    with pytest.raises(ParametrizationError, match=r"layers\.0\.self_attn\.q_proj.*mup infers 2"):
        verify(skeleton(WIDE), WIDE)


def test_a_wrong_multiplier_is_found_by_mup_and_named():
    rows = table(skeleton(WIDE), WIDE.model_copy(update={"width": 64}))  # the multipliers of another width
    base, delta = skeleton(BASE), skeleton(BASE.model_copy(update={"width": 64}))
    with pytest.raises(ParametrizationError, match=r"q_proj.*0\.5.*fan-in ratio is 4"):
        check_against_mup(skeleton(WIDE), base, delta, rows, WIDE)


def test_an_unknown_name_is_an_error():
    with pytest.raises(ParametrizationError, match=r"model\.layers\.0\.router\.weight"):
        role_of("model.layers.0.router.weight")


def test_mup_at_base_width_is_standard_parametrisation_bit_for_bit():
    standard = BASE.model_copy(update={"parametrization": "sp"})
    tokens = torch.arange(16).reshape(1, 16)
    mine, theirs = build(BASE, seed=3), build(standard, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(mine(tokens).logits, theirs(tokens).logits)
    mup_rows, sp_rows = table(mine, BASE), table(theirs, standard)
    assert mup_rows == sp_rows


def test_initial_weights_have_the_table_s_spread():
    network = build(WIDE, seed=0)
    parameters = dict(network.named_parameters())
    for row in table(network, WIDE):
        if row.role not in ("norm", "bias"):
            values = parameters[row.name]
            tolerance = 5 / math.sqrt(2 * values.numel())  # five standard errors of a standard deviation
            assert values.std().item() == pytest.approx(row.rule.init_std, rel=tolerance), row.name


def test_the_seed_and_nothing_else_decides_the_weights():
    again, other = build(BASE, seed=0), build(BASE, seed=1)
    torch.manual_seed(5)
    same = build(BASE, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), same.parameters(), strict=True))
    assert not torch.equal(again.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_keeps_every_group_and_its_rate(stage, process_group):
    from train.engine import check_groups, optimizer_step, set_lr, wrap

    config = RunConfig(
        model=WIDE,
        lr=2**-6,
        batch_tokens=64,
        budget_tokens=640,
        optimizer=OptimizerConfig(weight_decay=0.1),
        engine={"zero_stage": stage},
    )
    network = build(WIDE, 0)
    rows = verify(network, WIDE)
    engine = wrap(network, rows, config, plan(config, Hardware(world_size=1)))
    tokens = torch.arange(68).reshape(4, 17)
    for step in range(3):
        set_lr(engine, config.lr * (step + 1) / 4)
        optimizer_step(engine, [loss_of(engine, tokens)], config.optimizer.clip_norm)
    last = config.model_copy(update={"lr": config.lr * 0.75})
    check_groups(engine, rows, last)
    with pytest.raises(ParametrizationError, match=r"embed_tokens\.weight: lr"):
        check_groups(engine, rows, config)
    engine.optimizer.param_groups[1]["weight_decay"] = 0.5
    with pytest.raises(ParametrizationError, match="weight_decay"):
        check_groups(engine, rows, last)
    engine.destroy()
