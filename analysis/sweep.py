"""The runs of one cell (N, T, B) and the parabola through the learning rates around the lowest loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.parabola import Parabola, fit_parabola
from analysis.results import CellState

Array = NDArray[np.floating]
Ints = NDArray[np.integer]
MIN_POINTS = 3


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
    """A sweep, what can be said of its minimum, and the parabolas: the chosen one and those of +-1 point."""

    sweep: Sweep
    state: CellState
    fit: Parabola | None = None
    variants: tuple[Parabola, ...] = ()


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
    size = min(window, high - low)
    start = int(np.clip(best - size // 2, low, high - size))
    stop = start + size
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
    return FittedSweep(sweep, "interior", fit, tuple(p for p, i, j in variants if grid[i] <= p.vertex <= grid[j - 1]))


def _parabola(sweep: Sweep, start: int, stop: int) -> Parabola:
    used = (sweep.log2_lr >= sweep.grid[start]) & (sweep.log2_lr <= sweep.grid[stop - 1])
    return fit_parabola(sweep.log2_lr, sweep.loss, used=used, group=sweep.seed)
