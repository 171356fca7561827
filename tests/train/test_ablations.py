"""The fields of an ablation through the real engine: every ZeRO stage trains one model, which stops, moves, goes on."""

import shutil

import pytest
import torch
from transformers.models.granite import modeling_granite

from configs.plan import Hardware, plan
from configs.rundir import Status
from configs.schema import ModelConfig, RunConfig
from tests.train.conftest import assert_same_tensors, checkpoints_of, science
from train.build import built
from train.engine import optimizer_step, set_lr
from train.model import build, loss_of, skeleton
from train.parametrization import role_of
from train.universal import convert

SHORT = ("budget_tokens=2048", "schedule.warmup_tokens=512", "optimizer.weight_decay=0.02", "lr=2^-5")  # 8 steps
QK_NORM = (
    "model.qk_norm=true",
    "model.depth=2",
    "model.base_depth=1",
    "model.depth_alpha=0.75",
    "optimizer.decay_rule=independent",
)
TIED = (
    "model.tied=true",
    "model.embedding_init_std=0.25",
    "model.embedding_multiplier=4",
    "model.output_multiplier=1",
    "model.residual_multiplier=1",
    "model.embedding_lr_multiplier=0.5",
    "optimizer.decay_rule=group_lr",
)
MOVES = {("fp32", 0): 3, ("fp32", 1): 2, ("fp32", 3): 0, ("bf16", 1): 2}  # layout -> stage on which it goes on
TOLERANCE = {"fp32": 5e-7, "bf16": 1e-3}  # of losses, relative to fp32 at stage 0; seen: 7e-8, 4e-4


@pytest.mark.parametrize("fields", [QK_NORM, TIED], ids=["qk_norm", "tied"])
def test_every_stage_trains_the_same_model_and_goes_on_from_another(run, tmp_path, fields):
    first: list[float] = []
    for precision, stage in (("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1)):
        how = (*SHORT, *fields, f"precision={precision}")
        if stage in (1, 2):  # stages 0 and 3 go on from each other, and 3 keeps no average
            how += ("ema_half_life_tokens=512",)
        here, where = f"engine.zero_stage={stage}", f"{precision} at stage {stage}"
        whole, cut, moved = (tmp_path / where / kind for kind in ("whole", "cut", "moved"))
        expected = run(whole, *how, here)
        run(cut, *how, here, stop_after=3)
        shutil.copytree(cut, moved)
        run(cut, *how, here, "engine.activation_checkpointing=true")
        assert science(cut) == science(whole), where
        assert_same_tensors(checkpoints_of(cut)[-1], checkpoints_of(whole)[-1])
        first = first or losses(expected, "loss", "train_loss")
        assert losses(expected, "loss", "train_loss") == pytest.approx(first, rel=TOLERANCE[precision]), where
        if (target := MOVES.get((precision, stage))) is not None:
            convert(checkpoints_of(moved)[-1])
            there = run(moved, *how, f"engine.zero_stage={target}")
            assert losses(there) == pytest.approx(losses(expected), rel=TOLERANCE[precision]), where


def losses(status: Status, *kinds: str) -> list[float]:
    """The losses of a finished run, by default that of its average too."""
    assert status.state == "finished"
    kinds = kinds or ("loss", "train_loss", "ema_loss")
    found = [getattr(readout, kind) for readout in status.readouts for kind in kinds]
    return [loss for loss in found if loss is not None]


def test_a_block_with_norms_is_compiled_whole():
    """Hooks that break its graph would make the compiled block slower than it need be."""
    model = ModelConfig(width=32, base_width=32, depth=1, seq_len=16, qk_norm=True)
    plain, compiled = build(model, 0), build(model, 0)
    for block in compiled.model.layers:
        block.compile(backend="eager", fullgraph=True)
    tokens = torch.arange(34).reshape(2, 17)
    for network in (plain, compiled):
        loss_of(network, tokens).backward()
    assert all(p.grad is not None for p in plain.parameters())
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_kernels_that_replace_norms_replace_those_of_queries_and_keys(monkeypatch):
    class Fused(modeling_granite.GraniteRMSNorm):
        pass

    monkeypatch.setattr(modeling_granite, "GraniteRMSNorm", Fused)
    norms = [module for name, module in skeleton(ModelConfig(depth=1, qk_norm=True)).named_modules() if "norm" in name]
    assert [type(norm) for norm in norms] == 5 * [Fused]


PEAK, SHAPE, DECAY = 0.5, 0.25, 0.5  # of the learning rate: peak and schedule


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize(
    ("rule", "hidden", "output"),
    [
        ("base_lr", PEAK * SHAPE * DECAY, PEAK * SHAPE * DECAY),
        ("group_lr", PEAK * SHAPE * DECAY / (2 * 4**0.5), PEAK * SHAPE * DECAY),  # twice as wide, 4 times as deep
        ("independent", SHAPE * DECAY, SHAPE * DECAY),
    ],
)
def test_a_step_without_gradient_shrinks_weights_by_what_the_rule_says(process_group, rule, hidden, output, stage):
    config = RunConfig.model_validate(
        {
            "model": {
                "width": 32,
                "base_width": 16,
                "depth": 4,
                "base_depth": 1,
                "depth_alpha": 0.5,
                "seq_len": 16,
                "qk_norm": True,
                "embedding_lr_multiplier": 3,
            },
            "optimizer": {"weight_decay": DECAY, "decay_rule": rule},
            "engine": {"zero_stage": stage},
            "lr": PEAK,
            "batch_tokens": 32,
            "budget_tokens": 320,
        }
    )
    shrunk = {"hidden": hidden, "residual_out": hidden, "output": output}
    with built(config, plan(config, Hardware(1))) as (engine, _):
        before = {name: parameter.detach().clone() for name, parameter in engine.module.named_parameters()}
        set_lr(engine, PEAK * SHAPE)
        optimizer_step(engine, [0 * loss_of(engine, torch.zeros(2, 17, dtype=torch.int64))], 1.0)
        assert {role_of(name) for name in before} == {"embedding", "norm", "final_norm", *shrunk}
        for name, parameter in engine.module.named_parameters():
            kept = 1 - shrunk.get(role_of(name), 0.0)
            torch.testing.assert_close(parameter.detach(), kept * before[name], rtol=1e-6, atol=0, msg=name)
