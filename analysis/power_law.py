"""A power law y = 2^level (T/T0)^e_T (N/N0)^e_N through estimates with errors, by generalised least squares in log2."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting import Linear, linear_law, whitener
from analysis.laws import SIGMA_FLOOR
from analysis.noise import Noise
from analysis.results import Estimate

Array = NDArray[np.floating]


@dataclass(frozen=True)
class LawPoint:
    """One estimate to be put on a law. `width` is 0 where widths are pooled, `batch` where there is none."""

    tokens: int
    width: int
    batch: int
    value: Estimate


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law. Columns of its design: a level for every batch, log2 T/T0, and with several widths log2 N/N0."""

    fit: Linear
    n_levels: int
    n_points: int
    log2_t0: float
    log2_n0: float
    several_widths: bool
    unit: str
    method: str

    @property
    def exponent(self) -> Estimate:
        """Of T."""
        return self._linear(np.eye(self.fit.coefficient.size)[self.n_levels], "1")

    @property
    def exponent_width(self) -> Estimate | None:
        """Of N; None with one width."""
        return self._linear(np.eye(self.fit.coefficient.size)[-1], "1") if self.several_widths else None

    @property
    def coefficient(self) -> Estimate:
        """log2 y at T0 and N0, the mean over the batches."""
        return self._linear(self._weights(self.log2_t0, self.log2_n0), f"log2 {self.unit}")

    def at(self, tokens: float, width: float) -> Estimate:
        """y at any T and N: the law's own interval, without the scatter of single points about it."""
        e = self._linear(self._weights(np.log2(tokens), np.log2(width)), self.unit)
        value, low, high = (float(2.0**end) for end in (e.value or 0.0, e.low or 0.0, e.high or 0.0))
        return Estimate(value, low, high, self.unit, "ok", self.method)

    def _weights(self, log2_tokens: float, log2_width: float) -> Array:
        slopes = [log2_tokens - self.log2_t0, *([log2_width - self.log2_n0] if self.several_widths else [])]
        return np.array([*([1 / self.n_levels] * self.n_levels), *slopes])

    def _linear(self, weights: Array, unit: str) -> Estimate:
        value, half = self.fit.contrast(weights)
        return Estimate(value, value - half, value + half, unit, "ok", self.method)


def fit_power_law(points: Sequence[LawPoint], noise: Noise, covariance: Array | None = None) -> PowerLaw | None:
    """The law through the points that have a value; a bound or an edge has no point and is left out.

    `covariance` (m, m): of log2 of those values; default: their intervals, as independent. None unless the points span
    two budgets and are enough for the levels and exponents.
    """
    rows = [(p, *_log2_point(p.value, noise)) for p in points if (p.value.value or 0) > 0]
    tokens = np.array([np.log2(p.tokens) for p, _, _ in rows])
    if not rows or np.ptp(tokens) == 0:
        return None
    width = np.array([p.width for p, _, _ in rows])
    batch = np.array([p.batch for p, _, _ in rows])
    y, sigma = np.array([v for _, v, _ in rows]), np.array([s for _, _, s in rows])
    t0 = float(np.mean(np.unique(tokens)))
    levels = (batch[:, None] == np.unique(batch)).astype(float)
    columns = [levels, tokens[:, None] - t0]
    several_widths = np.unique(width).size > 1
    log2_width = np.log2(np.maximum(width, 1))
    n0 = float(np.mean(np.unique(log2_width)))
    if several_widths:
        columns.append(log2_width[:, None] - n0)
    design = np.hstack(columns)
    if y.size < design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    if noise.dof == 0:  # errors unknown: only the scatter about the law can measure them
        if y.size == design.shape[1]:
            return None
        sigma, covariance = np.full(y.size, SIGMA_FLOOR), None
    left_out = len(points) - len(rows)
    method = "weighted least squares in log2" + (", a level per batch" if levels.shape[1] > 1 else "")
    method += f"; {left_out} of {len(points)} points without a value left out" if left_out else ""
    return PowerLaw(
        fit=linear_law(design, y, whitener(sigma**2 if covariance is None else covariance), noise.dof),
        n_levels=levels.shape[1],
        n_points=y.size,
        log2_t0=t0,
        log2_n0=n0,
        several_widths=several_widths,
        unit=points[0].value.unit,
        method=method,
    )


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
