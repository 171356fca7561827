"""The best learning rate of one step as it is measured: loss after steps of many sizes from one checkpoint.

In each of K blocks, independent of each other, a batch of B gives a direction, and the loss on other sequences is read
at theta - lr V for a grid of lr. Theory (Li et al. 2024, arXiv 2405.14578, Theorems 3 and 5; signs, B far below the
validity bound) makes both sqrt(B) / lr*(B) and B / drop(B) straight lines in B, whose intercept / slope is B_noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.jackknife import covariance, mean_replicates, ratio, student
from analysis.laws import Points, fit_lr_laws
from analysis.results import Estimate, LrLaw, LrLawVerdict, bounded

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
    notes: tuple[str, ...]


def measure(searches: Sequence[Search], up_to: float | None = None) -> Measured:
    """Best steps of all batches, ascending, and B_noise by those of at most `up_to` tokens (see `noise_batch`)."""
    steps, batch, lr, drop = _known(searches)
    return Measured(steps, *noise_batch(batch, lr, drop, up_to), notes=tuple(_notes(steps, up_to)))


def form_of(searches: Sequence[Search], tokens: int) -> tuple[tuple[LrLaw, ...], LrLawVerdict]:
    """The forms of eta*(B) fitted to the measured best rates, and which of them they prefer (`laws.fit_lr_laws`).

    Errors of the batches are taken for independent. The blocks give them in common a part of their error, which moves
    the level and not the form. `tokens`: where the checkpoint is.
    """
    _, batch, lr, _ = _known(searches)
    points = Points(
        width=np.zeros(batch.size),
        tokens=np.full(batch.size, np.log2(tokens)),
        batch=np.log2(batch),
        lr=np.log2(lr[0]),
        covariance=np.diag(np.diag(covariance(np.log2(lr)))),
        noise_dof=len(lr) - 2,
    )
    return fit_lr_laws(points, tokens=tokens)


def noise_batch(batch: Array, lr: Array, drop: Array, up_to: float | None = None) -> tuple[Estimate, Estimate]:
    """B_noise in tokens from where lr* bends, and from where the drop does; replicates (K + 1, b) of both by `batch`.

    `up_to`: where theory ends; batches beyond it count only if fewer than three lie below, and `method` says so.
    """
    within = batch <= (np.inf if up_to is None else up_to)
    used = within if within.sum() >= MIN_BATCHES else np.ones_like(within)
    how = f"{used.sum()} batches" + ("" if within[used].all() else ", also beyond the validity bound")
    batch, lr, drop = batch[used], lr[:, used], drop[:, used]
    return (
        _intercept_over_slope(batch, np.sqrt(batch) / lr, f"sqrt(B) / lr* on B, {how}"),
        _intercept_over_slope(batch, batch / drop, f"B / loss drop on B, {how}"),
    )


def _notes(steps: Sequence[Step], up_to: float | None) -> Iterator[str]:
    edge = [f"{step.batch_tokens:.0f}" for step in steps if step.lr.status in ("lower_bound", "upper_bound")]
    if edge:
        yield f"line search: the best rate lies at the edge of those that were tried at B = {', '.join(edge)} tokens"
    lost = [f"{step.batch_tokens:.0f}" for step in steps if step.lr.status == "not_identified"]
    if lost:
        yield (
            f"line search: no rate lowers the loss for sure at B = {', '.join(lost)} tokens: measure more (--blocks, "
            "--probe-seqs)"
        )
    if up_to is not None and sum(step.batch_tokens <= up_to for step in steps) < MIN_BATCHES:
        yield (
            f"fewer than {MIN_BATCHES} batches lie below {up_to:.3g} tokens, where Theorem 3 ends: B_noise from steps "
            "is fitted to all batches, as the one at which a step lowers the loss half as far as the largest does"
        )


def _known(searches: Sequence[Search]) -> tuple[tuple[Step, ...], Array, Array, Array]:
    """All steps; and of those with a best rate, the batches (b,), and replicates (K + 1, b) of rate and drop."""
    vertices = [_vertex(search) for search in searches]
    steps = tuple(_step(s, vertex) for s, vertex in zip(searches, vertices, strict=True))
    used = [i for i, step in enumerate(steps) if step.lr.status == "ok" and step.loss_drop.status == "ok"]
    batch = np.array([searches[i].batch_tokens for i in used], float)
    replicates = 1 + len(searches[0].drop)
    lr, drop = (np.array([vertices[i][which] for i in used], float).reshape(-1, replicates).T for which in (0, 1))
    return steps, batch, lr, drop


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


def _intercept_over_slope(batch: Array, y: Array, how: str) -> Estimate:
    """Intercept / slope of y (K + 1, b) on `batch` (b,), weighted by the relative errors of y."""
    if batch.size < MIN_BATCHES or not np.all(y > 0):
        return Estimate(None, None, None, "tokens", "not_identified", how)
    relative = np.sqrt(np.diag(covariance(y))) / y[0]
    weight = 1 / (y[0] * np.hypot(relative, relative.max() / 10))  # no batch counts for more than a hundred others
    design = np.stack([np.ones_like(batch), batch], axis=1) * weight[:, None]
    intercept, slope = np.linalg.lstsq(design, (y * weight).T, rcond=None)[0]
    return ratio(intercept, slope, "tokens", f"{how}, jackknife over {len(y) - 1} blocks")
