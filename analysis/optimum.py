"""From the run table to one optimum per cell (N, T, B): eta*, the loss there and the curvature, each with its error.

The noise of one run's loss is estimated once per budget, from the residuals of the parabolas of all its cells: with
one seed a cell of five learning rates has only two degrees of freedom of its own, pooled cells have dozens. The pooled
residual also contains what is not a parabola, which errs on the safe side. An offset that a seed gives to all learning
rates of a cell is fitted, not counted as noise.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.parabola import Parabola, fit_parabola, vertex_interval
from analysis.results import Cell, CellState, Estimate
from analysis.sensitivity import window_weights, wortsman, wortsman_weights

Array = NDArray[np.floating]
MIN_POINTS = 3
MIN_DOF = 8  # fewer at one budget: take the noise of all budgets together
NORMAL_95 = 1.96
WHY: dict[CellState, str] = {
    "edge_low": "the lowest loss is at the lower end of the learning rates",
    "edge_high": "the lowest loss is at the upper end of the learning rates",
    "too_few": "fewer than 3 learning rates around the lowest loss have a loss",
    "not_convex": "the curvature around the lowest loss is not positive at 95 %",
}


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
    """One cell's runs. Arrays (n,) hold the runs with a loss; `grid` and `curve` (g,) have a place per learning rate."""

    key: tuple[int, int, int]
    log2_lr: Array
    loss: Array
    seed: NDArray[np.int64]
    run: NDArray[np.int64]  # the same number at every budget for the same (N, B, lr, seed)
    grid: Array  # log2 of all learning rates tried, ascending
    curve: Array  # loss with the seeds' offsets removed, inf where any seed diverged
    best: int  # argmin of curve
    low: int  # grid[low:high] are the consecutive learning rates around the best at which no run diverged
    high: int
    loss_init: float | None
    n_seeds: int
    n_diverged: int


@dataclass(frozen=True)
class _Fitted:
    """A sweep, what can be said of its minimum, and the parabolas: the chosen one and those of +-1 point."""

    sweep: _Sweep
    state: CellState
    fit: Parabola | None = None
    variants: tuple[Parabola, ...] = ()


def find_optima(table: pd.DataFrame, *, window: int = 5) -> tuple[tuple[Cell, ...], Noise]:
    """All cells of a run table, ordered by (width, tokens, batch), and the noise they were judged by.

    `table` needs width, tokens, batch_tokens, lr, seed, loss (NaN: diverged), and loss_init where known. Cells without
    any loss are left out. `window` (at least 3): how many learning rates around the lowest loss enter the parabola.
    A cell is `interior` only if the lowest loss is inside the grid (a diverged run counts as higher than any loss), the
    curvature is positive at 95 % and the vertex is inside the window; otherwise eta* is a bound or nothing.
    """
    sweeps = [sweep for key, runs in _cells(table) if (sweep := _sweep(key, runs)) is not None]
    fitted = [_fit(sweep, window) for sweep in sweeps]
    noise = _noise([f for f in fitted if f.fit is not None])
    return tuple(_cell(f, noise) for f in fitted), noise


def _cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, int, int], pd.DataFrame]]:
    table = table.assign(run=table.groupby(["width", "batch_tokens", "lr", "seed"]).ngroup())
    for (width, tokens, batch), runs in table.sort_values(["lr", "seed"]).groupby(["width", "tokens", "batch_tokens"]):  # pyright: ignore[reportGeneralTypeIssues]
        yield (int(width), int(tokens), int(batch)), runs


def _sweep(key: tuple[int, int, int], runs: pd.DataFrame) -> _Sweep | None:
    log2_lr, loss, seed = np.log2(runs["lr"].to_numpy(float)), runs["loss"].to_numpy(float), runs["seed"].to_numpy(int)
    finished = np.isfinite(loss)
    grid, place = np.unique(log2_lr, return_inverse=True)
    curve = _curve(place, loss, seed, grid.size)
    best = int(np.argmin(curve))
    if not np.isfinite(curve[best]):
        return None
    breaks = np.flatnonzero(~np.isfinite(curve))
    inits = runs["loss_init"].dropna() if "loss_init" in runs else ()
    return _Sweep(
        key=key,
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


def _curve(place: NDArray[np.intp], loss: Array, seed: NDArray[np.int64], size: int) -> Array:
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


def _fit(sweep: _Sweep, window: int) -> _Fitted:
    grid, best, low, high = sweep.grid, sweep.best, sweep.low, sweep.high
    if high - low < MIN_POINTS:
        return _Fitted(sweep, "too_few")
    if best in (0, grid.size - 1):
        return _Fitted(sweep, "edge_low" if best == 0 else "edge_high")
    size = min(window, high - low)
    start = int(np.clip(best - size // 2, low, high - size))
    stop = start + size
    fit = _parabola(sweep, start, stop)
    if fit.a <= 0:
        return _Fitted(sweep, "not_convex")
    if not grid[start] <= fit.vertex <= grid[stop - 1]:
        return _Fitted(sweep, "edge_low" if fit.vertex < grid[start] else "edge_high")
    windows = [(start - 1, stop), (start + 1, stop), (start, stop - 1), (start, stop + 1)]
    legal = [(i, j) for i, j in windows if low <= i <= best < j <= high and j - i >= MIN_POINTS]
    variants = [(p, i, j) for i, j in legal if (p := _parabola(sweep, i, j)).a > 0]
    return _Fitted(sweep, "interior", fit, tuple(p for p, i, j in variants if grid[i] <= p.vertex <= grid[j - 1]))


def _parabola(sweep: _Sweep, start: int, stop: int) -> Parabola:
    used = (sweep.log2_lr >= sweep.grid[start]) & (sweep.log2_lr <= sweep.grid[stop - 1])
    return fit_parabola(sweep.log2_lr, sweep.loss, used=used, group=sweep.seed)


def _noise(fitted: list[_Fitted]) -> Noise:
    rows = pd.DataFrame(
        [
            (f.sweep.key[1], run, residual, f.fit.dof / f.fit.used.sum())
            for f in fitted
            if f.fit is not None
            for run, residual in zip(f.sweep.run[f.fit.used], f.fit.residual[f.fit.used], strict=True)
        ],
        columns=pd.Index(["tokens", "run", "residual", "dof"]),
    )
    dof = round(rows["dof"].sum())
    if dof == 0:
        return Noise({}, 0, 0.0, 0.0)
    overall = float(np.sqrt((rows["residual"] ** 2).sum() / dof))
    sigma = {}
    for tokens, group in rows.groupby("tokens"):
        own = group["dof"].sum()
        enough = own >= MIN_DOF
        sigma[int(str(tokens))] = float(np.sqrt((group["residual"] ** 2).sum() / own)) if enough else overall
    excess = [
        (p.vertex - f.fit.vertex) ** 2
        - (sigma[f.sweep.key[1]] * np.linalg.norm(p.vertex_weights - f.fit.vertex_weights)) ** 2
        for f in fitted
        if f.fit is not None
        for p in f.variants
    ]
    return Noise(sigma, dof, _correlation(rows), float(np.sqrt(max(np.mean(excess), 0.0))) if excess else 0.0)


def _correlation(rows: pd.DataFrame) -> float:
    """Correlation of the residuals of the same run at two budgets, over all pairs of budgets, kept in [0, 0.95]."""
    wide = rows.pivot(index="run", columns="tokens", values="residual").to_numpy()
    products = norms = 0.0
    for i, j in itertools.combinations(range(wide.shape[1]), 2):
        both = np.isfinite(wide[:, i]) & np.isfinite(wide[:, j])
        products += wide[both, i] @ wide[both, j]
        norms += np.linalg.norm(wide[both, i]) * np.linalg.norm(wide[both, j])
    return float(np.clip(products / norms, 0.0, 0.95)) if norms > 0 else 0.0


def _cell(fitted: _Fitted, noise: Noise) -> Cell:
    sweep, fit, state = fitted.sweep, fitted.fit, fitted.state
    width, tokens, batch = sweep.key
    sigma = noise.sigma.get(tokens)
    quantile = float(stats.t.ppf(0.975, noise.dof)) if noise.dof else None
    interval = None
    if fit is not None:
        interval = _lr_interval(sweep, fit, sigma, quantile, noise.window_octaves)
        state = "not_convex" if interval is None else state

    if fit is not None and interval is not None:
        low, high = interval
        lr = Estimate(2**fit.vertex, 2**low, 2**high, "lr", "ok", _method(fit, quantile))
        loss = linear_estimate(fit.minimum, fit.minimum_weights, sigma, quantile, "nats", _method(fit, quantile))
        curvature = linear_estimate(fit.a, fit.solve[0], sigma, quantile, "nats/octave^2", _method(fit, quantile))
        half = (high - low) / 2 / (quantile or NORMAL_95)
    else:
        lr = _bound(sweep, state)
        loss = Estimate(None, None, float(sweep.curve[sweep.best]), "nats", "upper_bound", "lowest loss of the grid")
        curvature = _unknown("nats/octave^2", WHY[state])
        half = None
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
        window=tuple(float(2**x) for x in np.unique(sweep.log2_lr[fit.used])) if half is not None and fit else (),
        log2_lr_sigma=half,
        sensitivity=_sensitivity(sweep, fit if half is not None else None, sigma, quantile),
        loss_sigma=sigma,
    )


def _lr_interval(
    sweep: _Sweep, fit: Parabola, sigma: float | None, quantile: float | None, window_octaves: float
) -> tuple[float, float] | None:
    """95 % interval of log2 eta*: Fieller's for the noise, widened in quadrature by the choice of the window.

    Without a degree of freedom anywhere in the table the noise is unknown: then the neighbours of the lowest loss.
    """
    if sigma is None or quantile is None:
        return float(sweep.grid[sweep.best - 1]), float(sweep.grid[min(sweep.best + 1, sweep.grid.size - 1)])
    interval = vertex_interval(fit, sigma, quantile)
    if interval is None:
        return None
    low, high = (float(np.hypot(end - fit.vertex, quantile * window_octaves)) for end in interval)
    return fit.vertex - low, fit.vertex + high


def _sensitivity(
    sweep: _Sweep, fit: Parabola | None, sigma: float | None, quantile: float | None
) -> dict[str, Estimate]:
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


def linear_estimate(
    value: float, weights: Array, sigma: Array | float | None, quantile: float | None, unit: str, method: str
) -> Estimate:
    """Interval of a quantity that is linear in losses with noise `sigma`; without `sigma` it has no interval."""
    if sigma is None or quantile is None:
        return Estimate(float(value), None, None, unit, "ok", f"{method}; noise not measurable")
    half = quantile * float(np.linalg.norm(weights * sigma))
    return Estimate(float(value), float(value - half), float(value + half), unit, "ok", method)


def _bound(sweep: _Sweep, state: CellState) -> Estimate:
    """eta* of a cell that is not interior, from the neighbours of its lowest loss: true for any curve with one minimum."""
    if state == "edge_low":
        return Estimate(None, None, float(2 ** sweep.grid[sweep.best + 1]), "lr", "upper_bound", WHY[state])
    if state == "edge_high":
        return Estimate(None, float(2 ** sweep.grid[sweep.best - 1]), None, "lr", "lower_bound", WHY[state])
    return _unknown("lr", WHY[state])


def _unknown(unit: str, why: str) -> Estimate:
    return Estimate(None, None, None, unit, "not_identified", why)


def _method(fit: Parabola, quantile: float | None) -> str:
    interval = "Fieller interval, pooled residual noise" if quantile else "interval: neighbouring learning rates"
    return f"quadratic in log2 lr, {int(fit.used.sum())} runs; {interval}"
