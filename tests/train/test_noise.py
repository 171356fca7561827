"""The probes of the gradient's noise: what they see is what autograd says, and the run does not know of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs.errors import ConfigError
from configs.load import load_run
from configs.moments import half_life_tokens, two_batch, whole_tokens
from configs.plan import Hardware, plan
from configs.rundir import read_metrics
from configs.svag import batch_weights
from tests.ranks import start_ranks, wait_for_ranks
from tests.train.conftest import RUN, assert_same_tensors, checkpoints_of, pinned, science
from train.build import built
from train.data.batches import open_split
from train.data.prepare import ensure_embedded
from train.engine import optimizer_step, start_distributed
from train.feed import micro_batch_weights, samples
from train.model import build, loss_of
from train.noise import KINDS, NoiseProbe, kind_of
from train.ranks import mean_over_ranks

SHORT = ("budget_tokens=2048", "engine.micro_batch_seqs=2")
ENGINES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]


def squares(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """Squared norms by kind of layer, (K,)."""
    sums = torch.zeros(len(KINDS), dtype=torch.float64)
    for name, gradient in gradients.items():
        sums[KINDS.index(kind_of(name))] += gradient.double().square().sum()
    return sums


def gradients_of(network: nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss_of(network, tokens).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def one_step(directory: Path, data_dir: Path, ranks: int, *overrides: str) -> tuple[list[float], Any, torch.Tensor]:
    """The record of one step, the same on all ranks; the run; this rank's tokens. At a clipping that acts."""
    (directory / "run.yaml").write_text(RUN)
    manifest = ensure_embedded(data_dir)
    config = pinned(load_run(directory / "run.yaml", ("optimizer.clip_norm=0.01", *overrides)), manifest)
    planned = plan(config, Hardware(ranks))
    with built(config, planned) as (engine, _):
        tokens = samples(open_split(manifest, "train", 32), config, planned, 0)
        probe = NoiseProbe(engine, config, planned)
        probe.begin(8, recorded=True)
        losses = (loss_of(engine, micro) for micro in tokens.split(planned.micro_batch_seqs))
        weights = micro_batch_weights(config, planned)
        optimizer_step(engine, losses, config.optimizer.clip_norm, weights, probe.after_backward)
        probe.after_step()
        (record,), (sizes,) = (mean_over_ranks(vectors) for vectors in probe.taken())
        assert sizes[1] > 0
    return [*record, *sizes], config, tokens


@pytest.mark.parametrize(("stage", "precision"), ENGINES)
def test_norms_of_micro_batches_and_of_their_mean_are_autograds(tmp_path, data_dir, process_group, stage, precision):
    how = (f"engine.zero_stage={stage}", f"precision={precision}", "log.noise=gradients", "engine.micro_batch_seqs=2")
    record, config, tokens = one_step(tmp_path, data_dir, 1, *how)
    network = build(config.model, config.seed)
    parts = [gradients_of(network, part) for part in tokens.split(2)]
    mean = {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}
    expected = [*torch.stack([squares(part) for part in parts]).mean(0).tolist(), *squares(mean).tolist()]
    assert record[: 2 * len(KINDS)] == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 0.03)
    assert record[-2] == pytest.approx(sum(float(p.double().square().sum()) for p in network.parameters()), rel=1e-2)


def two_ranks(directory: Path, data_dir: Path, overrides: tuple[str, ...]) -> int:
    """An entry of `tests.ranks`: leaves the record of one step and this rank's tokens."""
    start_distributed()
    record, _, tokens = one_step(directory, data_dir, 2, *overrides)
    rank = torch.distributed.get_rank()
    torch.save((record, tokens), directory / f"rank{rank}.pt")
    return 0


@pytest.mark.parametrize(
    ("stage", "precision", "noise"),
    [
        (0, "fp32", "gradients"),
        (1, "bf16", "gradients"),
        (2, "fp32", "gradients"),
        (3, "fp32", "gradients"),
        (3, "fp32", "gains"),
    ],
)
def test_ranks_are_micro_batches(tmp_path, data_dir, process_group, stage, precision, noise):
    how = (f"engine.zero_stage={stage}", f"precision={precision}", f"log.noise={noise}", "engine.micro_batch_seqs=2")
    ranks = start_ranks(2, two_ranks, tmp_path, data_dir, how, log=tmp_path / "log.txt")
    assert wait_for_ranks(ranks) == [0, 0], (tmp_path / "log.txt").read_text()
    (first, one), (second, other) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert first == second
    alone, _, tokens = one_step(tmp_path, data_dir, 1, *how)
    assert torch.equal(torch.cat([one, other]), tokens)
    assert first[: 2 * len(KINDS)] == pytest.approx(alone[: 2 * len(KINDS)], rel=1e-4 if precision == "fp32" else 0.03)
    assert first[-2:] == pytest.approx(alone[-2:], rel=1e-3)


RECOMPUTED = "engine.activation_checkpointing=true"


@pytest.mark.parametrize(("stage", "shape"), [(0, ()), (2, ()), (3, ("model.qk_norm=true",)), (0, (RECOMPUTED,))])
def test_norms_of_sequences_are_autograds_of_one_sequence_at_a_time(tmp_path, data_dir, process_group, stage, shape):
    how = (f"engine.zero_stage={stage}", "log.noise=gains", "engine.micro_batch_seqs=4", *shape)
    record, config, tokens = one_step(tmp_path, data_dir, 1, *how)
    network = build(config.model, config.seed)
    gains = {name for name, _ in network.named_parameters() if kind_of(name) == "norm"}

    def of_gains(part: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: gradient for name, gradient in gradients_of(network, part).items() if name in gains}

    sequences = [of_gains(sequence) for sequence in tokens.split(1)]
    expected = [*torch.stack([squares(g) for g in sequences]).mean(0).tolist(), *squares(of_gains(tokens)).tolist()]
    assert record[: 2 * len(KINDS)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("noise", ["gradients", "gains"])
def test_under_svag_the_weights_are_undone(tmp_path, data_dir, process_group, noise):
    how = (f"log.noise={noise}", "engine.micro_batch_seqs=4", "optimizer.svag=4", "optimizer.clip_norm=0")
    record, config, tokens = one_step(tmp_path, data_dir, 1, *how)
    network = build(config.model, config.seed)
    size = 4 if noise == "gradients" else 1
    parts = [gradients_of(network, part) for part in tokens.split(size)]
    weights = [w * size / 8 for w in batch_weights(4) for _ in range(8 // size)]
    whole = {n: torch.stack([w * part[n] for w, part in zip(weights, parts, strict=True)]).sum(0) for n in parts[0]}
    small, big = torch.stack([squares(part) for part in parts]).mean(0), squares(whole)
    watched = slice(None) if noise == "gradients" else slice(KINDS.index("norm"), KINDS.index("norm") + 1)
    count = len(KINDS)
    assert record[:count][watched] == pytest.approx(small[watched].tolist(), rel=1e-4)
    assert record[count : 2 * count][watched] == pytest.approx(big[watched].tolist(), rel=1e-4)
    assert whole_tokens(config) == pytest.approx(32 * size / sum(w**2 for w in weights))


def test_both_moments_are_unbiased_under_svags_weights_too():
    """Gaussian gradients of 1 token: |G|^2 = 1, tr Sigma = 50."""
    random, dim = torch.Generator().manual_seed(0), 20
    mean = torch.full((dim,), dim**-0.5)
    for weights in ([0.25] * 4, [w / 2 for w in batch_weights(2) for _ in range(2)]):
        parts = mean + (50 / dim) ** 0.5 * torch.randn(20_000, 4, dim, generator=random)
        whole = (parts * torch.tensor(weights).view(1, 4, 1)).sum(1)
        big = 1 / sum(w**2 for w in weights)
        found = two_batch(parts.square().sum(-1).mean(1), whole.square().sum(-1), 1.0, big)
        for values, truth in zip(found, (1.0, 50.0), strict=True):
            assert abs(float(values.mean()) - truth) < 3 * float(values.std()) / 20_000**0.5


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "fp32")])
def test_a_run_is_the_same_bit_for_bit_with_probes(run, tmp_path, stage, precision):
    how = (*SHORT, f"engine.zero_stage={stage}", f"precision={precision}", "optimizer.clip_norm=0.5")
    run(tmp_path / "plain", *how)
    for noise in ("gradients", "gains"):
        run(tmp_path / noise, *how, f"log.noise={noise}")
        assert [row for row in science(tmp_path / noise) if row["kind"] != "noise"] == science(tmp_path / "plain")
        assert_same_tensors(checkpoints_of(tmp_path / noise)[-1], checkpoints_of(tmp_path / "plain")[-1])
        assert [row["of"] for row in read_metrics(tmp_path / noise) if row["kind"] == "noise"]


@pytest.mark.parametrize(("stage", "noise"), [(0, "gains"), (1, "gradients")])
def test_a_run_cut_anywhere_records_the_same_noise(run, tmp_path, stage, noise):
    how = (*SHORT, f"engine.zero_stage={stage}", f"log.noise={noise}", "log.every_tokens=1024")
    run(tmp_path / "whole", *how)
    for stop_after in (1, 3):
        assert run(tmp_path / "cut", *how, stop_after=stop_after).state == "preempted"
    run(tmp_path / "cut", *how)
    assert science(tmp_path / "cut") == science(tmp_path / "whole")


def test_a_record_says_what_was_measured(run, tmp_path):
    run(tmp_path / "run", "engine.micro_batch_seqs=2", "log.noise=gradients", "log.every_tokens=512", "model.tied=true")
    metrics = read_metrics(tmp_path / "run")
    rows = [row for row in metrics if row["kind"] == "noise"]
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in metrics if row["kind"] == "train"]
    assert {row["steps"] for row in rows} == {1}  # every second one
    for row in rows:
        for moment in ("mean_sq", "trace"):
            by_kind = [value for name, value in row.items() if name.startswith(f"{moment}_")]
            assert len(by_kind) == 4
            assert sum(by_kind) == pytest.approx(row[moment], rel=1e-6)
        assert row["snr"] == pytest.approx(256 * row["mean_sq"] / row["trace"])
        assert row["update_norm_per_token"] * 256 < row["weights_norm"]
    for end, row in enumerate(rows):
        ages = [(row["tokens"] - r["tokens"]) / half_life_tokens(4096) for r in rows[: end + 1]]
        sums = [sum(0.5**age * r[m] for age, r in zip(ages, rows, strict=False)) for m in ("trace", "mean_sq")]
        assert row["noise_scale"] == (pytest.approx(sums[0] / sums[1], rel=1e-6) if sums[1] > 0 else None)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (("log.noise=gradients",), r"log.noise = gradients: .* parts of 256 tokens.* log.noise = gains"),
        (("log.noise=gains", "batch_tokens=32", "log.every_tokens=32"), r"log.noise = gains: .* larger batch_tokens"),
        (("log.noise=gradients", "engine.micro_batch_seqs=2", "optimizer.svag=2", "optimizer.clip_norm=0"), "as noisy"),
    ],
)
def test_one_batch_size_is_none_too_many(run, tmp_path, how, says):
    with pytest.raises(ConfigError, match=says):
        run(tmp_path / "run", *how)
