"""From the run table to one optimum per cell (N, T, B): eta*, the loss there and the curvature, each with its error."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.noise import Noise, estimate_noise, linear_estimate
from analysis.parabola import Parabola, vertex_interval
from analysis.results import Cell, CellState, Estimate
from analysis.sensitivity import window_weights, wortsman, wortsman_weights
from analysis.sweep import FittedSweep, Sweep, fit_sweep, sweeps_of

Array = NDArray[np.floating]
WHY: dict[CellState, str] = {
    "edge_low": "the lowest loss is at the lower end of the learning rates",
    "edge_high": "the lowest loss is at the upper end of the learning rates",
    "too_few": "fewer than 3 learning rates around the lowest loss have a loss",
    "not_convex": "the curvature around the lowest loss is not positive at 95 %, or hardly so",
}


@dataclass(frozen=True)
class Optima:
    """All cells of a run table, ordered by (width, tokens, batch), and how they were judged.

    `by_window`: the same cells with optimum, loss and curvature from another window of the documented set, by its name;
    a cell in which that window has no minimum keeps its own.
    """

    cells: tuple[Cell, ...]
    noise: Noise
    lr_covariance: Array  # (m, m) of log2 eta* over the m interior cells in their order, octaves^2
    by_window: dict[str, tuple[Cell, ...]]


def find_optima(table: pd.DataFrame, *, window: int = 5) -> Optima:
    """The optimum of every cell.

    `table` needs width, tokens, batch_tokens, lr, seed, loss (NaN: diverged), and loss_init where known. Cells without
    any loss are left out. `window` (at least 3): how many learning rates around the lowest loss enter the parabola.
    A cell is `interior` only if the lowest loss is inside the grid (a diverged run counts as higher than any loss), the
    curvature is positive at 95 % and the vertex is inside the window; otherwise eta* is a bound or nothing.
    """
    fitted = [fit_sweep(sweep, window) for sweep in sweeps_of(table)]
    noise = estimate_noise(fitted)
    cells = tuple(_cell(f, noise) for f in fitted)
    names = dict.fromkeys(name for f in fitted for name in f.alternatives)
    by_window = {
        name: tuple(_moved(cell, f.alternatives.get(name)) for cell, f in zip(cells, fitted, strict=True))
        for name in names
    }
    return Optima(cells, noise, _lr_covariance(fitted, cells, noise), by_window)


def _moved(cell: Cell, parabola: Parabola | None) -> Cell:
    """A cell with the optimum of another parabola; intervals keep their size."""
    if parabola is None or not cell.lr.value or cell.loss.value is None or cell.curvature.value is None:
        return cell
    return replace(
        cell,
        lr=_shifted(cell.lr, 2.0**parabola.vertex, factor=2.0**parabola.vertex / cell.lr.value),
        loss=_shifted(cell.loss, parabola.minimum, add=parabola.minimum - cell.loss.value),
        curvature=_shifted(cell.curvature, parabola.a, add=parabola.a - cell.curvature.value),
    )


def _shifted(e: Estimate, value: float, *, factor: float = 1.0, add: float = 0.0) -> Estimate:
    low, high = (None if end is None else float(end * factor + add) for end in (e.low, e.high))
    return replace(e, value=float(value), low=low, high=high)


def _lr_covariance(fitted: list[FittedSweep], cells: tuple[Cell, ...], noise: Noise) -> Array:
    """What the same run, read out at several budgets, does to eta* at each of them, to first order in its noise."""
    interior = [
        (f.sweep, f.fit, c) for f, c in zip(fitted, cells, strict=True) if f.fit and c.log2_lr_sigma is not None
    ]
    influence = np.zeros((len(interior), 1 + max((int(f.sweep.run.max()) for f in fitted), default=0)))
    for row, (sweep, fit, cell) in zip(influence, interior, strict=True):
        row[sweep.run] = (cell.loss_sigma or 0.0) * fit.vertex_weights
    covariance = noise.correlation * influence @ influence.T
    np.fill_diagonal(covariance, [(cell.log2_lr_sigma or 0.0) ** 2 for *_, cell in interior])
    return covariance


def _cell(fitted: FittedSweep, noise: Noise) -> Cell:
    sweep, fit, state = fitted.sweep, fitted.fit, fitted.state
    width, tokens, batch = sweep.key
    sigma = noise.of(tokens, batch)
    interval = None if fit is None else _lr_interval(sweep, fit, sigma, noise)
    if fit is not None and interval is None:
        fit, state = None, "not_convex"

    if fit is not None and interval is not None:
        low, high = interval
        method = f"quadratic in log2 lr, {int(fit.used.sum())} runs"
        how = "neighbouring learning rates" if sigma is None else "Fieller, pooled residual noise"
        lr = Estimate(2**fit.vertex, 2**low, 2**high, "lr", "ok", f"{method}; interval: {how}")
        loss = linear_estimate(fit.minimum, fit.minimum_weights, sigma, noise.quantile, "nats", method)
        curvature = linear_estimate(fit.a, fit.solve[0], sigma, noise.quantile, "nats/octave^2", method)
        half = (high - low) / 2 / noise.quantile
    else:
        lr = _bound(sweep, state)
        loss = Estimate(None, None, float(sweep.curve[sweep.best]), "nats", "upper_bound", "lowest loss of the grid")
        curvature = _unknown("nats/octave^2", WHY[state])
        half = None
    lr_by_window = {name: float(2.0**p.vertex) for name, p in fitted.alternatives.items()} if fit else {}
    every = [fit.vertex, *np.log2(list(lr_by_window.values()))] if fit else []
    return Cell(
        width=width,
        tokens=tokens,
        batch_tokens=batch,
        state=state,
        lr=lr,
        loss=loss,
        curvature=curvature,
        argmin_lr=float(2 ** sweep.grid[sweep.best]),
        argmin_loss=float(sweep.curve[sweep.best]),
        n_lrs=sweep.grid.size,
        n_seeds=sweep.n_seeds,
        n_diverged=sweep.n_diverged,
        window=tuple(float(2**x) for x in np.unique(sweep.log2_lr[fit.used])) if fit else (),
        log2_lr_sigma=half,
        sensitivity=_sensitivity(sweep, fit, sigma, noise.quantile),
        loss_sigma=sigma,
        window_octaves=float(np.ptp(every)) if fit else None,
        lr_by_window=lr_by_window,
    )


def _lr_interval(sweep: Sweep, fit: Parabola, sigma: float | None, noise: Noise) -> tuple[float, float] | None:
    """95 % interval of log2 eta*: Fieller's for the noise, widened in quadrature by the choice of the window.

    None if the curvature does not differ from zero, or the interval is wider than the sweep. The neighbours of the
    lowest loss if the noise is unknown, without a degree of freedom to spare anywhere in the table.
    """
    if sigma is None:
        return float(sweep.grid[sweep.best - 1]), float(sweep.grid[min(sweep.best + 1, sweep.grid.size - 1)])
    interval = vertex_interval(fit, sigma, noise.quantile)
    if interval is None:
        return None
    low, high = (float(np.hypot(end - fit.vertex, noise.quantile * noise.window_octaves)) for end in interval)
    # Wider than all that was swept: the data would not notice the learning rate.
    return (fit.vertex - low, fit.vertex + high) if low + high < np.ptp(sweep.grid) else None


def _sensitivity(sweep: Sweep, fit: Parabola | None, sigma: float | None, quantile: float) -> dict[str, Estimate]:
    """Wortsman's measure and the two windows; a learning rate at which any seed diverged counts as diverged."""
    per_rate = np.array([(sweep.log2_lr == x).sum() for x in sweep.grid])
    error = None if sigma is None else sigma / np.sqrt(np.maximum(per_rate, 1))
    curve = np.where(np.isfinite(sweep.curve), sweep.curve, np.nan)
    value = wortsman(curve, sweep.loss_init)
    result = {"wortsman": _unknown("nats", "a run diverged and loss_init is missing")}
    if value is not None:
        weights = wortsman_weights(curve, sweep.loss_init)
        result["wortsman"] = linear_estimate(
            value, weights, error, quantile, "nats", "Wortsman et al. 2023, over the sweep"
        )
    for octaves in (1, 2):
        name = f"window{octaves}"
        result[name] = _unknown("nats", f"needs an interior optimum and losses at +-{octaves} octaves around it")
        if fit is None:
            continue
        finite = slice(sweep.low, sweep.high)
        over_grid = window_weights(sweep.grid[finite], fit.vertex, octaves)
        if over_grid is not None:
            spread = np.zeros(sweep.grid.size)
            spread[finite] = over_grid
            place = np.searchsorted(sweep.grid, sweep.log2_lr)
            weights = (spread / np.maximum(per_rate, 1))[place] - fit.minimum_weights
            value = float(over_grid @ sweep.curve[finite]) - fit.minimum
            method = f"mean loss within +-{octaves} octaves of lr*, minus loss at lr*"
            result[name] = linear_estimate(value, weights, sigma, quantile, "nats", method)
    return result


def _bound(sweep: Sweep, state: CellState) -> Estimate:
    """eta* of a cell that is not interior, by the neighbours of its lowest loss: true for a curve with one minimum."""
    if state == "edge_low":
        return Estimate(None, None, float(2 ** sweep.grid[sweep.best + 1]), "lr", "upper_bound", WHY[state])
    if state == "edge_high":
        return Estimate(None, float(2 ** sweep.grid[sweep.best - 1]), None, "lr", "lower_bound", WHY[state])
    return _unknown("lr", WHY[state])


def _unknown(unit: str, why: str) -> Estimate:
    return Estimate(None, None, None, unit, "not_identified", why)
