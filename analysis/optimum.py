"""From the run table to one optimum per cell (N, T, B): eta*, the loss there and the curvature, each with its error.

The noise of one run's loss is estimated once per budget, from the residuals of the parabolas of all its cells: with
one seed a cell of five learning rates has only two degrees of freedom of its own, pooled cells have dozens. The pooled
residual also contains what is not a parabola, which errs on the safe side. An offset that a seed gives to all learning
rates of a cell is fitted, not counted as noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.parabola import Parabola, fit_parabola, vertex_interval
from analysis.results import Cell, CellState, Estimate
from analysis.sensitivity import window_weights, wortsman, wortsman_weights

Array = NDArray[np.float64]
CELL = ["width", "tokens", "batch_tokens"]
MIN_POINTS = 3
METHOD = "quadratic in log2 lr"


@dataclass(frozen=True)
class Noise:
    """What the cells say together about the errors of a run table.

    sigma: one run's loss, nats, by budget (empty if no cell has a degree of freedom to spare). dof: of all of them.
    correlation: of the noise at two budgets of the same (N, B, lr, seed), in [0, 0.95]; near 1 when one run is read
    out at several budgets. window_octaves: scatter of log2 eta* under +-1 point in the window beyond what noise explains.
    """

    sigma: dict[int, float]
    dof: int
    correlation: float
    window_octaves: float


@dataclass(frozen=True)
class _Sweep:
    """One cell's runs and the parabola through them; arrays (n,) over finished runs unless said otherwise."""

    key: tuple[int, int, int]
    log2_lr: Array
    loss: Array
    seed: NDArray[np.int64]
    run: NDArray[np.int64]  # row labels of the run table without tokens, for the correlation over budgets
    grid: Array  # (g,) all log2 learning rates tried, ascending
    curve: Array  # (g,) mean loss over seeds, inf where any seed diverged
    loss_init: float | None
    n_seeds: int
    n_diverged: int
    state: CellState
    fit: Parabola | None = None
    variants: tuple[Parabola, ...] = field(default=())


def find_optima(table: pd.DataFrame, *, window: int = 5) -> tuple[tuple[Cell, ...], Noise]:
    """All cells of a run table, ordered by (width, tokens, batch), and the noise they were judged by.

    `window`: how many learning rates around the lowest loss enter the parabola (at least 3). A cell is `interior` only
    if the lowest loss is inside the grid (a diverged run counts as higher than any loss), the curvature is positive at
    95 % and the vertex is inside the window; otherwise its eta* is a bound or nothing, never an extrapolation.
    """
    sweeps = [_sweep(key, cell, window) for key, cell in _cells(table)]
    noise = _noise(sweeps)
    return tuple(_cell(sweep, noise) for sweep in sweeps), noise


def _cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, int, int], pd.DataFrame]]:
    table = table.sort_values([*CELL, "lr", "seed"])
    table = table.assign(run=table.groupby(["width", "batch_tokens", "lr", "seed"]).ngroup())
    for (width, tokens, batch), cell in table.groupby(CELL):  # pyright: ignore[reportGeneralTypeIssues]
        yield (int(width), int(tokens), int(batch)), cell


def _sweep(key: tuple[int, int, int], cell: pd.DataFrame, window: int) -> _Sweep:
    log2_lr, loss = np.log2(cell["lr"].to_numpy(float)), cell["loss"].to_numpy(float)
    seed, finished = cell["seed"].to_numpy(int), np.isfinite(loss)
    grid, where = np.unique(log2_lr, return_inverse=True)
    curve = _mean_over_seeds(where, loss, seed, grid.size)
    inits = cell["loss_init"].dropna() if "loss_init" in cell else ()
    sweep = _Sweep(
        key=key,
        log2_lr=log2_lr[finished],
        loss=loss[finished],
        seed=seed[finished],
        run=cell["run"].to_numpy(int)[finished],
        grid=grid,
        curve=curve,
        loss_init=float(np.mean(inits)) if len(inits) else None,
        n_seeds=len(np.unique(seed)),
        n_diverged=int((~finished).sum()),
        state="too_few",
    )
    return _fit(sweep, window)


def _mean_over_seeds(where: NDArray[np.intp], loss: Array, seed: NDArray[np.int64], size: int) -> Array:
    """(g,) loss by learning rate with the seeds' offsets removed; inf where any seed diverged.

    Two-way additive least squares: equal to the plain mean when every seed has every learning rate, and not tilted by
    extra seeds that were run only near the optimum.
    """
    curve = np.full(size, np.inf)
    good = ~np.isin(where, where[~np.isfinite(loss)])
    if not good.any():
        return curve
    rates, seeds = np.unique(where[good]), np.unique(seed[good])
    design = np.column_stack(
        [where[good, None] == rates, (seed[good, None] == seeds[1:]).astype(float) - (seed[good, None] == seeds[:1])]
    )
    curve[rates] = np.linalg.lstsq(design.astype(float), loss[good], rcond=None)[0][: rates.size]
    return curve


def _fit(sweep: _Sweep, window: int) -> _Sweep:
    """The sweep with its state, and with its parabolas when the lowest loss is bracketed."""
    best = int(np.argmin(sweep.curve))
    low, high = best, best + 1  # the run of learning rates around the best without a diverged one: grid[low:high]
    while low > 0 and np.isfinite(sweep.curve[low - 1]):
        low -= 1
    while high < sweep.grid.size and np.isfinite(sweep.curve[high]):
        high += 1
    if not np.isfinite(sweep.curve[best]) or high - low < MIN_POINTS:
        return sweep
    if best == 0:
        return _replace(sweep, state="edge_low")
    if best == sweep.grid.size - 1:
        return _replace(sweep, state="edge_high")

    size = min(window, high - low)
    start = int(np.clip(best - size // 2, low, high - size))
    fit = _parabola(sweep, start, start + size)
    if fit.a <= 0:
        return _replace(sweep, state="not_convex")
    first, last = sweep.grid[start], sweep.grid[start + size - 1]
    if fit.vertex < first or fit.vertex > last:
        return _replace(sweep, state="edge_low" if fit.vertex < first else "edge_high")
    neighbours = [(start - 1, start + size), (start, start + size + 1), (start + 1, start + size), (start, start + size - 1)]
    variants = [_parabola(sweep, i, j) for i, j in neighbours if low <= i <= best < j <= high and j - i >= MIN_POINTS]
    inside = tuple(p for p in variants if p.a > 0 and p.center - 2 * size < p.vertex < p.center + 2 * size)
    return _replace(sweep, state="interior", fit=fit, variants=inside)


def _parabola(sweep: _Sweep, start: int, stop: int) -> Parabola:
    used = (sweep.log2_lr >= sweep.grid[start]) & (sweep.log2_lr <= sweep.grid[stop - 1])
    return fit_parabola(sweep.log2_lr, sweep.loss, used=used, group=sweep.seed)
