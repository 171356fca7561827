"""A power law y = 2^level (T/T0)^e_T ... through estimates with errors, by generalised least squares in log2."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.fitting import Linear, linear_law, whitener
from analysis.laws import SIGMA_FLOOR, Points
from analysis.noise import Noise
from analysis.results import Estimate

Array = NDArray[np.floating]
Axis = Literal["tokens", "width", "batch"]
RELINKS = 30  # Gauss-Newton steps, from the fit in log2


@dataclass(frozen=True)
class LawPoint:
    """One estimate to be put on a law. `width` is 0 where widths are pooled, `batch` where there is none."""

    tokens: int
    width: int
    batch: int
    value: Estimate


@dataclass(frozen=True)
class LogPoints:
    """Points in log2, arrays (n,), with the covariance of `y`, (n, n) or of independent points (n,), known from
    `noise_dof` degrees of freedom."""

    tokens: Array
    width: Array
    batch: Array
    y: Array
    covariance: Array
    noise_dof: int

    @property
    def variance(self) -> Array:
        """(n,) of `y`."""
        return self.covariance if self.covariance.ndim == 1 else np.diag(self.covariance)

    def axis(self, name: Axis) -> Array:
        """log2 T, N or B."""
        return {"tokens": self.tokens, "width": self.width, "batch": self.batch}[name]


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law. Columns of its design: the levels, then log2 of each of `slopes` about its reference."""

    points: LogPoints
    levels: Array  # (n, m) which level each point has
    slopes: dict[Axis, float]  # log2 of T0, N0, B0: the means of the distinct values
    fit: Linear
    unit: str
    method: str

    @property
    def design(self) -> Array:
        """(n, m + slopes)."""
        return np.column_stack([self.levels, *(self.points.axis(name) - at for name, at in self.slopes.items())])

    def exponent(self, name: Axis) -> Estimate | None:
        """Of T, N or B; None where the law has none."""
        if name not in self.slopes:
            return None
        weights = np.zeros(self.fit.coefficient.size)
        weights[self.levels.shape[1] + list(self.slopes).index(name)] = 1.0
        return self._contrast(weights, "1")

    @property
    def coefficient(self) -> Estimate:
        """log2 y at the references, the mean over the levels."""
        return self._contrast(self._at(self.slopes), f"log2 {self.unit}")

    def at(self, tokens: float, width: float) -> Estimate:
        """y at any T and N: the law's own interval, without the scatter of single points about it."""
        e = self._contrast(self._at({**self.slopes, "tokens": np.log2(tokens), "width": np.log2(width)}), self.unit)
        value, low, high = (float(2.0 ** (end or 0.0)) for end in (e.value, e.low, e.high))
        return Estimate(value, low, high, self.unit, "ok", self.method)

    def _at(self, log2_place: dict[Axis, float]) -> Array:
        m = self.levels.shape[1]
        return np.array([*([1 / m] * m), *(log2_place[name] - at for name, at in self.slopes.items())])

    def _contrast(self, weights: Array, unit: str) -> Estimate:
        value, half = self.fit.contrast(weights)
        return Estimate(value, value - half, value + half, unit, "ok", self.method)


def fit_power_law(
    points: Sequence[LawPoint],
    noise: Noise,
    covariance: Array | None = None,
    *,
    batch_slope: bool = False,
    absolute: bool = False,
) -> PowerLaw | None:
    """The law through the points that have a value; a bound or an edge has no point and is left out.

    Exponents of T and, with several widths, of N; every batch has a level of its own, or with `batch_slope` there is
    one level and an exponent of B. `covariance` (m, m): of log2 of those values; default: their intervals, as
    independent. `absolute`: the errors are those of the values, not of their logarithms (see `_relinked`). None unless
    the points span two budgets and are enough for the levels and exponents.
    """
    absolute = absolute and noise.dof > 0
    log = log_points(points, noise, covariance, absolute=absolute)
    if log.y.size == 0 or np.ptp(log.tokens) == 0:
        return None
    wanted: dict[Axis, bool] = {"tokens": True, "batch": batch_slope, "width": True}
    names: list[Axis] = [name for name, asked in wanted.items() if asked and np.ptp(log.axis(name)) > 0]
    levels = (log.batch[:, None] == np.unique(log.batch)).astype(float)
    levels = np.ones((log.y.size, 1)) if batch_slope else levels
    slopes: dict[Axis, float] = {name: float(np.mean(np.unique(log.axis(name)))) for name in names}
    design = np.column_stack([levels, *(log.axis(name) - at for name, at in slopes.items())])
    fit = fit_design(log, design)
    if fit is not None and absolute:
        log, fit = _relinked(points, log, design, fit, noise)
    if fit is None:
        return None
    left_out = len(points) - log.y.size
    method = "least squares of the values themselves" if absolute else "weighted least squares in log2"
    method += ", a level per batch" if levels.shape[1] > 1 else ""
    method += f"; {left_out} of {len(points)} points without a value left out" if left_out else ""
    return PowerLaw(log, levels, slopes, fit, points[0].value.unit, method)


def _relinked(
    points: Sequence[LawPoint], log: LogPoints, design: Array, fit: Linear, noise: Noise
) -> tuple[LogPoints, Linear | None]:
    """The same law fitted to the values v with their own errors: v = 2^(design @ coefficient) + error.

    Taking logarithms of values that are not far above their errors bends a law: low ones get too large an error (it is
    relative to the value) and those below zero none at all. Gauss-Newton (the working response of a generalised linear
    model, McCullagh & Nelder 1989, section 2.5): y = log2 m + (v - m) / (m ln 2), m the law at the point.
    """
    values, sigma = _values(points, noise)
    for _ in range(RELINKS):
        law = 2.0 ** (design @ fit.coefficient)
        to_log = 1 / (law * np.log(2))
        log = replace(log, y=np.log2(law) + (values - law) * to_log, covariance=(sigma * to_log) ** 2)
        again = fit_design(log, design)
        if again is None or not np.all(np.isfinite(again.coefficient)):
            return log, None
        change, fit = np.max(np.abs(again.coefficient - fit.coefficient)), again
        if change < 1e-9:
            break
    return log, fit


def _values(points: Sequence[LawPoint], noise: Noise) -> tuple[Array, Array]:
    """(n,) values and standard errors of the points that have a value."""
    known = [p.value for p in points if p.value.value is not None]
    sigma = [((e.high or 0.0) - (e.low or 0.0)) / 2 / noise.quantile for e in known]
    values = np.array([e.value for e in known], float)
    return values, np.maximum(sigma, np.maximum(np.abs(values), 1e-12) * SIGMA_FLOOR)


def fit_design(log: LogPoints, design: Array) -> Linear | None:
    """Generalised least squares on any design (n, p); None if the points do not determine it or its errors."""
    spare = log.y.size - design.shape[1]
    # Without known errors only the scatter about the law can measure them.
    if spare < (log.noise_dof == 0) or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    whiten = log.covariance**-0.5 if log.covariance.ndim == 1 else whitener(log.covariance)
    return linear_law(design, log.y, whiten, log.noise_dof)


def log_points(
    points: Sequence[LawPoint], noise: Noise, covariance: Array | None = None, *, absolute: bool = False
) -> LogPoints:
    """The points that have a value above zero, in log2; `absolute`: also others, as if their value were its error."""
    if absolute:
        values, errors = _values(points, noise)
        known = [p for p in points if p.value.value is not None]
        y = np.log2(np.maximum(values, errors))
        sigma = errors / (2.0**y * np.log(2))
    else:
        known = [p for p in points if (p.value.value or 0) > 0]
        y, sigma = np.array([_log2_point(p.value, noise) for p in known], float).reshape(-1, 2).T
    if noise.dof == 0:
        sigma, covariance = np.full(y.size, SIGMA_FLOOR), None
    axes = np.array([(p.tokens, p.width, p.batch) for p in known], float).reshape(-1, 3).T
    tokens, width, batch = np.log2(np.maximum(axes, 1))
    return LogPoints(tokens, width, batch, y, sigma**2 if covariance is None else covariance, noise.dof)


def log_points_of(points: Points) -> LogPoints:
    """eta* of the cells as points of a law."""
    covariance = points.covariance if points.noise_dof else np.full(points.lr.size, SIGMA_FLOOR**2)
    return LogPoints(points.tokens, points.width, points.batch, points.lr, covariance, points.noise_dof)


def _log2_point(e: Estimate, noise: Noise) -> tuple[float, float]:
    """log2 of an estimate and its standard error in octaves; the smallest error where it has no interval.

    An interval that reaches zero has no logarithm: the error is then taken to first order, so that the point stays in
    with little weight. To leave it out would leave out the low ones.
    """
    value = e.value or np.nan
    if e.low is None or e.high is None:
        return float(np.log2(value)), SIGMA_FLOOR
    octaves = np.log2(e.high / e.low) if e.low > 0 else (e.high - e.low) / (value * np.log(2))
    return float(np.log2(value)), max(float(octaves) / 2 / noise.quantile, SIGMA_FLOOR)
