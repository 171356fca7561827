"""The measurement behind `bcrit surge`: on a quadratic with known Hessian and noise, and on a run's checkpoint."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from analysis.line_search import Search, measure
from analysis.surge_prediction import Prediction, Sums, predict_surge
from analysis.surge_theory import sign_optimum, sign_scales
from configs.errors import ConfigError
from configs.identity import run_id
from configs.rundir import read_config, read_json
from launch.cli import main
from tests.analysis.coverage import holds
from tests.analysis.test_surge_prediction import Toy, toy
from train import surge_checkpoint
from train.probe import Probe, gradient, hessian_times, loss_of_batch, moved, probe_of
from train.surge_checkpoint import Sampling, check_sampling, hessian_sums, moments, steps

MULTIPLIER = (1.0, 0.25)  # of the two parameters' learning rates


def quadratic(q: Toy, seed: int = 0) -> Probe:
    """Loss g.phi + phi.H phi / 2 of 40 coordinates phi in two parameters theta = m phi; a sequence is its own g."""
    parts = (nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(6, 4)))
    hessian, mu, sigma = (torch.tensor(x, dtype=torch.float32) for x in (q.hessian, q.mu, q.sigma))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        phi = torch.cat([part.flatten() / m for part, m in zip(parts, MULTIPLIER, strict=True)])
        return batch.mean(0) @ phi + phi @ hessian @ phi / 2

    def draw(first: int, count: int) -> torch.Tensor:
        rows = [np.random.default_rng([seed, i]).standard_normal(40) for i in range(first, first + count)]
        return mu + sigma * torch.tensor(np.array(rows), dtype=torch.float32)

    return Probe(parts, MULTIPLIER, loss, draw, available_seqs=10**9, seq_len=8, piece_seqs=64)


def all_passes(probe: Probe, sampling: Sampling, folder: Path) -> tuple[Prediction, list[dict]]:
    done = [0.0, sampling.work()]

    def advance(work: float, more: float) -> None:
        done[0], done[1] = done[0] + work, done[1] + more

    found = moments(probe, sampling, folder / "moments.pt", advance)
    sums = hessian_sums(probe, sampling, found, folder / "hessian.json", advance)
    rows = steps(probe, sampling, found, 1e-3, folder / "steps.json", advance)
    assert done[0] == pytest.approx(done[1])  # so that a progress bar ends at its end
    sums |= {"signs_along": [row["along"] for row in rows], "signs_bend": [row["bend"] for row in rows]}
    arrays = Sums(*(np.array(sums[name]) for name in Sums._fields))
    return predict_surge(arrays, probe.seq_len, sampling.block_seqs), rows


def test_derivatives_are_those_of_phi():
    """Gradients, Hessian products and moves count a group's learning rate: theta = m phi."""
    q = toy()
    probe = quadratic(q)
    batch = probe.draw(0, 100)
    start = torch.linspace(-1, 1, 40)
    with moved(probe, start):
        torch.testing.assert_close(
            gradient(probe, batch), batch.mean(0) + torch.tensor(q.hessian).float() @ start, rtol=1e-4, atol=1e-3
        )
        torch.testing.assert_close(
            hessian_times(probe, batch, start), torch.tensor(q.hessian).float() @ start, rtol=1e-4, atol=1e-3
        )
        assert loss_of_batch(probe, batch) != 0
    assert all(torch.equal(part, torch.zeros_like(part)) for part in probe.parameters)


def test_a_quadratic_is_what_theory_says(tmp_path):
    """Surge's B_noise, E(B) and lr*(B), and the line search, from gradients alone; mu / sigma is up to 0.05."""
    q = toy(strength=0.05, pull=60.0)
    sampling = Sampling(blocks=16, block_seqs=256, micro_seqs=4, probe_seqs=2)
    prediction, rows = all_passes(quadratic(q), sampling, tmp_path)
    scales = sign_scales(q.mu, q.sigma, q.hessian)
    batches = np.array(sampling.batches, float)
    exact = sign_optimum(q.mu, q.sigma, q.hessian, batches)
    assert holds(prediction.batch_noise, scales.batch_noise * 8)
    assert holds(prediction.lr_max, scales.lr_max)
    raw = np.repeat(MULTIPLIER, (16, 24))  # mu and sigma are those of phi
    assert holds(prediction.noise_scale, 8 * ((q.sigma / raw) ** 2).sum() / ((q.mu / raw) ** 2).sum())
    assert prediction.noise_scale.status == "ok"
    assert prediction.batch_noise.status == "ok"
    found = measure([Search(row["batch_tokens"], np.array(row["lr"]), np.array(row["drop"])) for row in rows])
    hits = []
    for point, step, lr, drop in zip(prediction.curve, found.steps, exact.lr, exact.loss_drop, strict=True):
        assert point.batch_tokens == step.batch_tokens
        hits += [holds(point.lr, lr), holds(point.loss_drop, drop), holds(point.lr_signs, lr)]
        hits += [holds(step.lr, lr), holds(step.loss_drop, drop)]
    assert sum(hits) >= len(hits) - 3  # of 35 intervals of 95 %, correlated
    assert all(point.lr.high < 2.5 * point.lr.low for point in prediction.curve)


def test_a_call_that_was_stopped_goes_on_to_the_same_numbers(tmp_path):
    """Stopped in each pass, as a signal would, and called again."""
    sampling = Sampling(blocks=4, block_seqs=8, micro_seqs=2, probe_seqs=2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = all_passes(quadratic(toy()), sampling, whole)

    for patience in (5, 15, 11):  # draws until a stop: in the first pass, the second, the third
        probe, left = quadratic(toy()), patience

        def draw(first: int, count: int, probe: Probe = probe) -> torch.Tensor:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return probe.draw(first, count)

        with pytest.raises(KeyboardInterrupt):
            all_passes(replace(probe, draw=draw), sampling, broken)
    assert sorted(path.name for path in broken.iterdir()) == ["hessian.json", "moments.pt", "steps.json"]
    assert len(read_json(broken / "steps.json")) < 3
    assert all_passes(quadratic(toy()), sampling, broken) == expected


def test_a_coordinate_without_a_gradient_counts_for_nothing(tmp_path):
    q = toy()
    mu, sigma = q.mu.copy(), q.sigma.copy()
    mu[3] = sigma[3] = 0.0
    sampling = Sampling(blocks=4, block_seqs=16, micro_seqs=4, probe_seqs=2, draws=1)
    probe = quadratic(Toy(mu, sigma, q.hessian))
    found = moments(probe, sampling, tmp_path / "m.pt", lambda done, more: None)
    assert (found.sigma == 0).tolist() == [i == 3 for i in range(40)]
    sums = hessian_sums(probe, sampling, found, tmp_path / "h.json", lambda done, more: None)
    assert np.isfinite(np.array(sums["bend"])).all()
    assert np.array(sums["off_diagonal"]).shape == (4, 4)


def test_no_noise_is_refused(tmp_path):
    q = toy()
    probe = quadratic(Toy(q.mu, np.zeros(40), q.hessian))
    with pytest.raises(ConfigError, match="sigma is 0"):
        moments(probe, Sampling(blocks=3, block_seqs=4), tmp_path / "m.pt", lambda done, more: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 2}, "--blocks 2"),
        ({"block_seqs": 24}, "power of two"),
        ({"block_seqs": 2}, "power of two"),
        ({"block_seqs": 2**30}, "unseen training sequences are asked for"),
    ],
)
def test_samplings_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=message):
        check_sampling(quadratic(toy()), Sampling(**change))


SMALL = Sampling(blocks=3, block_seqs=8, probe_seqs=4, draws=1)


@pytest.mark.parametrize(("precision", "stage"), [("fp32", 0), ("fp32", 3), ("bf16", 1)])
def test_a_runs_checkpoint(trained, tmp_path, data_dir, precision, stage):
    """The weights are the trainer's fp32 ones, the data are unseen, and no file of the run changes."""
    run_dir = tmp_path / "run"
    trainer = trained(run_dir, f"precision={precision}", f"engine.zero_stage={stage}", "budget_tokens=1024")
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run_dir.rglob("*") if path.is_file()}
    probe, config, tokens = probe_of(run_dir, None, data_dir)
    assert tokens == config.budget_tokens == 1024
    for parameter, weight in zip(probe.parameters, trainer.master_weights.values(), strict=True):
        assert torch.equal(parameter, weight)
    prediction, rows = all_passes(probe, SMALL, tmp_path)
    assert [row["batch_tokens"] for row in rows] == [32, 64, 128, 256]
    assert len(prediction.curve) == 4
    json.dumps(rows, allow_nan=False)
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in run_dir.rglob("*") if path.is_file()}
    assert before == after


def test_hessian_products_of_a_model_are_differences_of_gradients(trained, tmp_path, data_dir):
    trained(tmp_path / "run", "budget_tokens=1024", "model.tied=true", "model.qk_norm=true")
    probe, _, _ = probe_of(tmp_path / "run", 1024, data_dir)
    batch = probe.draw(0, 4)
    vector = torch.randn(sum(p.numel() for p in probe.parameters), generator=torch.Generator().manual_seed(0))
    exact, small = hessian_times(probe, batch, vector), 1e-3
    with moved(probe, small * vector):
        ahead = gradient(probe, batch)
    with moved(probe, -small * vector):
        behind = gradient(probe, batch)
    difference = (ahead - behind) / (2 * small)
    assert (difference - exact).norm() < 0.02 * exact.norm()


def test_unseen_sequences_follow_those_the_run_has_seen(trained, tmp_path, data_dir, monkeypatch):
    trained(tmp_path / "run", "budget_tokens=1024")
    asked = []
    monkeypatch.setattr("train.probe.sequences", lambda *a: asked.append(a[1:]) or np.zeros((a[3], 33), np.int64))
    probe, config, _ = probe_of(tmp_path / "run", None, data_dir)
    probe.draw(5, 2)
    assert asked == [(config.seed, 1024 // 32 + 5, 2)]


def test_what_is_kept_of_signs_is_some_of_many_coordinates(tmp_path, monkeypatch):
    monkeypatch.setattr(surge_checkpoint, "SHOWN", 10)
    sampling = Sampling(blocks=3, block_seqs=4, probe_seqs=1, draws=1)
    found = moments(quadratic(toy()), sampling, tmp_path / "m.pt", lambda done, more: None)
    assert found.signs.shape == (3, 3, 10)
    assert len(set(found.shown.tolist())) == 10


def test_the_command_measures_once_and_says_it_again(trained, tmp_path, data_dir, capsys):
    run_dir = tmp_path / "run"
    trained(run_dir, "budget_tokens=1024")
    small = ("--blocks", "3", "--max-batch-tokens", "2^8", "--probe-seqs", "4", "--data-dir", str(data_dir))
    assert main(["surge", str(run_dir), *small]) == 0
    said = capsys.readouterr().out
    out = run_dir / "surge" / f"{1024:015d}"
    assert {path.name for path in out.iterdir()} == {
        *("about.json", "measured.json", "surge.json", "curve.csv", "index.html", "data")
    }
    assert "predicted B_noise" in said
    assert "measured by line search" in said
    assert read_json(out / "surge.json")["about"]["run_id"] == run_id(read_config(run_dir))
    written = (out / "measured.json").stat().st_mtime_ns
    assert main(["surge", str(run_dir), "--tokens", "1024", *small]) == 0
    assert capsys.readouterr().out == said
    assert (out / "measured.json").stat().st_mtime_ns == written

    for options, message in (
        (("--blocks", "4", *small[2:]), "holds a measurement of something else"),
        (("--tokens", "512", *small), "no checkpoint at 512 tokens"),
        (("--max-batch-tokens", "100", *small[:2]), "whole sequences of 32 tokens"),
        (("--max-batch-tokens", "96", *small[:2]), "power of two"),
        (("--blocks", "2", *small[2:]), "--blocks 2: intervals"),
    ):
        assert main(["surge", str(run_dir), *options, "--data-dir", str(data_dir)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
