"""What Surge's theory needs of a checkpoint, and what it says about it, measured: `bcrit surge`.

The data are K blocks, independent of each other. A block has `block_seqs` sequences for gradients, whose first B are a
batch of B, and `probe_seqs` others for the Hessian and for the loss after a step. Three passes, each kept as a file so
that a call that was stopped goes on: moments of gradients; sums with the Hessian, of expected signs; steps of signs as
they are, with a line search. `analysis.surge_prediction` says why. Memory: (4 K + 60) bytes a parameter, beside the
model's own.
"""

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from configs.errors import ConfigError
from configs.identity import run_id
from configs.rundir import read_json, write_atomic, write_json
from train.probe import Probe, check_available, gradient, hessian_times, loss_of_batch, moved, probe_of, unscaled

GRADIENT, PRODUCT = 3.0, 9.0  # cost of a sequence, where a forward pass is 1
SHOWN = 2**17  # coordinates whose signs are kept for the agreement of batches
MOST_OCTAVES = 12  # that a line search goes beyond its first guess, on either side
Advance = Callable[[float, float], None]  # (work done, work added to what was expected), forward passes of a sequence


@dataclass(frozen=True)
class Sampling:
    """How much is measured; counts of sequences, batches in powers of two of a micro-batch."""

    blocks: int = 16
    block_seqs: int = 256  # also the largest batch
    micro_seqs: int = 1  # of the gradients whose scatter is sigma, and the smallest batch
    probe_seqs: int = 16
    draws: int = 2  # random vectors a block for the Hessian's trace (Hutchinson)

    @property
    def batches(self) -> tuple[int, ...]:
        """In sequences."""
        return tuple(self.micro_seqs * 2**k for k in range(int(math.log2(self.block_seqs // self.micro_seqs)) + 1))

    def step_work(self, batch: int) -> float:
        """Of the third pass at one batch, if its line search needs no more than its first five rates."""
        return self.blocks * (GRADIENT * batch + (PRODUCT + 5) * self.probe_seqs)

    def work(self) -> float:
        """Of all three passes."""
        moments = GRADIENT * self.block_seqs
        hessian = PRODUCT * self.probe_seqs * (self.draws + 1 + len(self.batches))
        return self.blocks * (moments + hessian + self.probe_seqs) + sum(map(self.step_work, self.batches))


class Moments(NamedTuple):
    """Of the gradients' n coordinates, on the probe's device."""

    mean: torch.Tensor  # (K, n) of each block
    sigma: torch.Tensor  # (n,) of one sequence; 0 where the gradient is always 0
    signs: torch.Tensor  # (b, K, s) int8, of the first B sequences of a block, some coordinates
    shown: torch.Tensor  # (s,) which ones


def measure_checkpoint(
    run_dir: Path,
    tokens: int | None,
    max_batch_tokens: int | None,
    sampling: Sampling,
    out: Path | None,
    data_dir: Path,
    advance: Advance,
) -> Path:
    """Measure a run's checkpoint (None: the newest) and return the directory of measured.json, by default in the run.

    What is there already is not measured again, and goes on where it stopped. Raises ConfigError if there is no such
    checkpoint, the data do not suffice, or `out` holds a measurement of something else.
    """
    probe, config, reached = probe_of(run_dir, tokens, data_dir)
    if max_batch_tokens is not None:
        if max_batch_tokens % probe.seq_len:
            raise ConfigError(
                f"--max-batch-tokens {max_batch_tokens}: must be whole sequences of {probe.seq_len} tokens"
            )
        sampling = replace(sampling, block_seqs=max_batch_tokens // probe.seq_len)
    check_sampling(probe, sampling)
    out = out or run_dir / "surge" / f"{reached:015d}"
    science = {"width": config.model.width, "lr": config.lr, "batch_tokens": config.batch_tokens}
    about = {"run_id": run_id(config), "tokens": reached} | science | asdict(sampling)
    if not _claimed(out / "about.json", about):
        raise ConfigError(
            f"{out}: holds a measurement of something else, see about.json there: remove it or give --out"
        )
    if (out / "measured.json").exists():
        return out
    advance(0, sampling.work())
    moments_file, hessian_file, steps_file = (out / name for name in ("moments.pt", "hessian.json", "steps.json"))
    found = moments(probe, sampling, moments_file, advance)
    sums = hessian_sums(probe, sampling, found, hessian_file, advance)
    rows = steps(probe, sampling, found, config.lr, steps_file, advance)
    write_json(out / "measured.json", {"about": about, "seq_len": probe.seq_len, "sums": sums, "steps": rows})
    for file in (moments_file, hessian_file, steps_file):
        file.unlink()
    return out


def check_sampling(probe: Probe, sampling: Sampling) -> None:
    """Raises ConfigError for a sampling that has no intervals, no batches, or more sequences than there are."""
    if sampling.blocks < 3:
        raise ConfigError(f"--blocks {sampling.blocks}: intervals are over blocks; give at least 3, better 16")
    if len(sampling.batches) < 3 or sampling.batches[-1] != sampling.block_seqs:
        raise ConfigError(
            f"--max-batch-tokens: {sampling.block_seqs} sequences of {probe.seq_len} tokens must be a power of two "
            f"times --micro-seqs {sampling.micro_seqs}, and four times that at least"
        )
    asked = sampling.blocks * (sampling.block_seqs + sampling.probe_seqs)
    check_available(probe, asked, "lower --blocks or --max-batch-tokens, or measure an earlier checkpoint (--tokens)")


def moments(probe: Probe, sampling: Sampling, file: Path, advance: Advance) -> Moments:
    """First pass: means and standard deviations of gradients, streamed; kept in `file` after every block."""
    state = torch.load(file, map_location=probe.parameters[0].device) if file.exists() else _nothing_yet(probe)
    micro, count = sampling.micro_seqs, sampling.block_seqs // sampling.micro_seqs
    advance(GRADIENT * sampling.block_seqs * len(state["mean"]), 0)
    for k in range(len(state["mean"]), sampling.blocks):
        running, signs = torch.zeros_like(state["squares"]), []
        for i in range(count):
            found = gradient(probe, probe.draw(_first(sampling, k) + i * micro, micro)).double()
            running += found
            state["squares"].addcmul_(found, found)
            if (i + 1) * micro in sampling.batches:
                signs.append(running[state["shown"]].sign().to(torch.int8))
            advance(GRADIENT * micro, 0)
        state["mean"].append((running / count).float())
        state["signs"].append(torch.stack(signs))
        _save(state, file)
    mean, number = torch.stack(state["mean"]), sampling.blocks * count
    total = mean.double().mean(0)
    variance = (state["squares"] - number * total**2) / (number - 1)
    # Where there was one gradient or none beside zeros, rounding may leave a variance; it means nothing.
    variance[state["squares"] <= 0] = 0.0
    sigma = (variance.clamp(min=0.0) * micro).sqrt().float()
    if not bool((sigma > 0).any()):
        raise ConfigError("no gradient differs from another: sigma is 0, and there is no noise to measure")
    return Moments(mean, sigma, torch.stack(state["signs"], dim=1), state["shown"])


def hessian_sums(probe: Probe, sampling: Sampling, found: Moments, file: Path, advance: Advance) -> dict[str, Any]:
    """Second pass: the fields of `analysis.surge_prediction.Sums` as lists, kept in `file` after every block."""
    rows: list[dict[str, Any]] = read_json(file) if file.exists() else []
    products = PRODUCT * sampling.probe_seqs
    advance(products * (sampling.draws + 1 + len(sampling.batches)) * len(rows), 0)
    live = found.sigma > 0
    ratio = torch.where(live, found.mean / torch.where(live, found.sigma, 1.0), 0.0)

    def expected(k: int, batch: int | None) -> torch.Tensor:
        return ratio[k] if batch is None else expected_sign(ratio[k], batch, sampling.block_seqs)

    for k in range(len(rows), sampling.blocks):
        chunk = _chunk(probe, sampling, k)
        generator, diagonal = torch.Generator().manual_seed(k), torch.zeros_like(found.sigma)
        for _ in range(sampling.draws):
            z = torch.randint(2, live.shape, generator=generator).to(diagonal) * 2 - 1
            z *= live
            diagonal += z * hessian_times(probe, chunk, z) / sampling.draws
            advance(products, 0)
        row: dict[str, Any] = {"trace": diagonal.double().sum().item()}
        for batch in (None, *sampling.batches):  # None: the limit of small batches, r itself
            mine = expected(k, batch)
            bent = hessian_times(probe, chunk, mine) - diagonal * mine
            sums = {"bend": [], "along": [], "square": []}
            for i in range(sampling.blocks):
                other = expected(i, batch)
                sums["bend"].append(_dot(bent, other))
                sums["along"].append(_dot(mine, found.mean[i]))
                here = slice(None) if batch is None else found.shown
                sums["square"].append(_dot(mine[here], other[here]) / len(mine[here]))
            row[str(batch)] = sums
            advance(products, 0)
        rows.append(row)
        write_json(file, rows)
    by_batch = {
        key: [[row[str(b)][key] for row in rows] for b in sampling.batches] for key in ("along", "bend", "square")
    }
    signs = found.signs.float()
    plain, spread = unscaled(probe, found.mean).double(), unscaled(probe, found.sigma).double()
    return {
        "gradient_sq": (plain @ plain.T).tolist(),
        "noise_sq": spread.square().sum().item(),
        "batch_seqs": list(sampling.batches),
        "trace": [row["trace"] for row in rows],
        "slope": [row["None"]["along"] for row in rows],
        "off_diagonal": [row["None"]["bend"] for row in rows],
        "ratio_sq": [row["None"]["square"] for row in rows],
        "along": by_batch["along"],
        "bend": by_batch["bend"],
        "expected": by_batch["square"],
        "agreed": (signs @ signs.mT / signs.shape[-1]).tolist(),
    }


def steps(
    probe: Probe, sampling: Sampling, found: Moments, fallback: float, file: Path, advance: Advance
) -> list[dict[str, Any]]:
    """Third pass: steps of real signs V, batch by batch, kept in `file` after each.

    A row has `batch_tokens`; `along` (K, K), V of block k times the mean gradient of block l; `bend` (K,), V.H V on
    sequences that V has not seen; and the line search: `lr` ascending, `drop` (K, rates) of the loss on them, nats. It
    begins in half octaves around along / bend (`fallback` if that is no rate) and goes on until the rate with the
    largest mean drop has neighbours on both sides.
    """
    done: list[dict[str, Any]] = read_json(file) if file.exists() else []
    chunks = [_chunk(probe, sampling, k) for k in range(sampling.blocks)]
    before = [loss_of_batch(probe, chunk) for chunk in chunks]
    advance(sampling.probe_seqs * sampling.blocks, 0)
    for batch in sampling.batches[: len(done)]:
        advance(sampling.step_work(batch), 0)
    for batch in sampling.batches[len(done) :]:
        directions, row = [], {"batch_tokens": batch * probe.seq_len, "along": [], "bend": []}
        for k in range(sampling.blocks):
            v = gradient(probe, probe.draw(_first(sampling, k), batch)).sign()
            row["along"].append([_dot(v, mean) for mean in found.mean])
            row["bend"].append(_dot(v, hessian_times(probe, chunks[k], v)))
            directions.append(v.to(torch.int8))
            advance(GRADIENT * batch + PRODUCT * sampling.probe_seqs, 0)
        center = _best_rate(row["along"], row["bend"]) or fallback
        by_step: dict[int, list[float]] = {}
        waiting = [-2, -1, 0, 1, 2]
        while waiting:
            step = waiting.pop()
            by_step[step] = _drops(probe, center * 2.0 ** (step / 2), directions, chunks, before)
            advance(sampling.probe_seqs * sampling.blocks, 0)
            if not waiting and (further := _beyond(by_step)) is not None:
                waiting.append(further)
                advance(0, sampling.probe_seqs * sampling.blocks)
        row["lr"] = [center * 2.0 ** (step / 2) for step in sorted(by_step)]
        row["drop"] = [list(drops) for drops in zip(*(by_step[step] for step in sorted(by_step)), strict=True)]
        done.append(row)
        write_json(file, done)
    return done


def expected_sign(ratio: torch.Tensor, batch: int, block: int) -> torch.Tensor:
    """E(B) of a coordinate from mu / sigma as a block's mean has it (n,), such that the block's noise adds no bias."""
    if batch >= block:
        return ratio.sign()
    return torch.erf(ratio * math.sqrt(0.5 / (1 / batch - 1 / block)))


def _beyond(by_step: dict[int, list[float]]) -> int | None:
    """The next half octave to try; None if the best rate has two neighbours, or the search has gone too far."""
    mean = {step: sum(drops) / len(drops) for step, drops in by_step.items()}
    best = max(mean, key=lambda step: mean[step] if math.isfinite(mean[step]) else -math.inf)
    if best == min(mean):
        return best - 1 if best > -2 * MOST_OCTAVES else None
    if best == max(mean):
        return best + 1 if best < 2 * MOST_OCTAVES else None
    return None


def _claimed(file: Path, about: dict[str, Any]) -> bool:
    """Whether the directory of `file` is this measurement's, or becomes it."""
    if file.exists():
        return read_json(file) == about
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, about)
    return True


def _best_rate(along: list[list[float]], bend: list[float]) -> float | None:
    """Of one step on a quadratic loss (Lemma 1), if there is one."""
    pairs = [x for k, row in enumerate(along) for i, x in enumerate(row) if k != i]
    slope, curvature = sum(pairs) / len(pairs), sum(bend) / len(bend)
    return slope / curvature if slope > 0 and curvature > 0 else None


def _drops(
    probe: Probe, lr: float, directions: list[torch.Tensor], chunks: list[torch.Tensor], before: list[float]
) -> list[float]:
    found = []
    for direction, chunk, loss in zip(directions, chunks, before, strict=True):
        with moved(probe, direction.float() * -lr):
            found.append(loss - loss_of_batch(probe, chunk))
    return found


def _first(sampling: Sampling, k: int) -> int:
    return k * (sampling.block_seqs + sampling.probe_seqs)


def _chunk(probe: Probe, sampling: Sampling, k: int) -> torch.Tensor:
    return probe.draw(_first(sampling, k) + sampling.block_seqs, sampling.probe_seqs)


def _nothing_yet(probe: Probe) -> dict[str, Any]:
    size, where = sum(parameter.numel() for parameter in probe.parameters), probe.parameters[0].device
    shown = torch.arange(size)
    if size > SHOWN:
        shown = torch.randperm(size, generator=torch.Generator().manual_seed(0))[:SHOWN].sort().values
    squares = torch.zeros(size, dtype=torch.float64, device=where)
    return {"mean": [], "signs": [], "squares": squares, "shown": shown.to(where)}


def _save(state: dict[str, Any], file: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(file, buffer.getvalue())


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.dot(a.double(), b.double()).item()
