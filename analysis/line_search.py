"""The best learning rate of one step as it is measured: loss after steps of many sizes from one checkpoint.

In each of K blocks, independent of each other, a batch of B gives a direction, and the loss on other sequences is read
at theta - lr V for a grid of lr. Theory (Li et al. 2024, arXiv 2405.14578, Theorems 3 and 5; signs, B far below the
validity bound) makes both sqrt(B) / lr*(B) and B / drop(B) straight lines in B, whose intercept / slope is B_noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.jackknife import covariance, mean_replicates, ratio, student
from analysis.results import Estimate, bounded

Array = NDArray[np.floating]
MIN_BATCHES = 3


@dataclass(frozen=True)
class Search:
    """Loss drops (positive: it fell) in nats of one step at batch B: lr (n,) ascending, drop (K, n)."""

    batch_tokens: float
    lr: Array
    drop: Array


@dataclass(frozen=True)
class Step:
    """The best of one step at batch B; `lr` is a bound where the best rate is the largest or smallest one tried."""

    batch_tokens: float
    lr: Estimate
    loss_drop: Estimate


@dataclass(frozen=True)
class Measured:
    """Of all batches; the noise batch, in tokens, from where lr*(B) and where the drop bend."""

    steps: tuple[Step, ...]
    noise_from_lr: Estimate
    noise_from_drop: Estimate


def measure(searches: Sequence[Search], up_to: float = np.inf) -> Measured:
    """Best steps of all batches, ascending, and B_noise by those of at most `up_to` tokens (where theory holds)."""
    vertices = [_vertex(search) for search in searches]
    steps = tuple(_step(s, vertex) for s, vertex in zip(searches, vertices, strict=True))
    used = [
        i
        for i, (search, step) in enumerate(zip(searches, steps, strict=True))
        if step.lr.status == "ok" and step.loss_drop.status == "ok" and search.batch_tokens <= up_to
    ]
    batch = np.array([searches[i].batch_tokens for i in used])
    lr, drop = (np.array([vertices[i][which] for i in used]).T for which in (0, 1))  # (K + 1, b)
    return Measured(
        steps,
        _noise(batch, np.sqrt(batch) / lr if used else lr, f"sqrt(B) / lr* on B, {len(used)} batches"),
        _noise(batch, batch / drop if used else drop, f"B / loss drop on B, {len(used)} batches"),
    )


def _vertex(search: Search) -> tuple[Array, Array]:
    """Replicates (K + 1,) of the best lr and its drop, by the parabola in lr through the best rate and its neighbours.

    For a quadratic loss that is exact, whatever the spacing of the grid. NaN where the best rate is the first or last.
    """
    drops = mean_replicates(search.drop)
    best = int(np.argmax(drops[0]))
    if not 0 < best < len(search.lr) - 1:
        return np.full(len(drops), np.nan), drops[:, best]
    x, y = search.lr[best - 1 : best + 2], drops[:, best - 1 : best + 2]
    first = (y[:, 1] - y[:, 0]) / (x[1] - x[0])
    second = ((y[:, 2] - y[:, 1]) / (x[2] - x[1]) - first) / (x[2] - x[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        lr = (x[0] + x[1]) / 2 - first / (2 * second)
    lr = np.where(second < 0, np.clip(lr, x[0], x[2]), x[1])  # without a block the best may lie elsewhere
    return lr, y[:, 0] + first * (lr - x[0]) + second * (lr - x[0]) * (lr - x[1])


def _step(search: Search, vertex: tuple[Array, Array]) -> Step:
    blocks = len(search.drop)
    how = f"line search over {search.lr.size} rates, parabola through 3, jackknife over {blocks} blocks"
    lr, drop = vertex
    log_lr = np.log(lr)
    half = student(blocks - 1) * np.sqrt(np.diag(covariance(np.stack([log_lr, drop], axis=1))))
    loss_drop = Estimate(float(drop[0]), float(drop[0] - half[1]), float(drop[0] + half[1]), "nats", "ok", how)
    if drop[0] <= half[1]:  # no rate lowers the loss for sure, so none is best
        return Step(search.batch_tokens, Estimate(None, None, None, "1", "not_identified", how), loss_drop)
    if np.isnan(lr[0]):
        at_top = int(np.argmax(search.drop.mean(0))) > 0
        return Step(
            search.batch_tokens,
            bounded(None, float(search.lr[-1]) if at_top else None, None if at_top else float(search.lr[0]), "1", how),
            Estimate(None, loss_drop.low, None, "nats", "lower_bound", how),
        )
    low, high = (float(lr[0] * np.exp(sign * half[0])) for sign in (-1, 1))
    return Step(search.batch_tokens, Estimate(float(lr[0]), low, high, "1", "ok", how), loss_drop)


def _noise(batch: Array, y: Array, how: str) -> Estimate:
    """Intercept / slope of y (K + 1, b) on `batch` (b,), weighted by the relative errors of y."""
    if batch.size < MIN_BATCHES or np.any(y <= 0):
        return Estimate(None, None, None, "tokens", "not_identified", how)
    relative = np.sqrt(np.diag(covariance(y))) / y[0]
    weight = 1 / (y[0] * np.hypot(relative, relative.max() / 10))  # no batch counts for more than a hundred others
    design = np.stack([np.ones_like(batch), batch], axis=1) * weight[:, None]
    intercept, slope = np.linalg.lstsq(design, (y * weight).T, rcond=None)[0]
    return ratio(intercept, slope, "tokens", f"{how}, jackknife over {len(y) - 1} blocks")
