"""GI-Adam: its warmup, what it does to the pre-conditioner, and that DeepSpeed starts it once and only once."""

from math import sqrt

import pytest
import torch

from configs.errors import ConfigError
from configs.plan import Hardware, plan
from configs.schema import OptimizerConfig, RunConfig
from tests.ranks import start_ranks, wait_for_ranks
from tests.train.conftest import assert_same_tensors, checkpoints_of, science
from tests.train.universal_ranks import BATCH_SEQS, SEQ_LEN, config_of, go_on, held
from train.build import built
from train.engine import optimizer_step, set_lr, start_distributed, stop_distributed
from train.model import build, loss_of
from train.optimizers import make_optimizer
from train.second_moment import initial_second_moment, start_second_moment
from train.sharpness import preconditioner

CLIP = 0.7


def walked(steps: int, v_of_gradient, weights, gradients, lr=0.01, beta2=0.999) -> list[torch.Tensor]:
    """Our AdamW's positions, with v set before its first step as train.second_moment does."""
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = make_optimizer(
        [{"params": [parameter], "lr": lr, "weight_decay": 0.0, "eps": 1e-12}], OptimizerConfig(beta2=beta2)
    )
    zeros = torch.zeros_like(weights)
    optimizer.state[parameter] = {
        "step": torch.tensor(0.0),
        "exp_avg": zeros.clone(),
        "exp_avg_sq": v_of_gradient(gradients[0]),
    }
    positions = [parameter.detach().clone()]
    for gradient in gradients[:steps]:
        parameter.grad = gradient.clone()
        optimizer.step()
        positions.append(parameter.detach().clone())
    return positions


def test_a_constant_gradient_gives_the_warmup_of_the_paper():
    gradient = torch.tensor([3.0, -0.1, 1e-3], dtype=torch.float64)
    start = initial_second_moment("gradient", {"w": gradient}, 0)["w"].double()
    positions = walked(1000, lambda g: start.clone(), torch.zeros(3, dtype=torch.float64), [gradient] * 1000)
    for t in (1, 2, 10, 100, 1000):
        step = positions[t - 1] - positions[t]
        expected = 0.01 * sqrt(1 - 0.999**t) * gradient.sign()
        torch.testing.assert_close(step, expected, rtol=1e-5, atol=0)
    assert sqrt(1 - 0.999) == pytest.approx(0.0316, abs=1e-4)


def test_a_zero_start_is_torchs_adamw():
    random = torch.Generator().manual_seed(0)
    weights, gradients = torch.randn(7, generator=random), [torch.randn(7, generator=random) for _ in range(20)]
    ours = walked(20, torch.zeros_like, weights, gradients)[-1]
    parameter = torch.nn.Parameter(weights.clone())
    theirs = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0, foreach=False)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        theirs.step()
    torch.testing.assert_close(ours, parameter.detach(), rtol=1e-7, atol=1e-7)


def test_the_first_preconditioner_grows_by_31_6():
    """So the pre-conditioned sharpness before the first step falls by as much."""
    gradient, ones = torch.randn(50, dtype=torch.float64).abs() + 0.1, torch.ones(50, dtype=torch.float64)
    optimizer = OptimizerConfig(beta2=0.999, clip_norm=0.0)
    v = initial_second_moment("gradient", {"w": gradient}, 0)["w"].double()
    p, plain = (preconditioner(optimizer, start, gradient, 0, 1e-12 * ones, ones) for start in (v, 0 * v))
    assert p is not None
    assert plain is not None
    torch.testing.assert_close(p / plain, ones / sqrt(1 - 0.999), rtol=1e-6, atol=0)


def test_the_control_keeps_the_size_and_nothing_else():
    gradients = {"a": torch.randn(40, 5), "b": 100 * torch.randn(7)}
    norm = sqrt(sum(g.square().sum().item() for g in gradients.values()))
    v = initial_second_moment("random", gradients, 0)
    assert sqrt(sum(x.sum().item() for x in v.values())) == pytest.approx(norm, rel=1e-5)
    assert v["a"].mean() == pytest.approx(v["b"].mean(), rel=1.0)  # b's gradient was 100 times as large
    again, other = (initial_second_moment("random", gradients, seed) for seed in (0, 1))
    assert torch.equal(v["a"], again["a"])
    assert not torch.equal(v["a"], other["a"])


def configured(precision: str, stage: int, kind: str) -> RunConfig:
    config = config_of(precision, stage)
    return config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"second_moment": kind, "beta2": 0.99})}
    )


def first_gradient(config: RunConfig) -> dict[str, torch.Tensor]:
    """That of the first batch of tests.train.universal_ranks.go_on, by a plain backward pass, clipped."""
    twin = build(config.model, config.seed)
    batch = torch.randint(16, (BATCH_SEQS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0)) ** 2
    loss_of(twin, batch).backward()
    assert torch.nn.utils.clip_grad_norm_(twin.parameters(), CLIP) > CLIP
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def check(config: RunConfig, found: dict[str, torch.Tensor]) -> None:
    """v after one step, which saw the same gradient again: 0.99 v_0 + 0.01 g^2."""
    gradients = first_gradient(config)
    v = initial_second_moment(config.optimizer.second_moment, gradients, config.seed)
    for name, gradient in gradients.items():
        expected = 0.99 * v[name] + 0.01 * gradient**2
        error = (found[f"{name}/exp_avg_sq"] - expected).norm() / expected.norm()
        assert error < (1e-5 if config.precision == "fp32" else 0.05), name


@pytest.mark.parametrize("kind", ["gradient", "random"])
@pytest.mark.parametrize(("precision", "stage"), [*(("fp32", s) for s in range(4)), ("bf16", 1), ("bf16", 3)])
def test_every_engine_starts_from_it(process_group, precision, stage, kind):
    """Three micro-batches, three optimizer groups, and clipping that acts."""
    config = configured(precision, stage, kind)
    run = config.model_copy(update={"seed": 0})
    with built(run, plan(run, Hardware(1))) as (engine, _):
        set_lr(engine, 2**-8)
        batch = torch.randint(16, (BATCH_SEQS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0)) ** 2
        parts = (loss_of(engine, part) for part in batch.split(4))
        optimizer_step(engine, parts, CLIP, before=lambda: start_second_moment(engine, run))
        found = held(engine)
        assert found["step"] == 1
        check(run, found)
        go_on(engine, run, 1, 3)
        assert held(engine)["step"] == 3


def two_ranks(out, stage: int) -> int:
    """One step of GI-Adam as one of two ranks."""
    start_distributed()
    config = configured("fp32", stage, "gradient")
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    with built(config, plan(config, Hardware(world))) as (engine, _):
        set_lr(engine, 2**-8)
        batch = torch.randint(16, (BATCH_SEQS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0)) ** 2
        parts = (loss_of(engine, part) for part in batch.chunk(world)[rank].split(3))
        optimizer_step(engine, parts, CLIP, before=lambda: start_second_moment(engine, config))
        found = held(engine)
    if rank == 0:
        torch.save(found, out)
    stop_distributed()
    return 0


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_start_from_the_gradient_of_both(tmp_path, stage):
    ranks = start_ranks(2, two_ranks, tmp_path / "two.pt", stage, log=tmp_path / "log")
    assert wait_for_ranks(ranks) == [0, 0], (tmp_path / "log").read_text()
    check(configured("fp32", stage, "gradient"), torch.load(tmp_path / "two.pt"))


@pytest.mark.parametrize(("kind", "stage"), [("gradient", 0), ("gradient", 2), ("random", 3)])
def test_a_resumed_run_does_not_start_again(run, tmp_path, kind, stage):
    asked = (f"optimizer.second_moment={kind}", f"engine.zero_stage={stage}", "optimizer.beta2=0.999")
    run(tmp_path / "whole", *asked)
    for steps in (1, 4, None):
        status = run(tmp_path / "cut", *asked, stop_after=steps)
    assert status.state == "finished"
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert_same_tensors(checkpoints_of(tmp_path / "cut")[-1], checkpoints_of(tmp_path / "whole")[-1])
    run(tmp_path / "plain", *asked[1:])
    assert science(tmp_path / "plain") != science(tmp_path / "whole")


def test_gi_adam_leaves_a_first_step_out_if_it_is_skipped(run, tmp_path, monkeypatch):
    """v is started by the first step that is taken, whichever that is."""
    from train import attempt

    honest, seen = attempt.spikes, iter([True, True])

    def spikes(losses, level, ratio):
        return next(seen, False), honest(losses, level, ratio)[1]

    monkeypatch.setattr(attempt, "spikes", spikes)
    status = run(tmp_path / "run", "optimizer.second_moment=gradient", "on_spike=skip")
    assert (status.state, status.skipped) == ("finished", 2)


def test_other_optimizers_have_no_such_start():
    config = config_of("fp32", 0)
    optimizer = config.optimizer.model_copy(update={"kind": "rmsprop", "second_moment": "gradient"})
    with pytest.raises(ConfigError, match=r"second_moment = gradient: .* = rmsprop has no bias"):
        plan(config.model_copy(update={"optimizer": optimizer}), Hardware(1))
