"""The runs of one cell (N, T, B) and the parabola through the learning rates around the lowest loss."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.parabola import Parabola, fit_parabola, fit_robust
from analysis.results import CellState

Array = NDArray[np.floating]
Ints = NDArray[np.integer]
MIN_POINTS = 3
POINTS = (3, 5, 7)  # learning rates of a window around the lowest loss
RISES = (0.03, 0.1)  # nats above the lowest loss up to which a window reaches
ROBUST_POINTS = 7


@dataclass(frozen=True)
class Sweep:
    """One cell's runs. Arrays (n,) hold the runs with a loss, `grid` and `curve` (g,) one place per learning rate."""

    key: tuple[int, int, int]
    log2_lr: Array
    loss: Array
    seed: Ints
    run: Ints  # the same number at every budget for the same (N, B, lr, seed)
    grid: Array  # log2 of all learning rates tried, ascending
    curve: Array  # loss with the seeds' offsets removed, inf where any seed diverged
    best: int  # argmin of curve
    low: int  # grid[low:high] are the consecutive learning rates around the best at which no run diverged
    high: int
    loss_init: float | None
    n_seeds: int
    n_diverged: int


@dataclass(frozen=True)
class FittedSweep:
    """A sweep, what can be said of its minimum, and the parabolas: the chosen one and those of +-1 point.

    `alternatives`: the parabolas of the documented set of windows, by name, those that have their minimum inside.
    """

    sweep: Sweep
    state: CellState
    fit: Parabola | None = None
    variants: tuple[Parabola, ...] = ()
    alternatives: dict[str, Parabola] = field(default_factory=dict)


def sweeps_of(table: pd.DataFrame) -> Iterator[Sweep]:
    """The cells of a run table in the order (width, tokens, batch); a cell without any loss is left out."""
    table = table.assign(run=table.groupby(["width", "batch_tokens", "lr", "seed"]).ngroup())
    for key, runs in table.sort_values(["lr", "seed"]).groupby(["width", "tokens", "batch_tokens"]):
        sweep = _sweep(key, runs)
        if sweep is not None:
            yield sweep


def _sweep(key: Any, runs: pd.DataFrame) -> Sweep | None:
    log2_lr, loss, seed = np.log2(runs["lr"].to_numpy(float)), runs["loss"].to_numpy(float), runs["seed"].to_numpy(int)
    finished = np.isfinite(loss)
    grid, place = np.unique(log2_lr, return_inverse=True)
    curve = _curve(place, loss, seed, grid.size)
    best = int(np.argmin(curve))
    if not np.isfinite(curve[best]):
        return None
    breaks = np.flatnonzero(~np.isfinite(curve))
    inits = runs["loss_init"].dropna() if "loss_init" in runs else ()
    return Sweep(
        key=(int(key[0]), int(key[1]), int(key[2])),
        log2_lr=log2_lr[finished],
        loss=loss[finished],
        seed=seed[finished],
        run=runs["run"].to_numpy(int)[finished],
        grid=grid,
        curve=curve,
        best=best,
        low=int(max(breaks[breaks < best], default=-1)) + 1,
        high=int(min(breaks[breaks > best], default=grid.size)),
        loss_init=float(np.mean(inits)) if len(inits) else None,
        n_seeds=np.unique(seed).size,
        n_diverged=int((~finished).sum()),
    )


def _curve(place: Ints, loss: Array, seed: Ints, size: int) -> Array:
    """(size,) loss by learning rate with the seeds' offsets removed; inf where any seed diverged.

    Two-way additive least squares: the plain mean when every seed has every learning rate, and not tilted by extra
    seeds that were run only near the optimum.
    """
    curve = np.full(size, np.inf)
    good = ~np.isin(place, place[~np.isfinite(loss)])
    if good.any():
        rates, seeds = np.unique(place[good]), np.unique(seed[good])
        is_rate = (place[good, None] == rates).astype(float)
        is_seed = (seed[good, None] == seeds).astype(float)
        design = np.hstack([is_rate, is_seed[:, 1:] - is_seed[:, :1]])  # offsets sum to zero
        curve[rates] = np.linalg.lstsq(design, loss[good], rcond=None)[0][: rates.size]
    return curve


def fit_sweep(sweep: Sweep, window: int) -> FittedSweep:
    """The parabola through the `window` learning rates around the lowest loss, if that loss is inside the grid."""
    grid, best, low, high = sweep.grid, sweep.best, sweep.low, sweep.high
    if high - low < MIN_POINTS:
        return FittedSweep(sweep, "too_few")
    if best in (0, grid.size - 1):
        return FittedSweep(sweep, "edge_low" if best == 0 else "edge_high")
    start, stop = _around(sweep, window)
    fit = _parabola(sweep, start, stop)
    if fit.dof < 0:  # seeds that share too few learning rates: each has a level of its own
        return FittedSweep(sweep, "too_few")
    if fit.a <= 0:
        return FittedSweep(sweep, "not_convex")
    if not grid[start] <= fit.vertex <= grid[stop - 1]:
        return FittedSweep(sweep, "edge_low" if fit.vertex < grid[start] else "edge_high")
    windows = [(start - 1, stop), (start + 1, stop), (start, stop - 1), (start, stop + 1)]
    legal = [(i, j) for i, j in windows if low <= i <= best < j <= high and j - i >= MIN_POINTS]
    variants = [(p, i, j) for i, j in legal if (p := _parabola(sweep, i, j)).a > 0 and p.dof >= 0]
    inside = tuple(p for p, i, j in variants if grid[i] <= p.vertex <= grid[j - 1])
    return FittedSweep(sweep, "interior", fit, inside, _alternatives(sweep))


def _around(sweep: Sweep, points: int) -> tuple[int, int]:
    """The window grid[start:stop] of so many learning rates, the lowest loss as near its middle as may be."""
    size = min(points, sweep.high - sweep.low)
    start = int(np.clip(sweep.best - size // 2, sweep.low, sweep.high - size))
    return start, start + size


def _below(sweep: Sweep, rise: float) -> tuple[int, int]:
    """The window of the consecutive learning rates around the lowest loss that lose less than `rise` nats to it."""
    too_high = np.flatnonzero(~(sweep.curve <= sweep.curve[sweep.best] + rise))
    start = int(max(too_high[too_high < sweep.best], default=-1)) + 1
    return start, int(min(too_high[too_high > sweep.best], default=sweep.grid.size))


def _alternatives(sweep: Sweep) -> dict[str, Parabola]:
    """Windows by number of points, by rise of the loss, and one in which runs far off the curve count less."""
    windows = {f"{points} points": _around(sweep, points) for points in POINTS}
    windows |= {f"up to {rise:g} nats": _below(sweep, rise) for rise in RISES}
    fits = {name: (_parabola(sweep, i, j), i, j) for name, (i, j) in windows.items() if j - i >= MIN_POINTS}
    i, j = _around(sweep, ROBUST_POINTS)
    robust = fit_robust(sweep.log2_lr, sweep.loss, used=_used(sweep, i, j), group=sweep.seed)
    fits[f"{ROBUST_POINTS} points, robust"] = (robust, i, j)
    return {
        name: p
        for name, (p, i, j) in fits.items()
        if p.a > 0 and p.dof >= 0 and sweep.grid[i] <= p.vertex <= sweep.grid[j - 1]
    }


def _parabola(sweep: Sweep, start: int, stop: int) -> Parabola:
    return fit_parabola(sweep.log2_lr, sweep.loss, used=_used(sweep, start, stop), group=sweep.seed)


def _used(sweep: Sweep, start: int, stop: int) -> NDArray[np.bool_]:
    return (sweep.log2_lr >= sweep.grid[start]) & (sweep.log2_lr <= sweep.grid[stop - 1])
