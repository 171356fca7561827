"""Spikes are counted or left out, the average of the weights is that of its definition, and time is measured."""

import math
import time

import pytest
import torch
from torch import nn

from configs.rundir import read_metrics, read_status
from tests.train.conftest import assert_same_tensors, checkpoints_of, science, tensors_of
from train import attempt, loop
from train.data.prefetch import AHEAD, prefetched
from train.divergence import LEVEL_HALF_LIFE, MAX_SKIPPED, spikes
from train.ema import averaged, start_ema, update_ema
from train.pace import PACE, Pace


def spoil(monkeypatch, tokens, what):
    """Let the batches after the given tokens be `what`(batch) instead."""
    honest = loop.samples
    monkeypatch.setattr(
        loop,
        "samples",
        lambda store, config, plan, begin: (
            what(honest(store, config, plan, begin)) if begin in tokens else honest(store, config, plan, begin)
        ),
    )


def absurd(batch):
    """Text as no model expects it: its loss stands out once a little has been learnt."""
    return torch.flip(batch, dims=[1]) * 0 + torch.arange(batch.shape[1]) * 97 % 257


def test_a_spike_stands_out_from_the_running_mean_or_is_not_finite():
    keep = 0.5 ** (1 / LEVEL_HALF_LIFE)
    assert spikes([1.0, 1.0, math.nan, math.inf, 2.5], None, 2.0) == (3, keep + (1 - keep) * 2.0)
    assert spikes([100.0], None, 2.0) == (0, 100.0)
    far, _ = spikes([2.0] * (20 * LEVEL_HALF_LIFE), 1.5, 2.0)
    assert far == 0
    assert spikes([2.0] * LEVEL_HALF_LIFE, 1.0, 3.0)[1] == pytest.approx(1.5)


def test_how_often_is_logged_changes_no_spike():
    losses = [3.0, 2.9, 7.0, 2.8, 2.7, 6.0, 2.5]
    whole = spikes(losses, None, 2.0)
    first, level = spikes(losses[:4], None, 2.0)
    second, level = spikes(losses[4:], level, 2.0)
    assert (first + second, level) == whole


def test_a_run_that_only_skips_is_found_out_across_stops(run, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "look_ahead", lambda network, micro: math.nan)
    for _ in range(3):
        status = run(tmp_path / "run", "on_spike=skip", "budget_tokens=8192", stop_after=7)
    assert (status.state, status.skipped) == ("diverged", MAX_SKIPPED + 1)


def test_spikes_are_counted(run, tmp_path, monkeypatch):
    spoil(monkeypatch, {2560}, absurd)
    status = run(tmp_path / "run", "lr=2^-4")
    assert (status.state, status.spikes, status.skipped) == ("finished", 1, 0)
    assert [row["tokens"] for row in read_metrics(tmp_path / "run") if row.get("spikes")] == [3072]


def test_a_skipped_step_leaves_weights_and_moments_alone(run, tmp_path, monkeypatch):
    spoil(monkeypatch, {2560}, absurd)
    skipping = ("lr=2^-4", "on_spike=skip")
    run(tmp_path / "run", *skipping, stop_after=10)
    before = tensors_of(checkpoints_of(tmp_path / "run")[-1])
    status = run(tmp_path / "run", *skipping, stop_after=1)
    after = tensors_of(checkpoints_of(tmp_path / "run")[-1])
    assert (status.skipped, status.tokens) == (1, 2816)
    assert all(torch.equal(before[name], after[name]) for name in before)
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "skip"]
    last = [row["loss"] for row in read_metrics(tmp_path / "run") if row["kind"] == "train"][-1]
    assert [row["tokens"] for row in rows] == [2816]
    assert rows[0]["loss"] > 2 * last
    assert run(tmp_path / "run", *skipping).state == "finished"
    assert read_status(tmp_path / "run").skipped == 1


def test_looking_ahead_changes_no_number(run, tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "watched", "on_spike=skip", "spike_ratio=100")
    assert science(tmp_path / "plain") == science(tmp_path / "watched")
    assert_same_tensors(checkpoints_of(tmp_path / "plain")[-1], checkpoints_of(tmp_path / "watched")[-1])


def test_a_run_that_only_skips_has_diverged(run, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "look_ahead", lambda network, micro: math.nan)
    status = run(tmp_path / "run", "on_spike=skip", "budget_tokens=8192")
    assert status.state == "diverged"
    assert f"{MAX_SKIPPED + 1} steps in a row were skipped at {(MAX_SKIPPED + 1) * 256:,} tokens" in status.message


def test_the_average_has_the_half_life_that_was_asked():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = start_ema(network, None)
    nn.init.ones_(network.weight)
    for _ in range(8):
        update_ema(ema, network, 1 - 0.5 ** (256 / 2048))
    assert ema["weight"].item() == pytest.approx(0.5, rel=1e-6)


def test_the_weights_return_from_the_average_bit_for_bit():
    network = nn.Linear(4, 4).bfloat16()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    ema = {name: torch.full_like(p, 0.1, dtype=torch.float32) for name, p in network.named_parameters()}
    with averaged(network, ema):
        assert torch.equal(network.weight, torch.full((4, 4), 0.1).bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_the_average_is_validated_and_leaves_the_run_alone(run, tmp_path):
    plain = run(tmp_path / "plain")
    beside = run(tmp_path / "beside", "ema_half_life_tokens=512")
    assert [r.loss for r in beside.readouts] == [r.loss for r in plain.readouts]
    start, end = beside.readouts
    assert start.ema_loss == start.loss
    assert end.ema_loss not in (None, end.loss)
    assert end.ema_loss == pytest.approx(end.loss, rel=0.05)
    assert [r.ema_loss for r in plain.readouts] == [None, None]


def test_batches_come_in_order_ahead_of_time_and_errors_arrive():
    made = []

    def make(key):
        made.append(key)
        if key == 5:
            raise ValueError("no such batch")
        return key * 10

    batches = prefetched(make, range(10))
    assert next(batches) == (0, 0)
    time.sleep(0.2)
    assert made == list(range(AHEAD + 1)), "a bounded number of batches is made ahead"
    assert [next(batches) for _ in range(4)] == [(k, k * 10) for k in range(1, 5)]
    with pytest.raises(ValueError, match="no such batch"):
        next(batches)


def test_waiting_for_data_is_measured_and_validation_is_not():
    pace = Pace(100, lambda rate: rate / 1e6)

    def slow():
        for _ in range(4):
            time.sleep(0.03)
            yield None

    for _ in pace.waiting(slow()):
        time.sleep(0.01)
        pace.step()
    with pace.aside():
        time.sleep(0.2)
    row = pace.record()
    assert tuple(row) == PACE
    assert 0.4 < row["data_wait"] < 1
    assert 40 <= row["step_ms_p50"] <= row["step_ms_p95"]
    assert row["mfu"] == row["tokens_per_s"] / 1e6
    assert row["tokens_per_s"] <= 100 / 0.04


def test_the_time_of_every_record_is_logged(run, tmp_path):
    run(tmp_path / "run")
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    assert all(row["tokens_per_s"] > 0 and 0 <= row["data_wait"] <= 1 and row["mfu"] is None for row in rows)
