"""Intervals from K independent blocks of data: delete one at a time, see what moves.

A statistic's replicates are an array (K + 1, ...): from all blocks, then without block 0, 1, ... Whatever is computed
from replicates elementwise is again one. Intervals are Student's with K - 1 degrees of freedom (Tukey 1958).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.results import Estimate, bounded

Array = NDArray[np.floating]


def mean_replicates(values: ArrayLike) -> Array:
    """Replicates (K + 1, ...) of the mean over blocks of `values` (K, ...)."""
    values = np.asarray(values, float)
    total, count = values.sum(0), len(values)
    return np.concatenate([total[None] / count, (total - values) / (count - 1)])


def pair_replicates(values: ArrayLike) -> Array:
    """Replicates (K + 1, ...) of the mean over ordered pairs of different blocks of `values` (..., K, K), K >= 3.

    Unbiased where [k, l] is a product of what blocks k and l say by themselves: no block meets its own noise.
    """
    values = np.asarray(values, float)
    count = values.shape[-1]
    off = values * (1 - np.eye(count))
    total = off.sum((-2, -1))
    without = total[..., None] - off.sum(-1) - off.sum(-2)
    return np.concatenate([total[None] / (count * (count - 1)), np.moveaxis(without, -1, 0) / _pairs(count - 1)])


def _pairs(count: int) -> int:
    return count * (count - 1)


def estimate(replicates: Array, unit: str, method: str, *, positive: bool = False) -> Estimate:
    """Value and interval of one statistic from its replicates (K + 1,); by its logarithm if it is `positive`."""
    if not np.all(np.isfinite(replicates)) or (positive and np.any(replicates <= 0)):
        return Estimate(None, None, None, unit, "not_identified", method)
    there: Callable[[float], float] = (lambda x: float(np.exp(x))) if positive else float
    values = np.log(replicates) if positive else replicates
    value, half = float(values[0]), student(len(values) - 2) * float(np.sqrt(covariance(values[:, None])[0, 0]))
    return Estimate(there(value), there(value - half), there(value + half), unit, "ok", method)


def ratio(numerator: Array, denominator: Array, unit: str, method: str) -> Estimate:
    """Of two statistics with replicates (K + 1,), the first one positive; where the second may be zero, a bound."""
    both = np.stack([numerator, denominator], axis=1)
    return fieller((float(both[0, 0]), float(both[0, 1])), covariance(both), len(both) - 2, unit, method)


def fieller(means: tuple[float, float], spread: Array, dof: float, unit: str, method: str) -> Estimate:
    """Numerator / denominator, their means Gaussian with covariance `spread` (2, 2) known from `dof` (Fieller 1954).

    Where the denominator may be zero the ratio is only bounded from below; where the numerator may be, too, it is not
    identified. The numerator is a positive quantity, and so is the ratio: its interval ends at 0.
    """
    top, bottom = means
    q = student(dof) ** 2
    # (top - r bottom)^2 <= q var(top - r bottom), a quadratic in r.
    a, b, c = bottom**2 - q * spread[1, 1], top * bottom - q * spread[0, 1], top**2 - q * spread[0, 0]
    root = b**2 - a * c
    if not np.isfinite(root) or root < 0 or top <= 0:
        return Estimate(None, None, None, unit, "not_identified", method)
    if a <= 0 or bottom <= 0:  # the denominator may be zero: with a numerator that may not (c > 0), all from a root on
        low = c / (b + np.sqrt(root)) if c > 0 and b + np.sqrt(root) > 0 else None
        return bounded(None, low, None, unit, method)
    low, high = sorted(float((b + sign * np.sqrt(root)) / a) for sign in (-1, 1))
    return bounded(top / bottom, max(low, 0.0), high, unit, method)


def covariance(replicates: Array) -> Array:
    """Covariance (n, n) of n statistics from their replicates (K + 1, n)."""
    without = replicates[1:]
    off = without - without.mean(0)
    return (len(without) - 1) / len(without) * (off.T @ off)


def student(dof: float) -> float:
    """Quantile of Student's t for a two-sided 95 % interval."""
    return float(special.stdtrit(dof, 0.975))
