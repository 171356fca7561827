"""A parabola through a few points, and what its vertex is worth: the workhorse of eta* and of B*."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]
HUBER = 1.345  # times the scale: 95 % efficient for Gaussian noise
REWEIGHTS = 8
EXACT = 1e-9  # scale of residuals below which they are rounding


@dataclass(frozen=True)
class Parabola:
    """y = a (x - center)^2 + b (x - center) + c, fitted by least squares to the points in `used`.

    `solve` (3, n) maps all n values y to (a, b, c); its columns are zero where a point was not used. With it every
    error propagates exactly: coefficients have covariance solve diag(sigma^2) solve^T.
    """

    center: float
    a: float
    b: float
    c: float
    solve: Array
    residual: Array  # (n,), zero where not used
    dof: int
    used: NDArray[np.bool_]

    @property
    def vertex(self) -> float:
        """x of the minimum; meaningful only for a > 0."""
        return self.center - self.b / (2 * self.a)

    @property
    def minimum(self) -> float:
        """y at the vertex."""
        return self.c - self.b**2 / (4 * self.a)

    @property
    def vertex_weights(self) -> Array:
        """(n,) d vertex / d y: first-order influence of every point."""
        return np.array([self.b / (2 * self.a**2), -1 / (2 * self.a), 0.0]) @ self.solve

    @property
    def minimum_weights(self) -> Array:
        """(n,) d minimum / d y."""
        t = self.vertex - self.center
        return np.array([t**2, t, 1.0]) @ self.solve


def fit_parabola(
    x: Array, y: Array, *, used: NDArray[np.bool_], group: ArrayLike = 0, sigma: ArrayLike = 1.0
) -> Parabola:
    """Weighted least squares with one intercept per group (c is their mean), shapes (n,).

    A group's own intercept takes out what its points share (a seed's, or a width's, offset) so that groups that were
    measured at different x do not tilt the curve. Residuals are in units of `sigma`.
    """
    group, sigma = np.broadcast_to(group, x.shape), np.broadcast_to(np.asarray(sigma, float), x.shape)
    center = float(x[used].mean())
    labels = np.unique(group[used])
    t = x[used] - center
    design = np.column_stack([t**2, t, group[used, None] == labels]) / sigma[used, None]
    inverse = np.linalg.pinv(design) / sigma[used]
    solve = np.zeros((3, x.size))
    solve[:2, used] = inverse[:2]
    solve[2, used] = inverse[2:].mean(axis=0)
    residual = np.zeros(x.size)
    residual[used] = y[used] / sigma[used] - design @ (inverse @ y[used])
    a, b, c = solve[:, used] @ y[used]
    return Parabola(center, float(a), float(b), float(c), solve, residual, int(used.sum()) - 2 - labels.size, used)


def fit_robust(x: Array, y: Array, *, used: NDArray[np.bool_], group: ArrayLike = 0) -> Parabola:
    """`fit_parabola` in which points far off the curve count less: Huber's weights, reweighted least squares.

    The scale is the median size of the residuals; beyond HUBER times it a point's weight falls as 1 / residual.
    Source: Huber 1964; Holland & Welsch 1977 for the reweighting.
    """
    sigma = np.ones(x.size)
    fit = fit_parabola(x, y, used=used, group=group)
    for _ in range(REWEIGHTS):
        off = np.abs(fit.residual * sigma)
        scale = 1.4826 * float(np.median(off[used]))
        if scale <= EXACT:
            break
        sigma = np.sqrt(np.maximum(off / (HUBER * scale), 1.0))
        fit = fit_parabola(x, y, used=used, group=group, sigma=sigma)
    return fit


def vertex_interval(p: Parabola, sigma: ArrayLike, quantile: float) -> tuple[float, float] | None:
    """Fieller's interval of the vertex at |t| <= quantile for noise `sigma` per point; None if it is unbounded.

    Exact for Gaussian noise, unlike the first-order error, and unbounded exactly when the curvature does not differ
    from zero at this quantile. Source: Fieller 1954 (ratio of correlated normals).
    """
    weighted = p.solve * np.broadcast_to(np.asarray(sigma, float), p.residual.shape)
    (vaa, vab), (_, vbb) = (weighted @ weighted.T)[:2, :2]
    qq = quantile**2
    quadratic, linear, constant = 4 * (p.a**2 - qq * vaa), 4 * (p.a * p.b - qq * vab), p.b**2 - qq * vbb
    if quadratic <= 0 or p.a <= 0:
        return None
    half = np.sqrt(max(linear**2 - 4 * quadratic * constant, 0.0)) / (2 * quadratic)
    middle = p.center - linear / (2 * quadratic)
    return float(middle - half), float(middle + half)
