"""Weighted least squares of a curve with a critical batch, profile likelihoods and linear laws: the numerics of laws.

Model, in log2: y_i = Z_i . e + curve(log2 B_i - W_i . b, shape), errors with covariance C. Z and W are design matrices
(n, nz), (n, nw); a plain eta*(B) has one column of ones in each, the fit over all budgets adds log2 T and log2 N.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.forms import Form

Array = NDArray[np.floating]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Model:
    """Data and design of one fit; parameters are ordered (e, b, shape). All arrays are float, n points."""

    form: Form
    log2_batch: Array  # (n,)
    y: Array  # (n,) log2
    whiten: Array  # (n, n) inverse Cholesky factor of the covariance of y
    linear: Array  # (n, nz) Z
    critical: Array  # (n, nw) W; nw = 0 for a form without a critical batch
    at_most: NDArray[np.bool_] | None = None  # (n,) where y only bounds the truth from above (errors uncorrelated)

    @property
    def n_parameters(self) -> int:
        """Of all kinds."""
        return self.linear.shape[1] + self.critical.shape[1] + (self.form.shape_name is not None)

    def evaluate(self, theta: Array) -> tuple[Array, Array]:
        """Whitened residuals (n,) and their Jacobian (n, p)."""
        nz, nw = self.linear.shape[1], self.critical.shape[1]
        shape = float(theta[nz + nw]) if self.form.shape_name else 0.0
        y, dx, dshape = self.form.curve(self.log2_batch - self.critical @ theta[nz : nz + nw], shape)
        columns = [self.linear, -dx[:, None] * self.critical, dshape[:, None]]
        jacobian = self.whiten @ np.hstack(columns if self.form.shape_name else columns[:2])
        residual = self.whiten @ (self.linear @ theta[:nz] + y - self.y)
        if self.at_most is not None:  # a curve that keeps to a bound has no residual there
            kept = self.at_most & (residual < 0)
            residual, jacobian = np.where(kept, 0.0, residual), np.where(kept[:, None], 0.0, jacobian)
        return residual, jacobian


@dataclass(frozen=True)
class Minimum:
    """Best parameters (p,), chi2 there, and the first-order covariance (p, p; unscaled)."""

    theta: Array
    chi2: float
    covariance: Array


def whitener(covariance: Array) -> Array:
    """(n, n) matrix A with A C A^T = 1 for a covariance C (n, n), or for independent errors with variances C (n,)."""
    if covariance.ndim == 1:
        return np.diag(covariance**-0.5)
    sigma = np.sqrt(np.diag(covariance))
    return np.linalg.inv(np.linalg.cholesky(covariance / np.outer(sigma, sigma))) / sigma


def minimise(model: Model, starts: list[Array], fixed: tuple[int, float] | None = None) -> Minimum:
    """Best of Levenberg-Marquardt from every start; `fixed` holds parameter (index, value) for a profile."""
    free = np.ones(model.n_parameters, bool)
    if fixed is not None:
        free[fixed[0]] = False

    def full(part: Array) -> Array:
        theta = np.empty(free.size)
        theta[free] = part
        if fixed is not None:
            theta[fixed[0]] = fixed[1]
        return theta

    def evaluate(part: Array) -> tuple[Array, Array]:
        residual, jacobian = model.evaluate(full(part))
        return residual, jacobian[:, free]

    best: tuple[float, Array] | None = None
    for start in starts:
        end = _levenberg_marquardt(evaluate, start[free]) if free.any() else start[free]
        chi2 = float(np.sum(evaluate(end)[0] ** 2))
        if best is None or chi2 < best[0]:
            best = (chi2, full(end))
    if best is None:
        raise ValueError("minimise needs at least one start")
    _, j = model.evaluate(best[1])
    return Minimum(best[1], best[0], np.linalg.pinv(j.T @ j))


def _levenberg_marquardt(evaluate: Callable[[Array], tuple[Array, Array]], start: Array) -> Array:
    """Damped Gauss-Newton; a run-away (a parameter the data do not hold) simply stops where chi2 is flat."""
    theta, (r, j) = start, evaluate(start)
    chi2, damping = r @ r, 1e-3
    for _ in range(200):
        gram = j.T @ j
        scale = np.sqrt(gram.diagonal() + 1e-12 * gram.trace() + 1e-300)
        damped = gram / np.outer(scale, scale) + damping * np.eye(scale.size)  # never singular: damping >= 1e-12
        step = np.clip(np.linalg.solve(damped, j.T @ r / -scale) / scale, -2.0, 2.0)
        r_trial, j_trial = evaluate(theta + step)
        chi2_trial = r_trial @ r_trial
        if chi2_trial < chi2:
            converged = chi2 - chi2_trial <= 1e-9 * chi2_trial
            theta, r, j, chi2, damping = theta + step, r_trial, j_trial, chi2_trial, max(damping / 5, 1e-12)
            if converged:
                break
        else:
            damping *= 4
        if damping > 1e8 or np.max(np.abs(step)) < 1e-13:
            break
    return theta


def threshold(chi2: float, dof: int, noise_dof: int) -> float:
    """Rise of chi2 that bounds a 95 % profile interval of one parameter.

    The errors of the points are known from `noise_dof` degrees of freedom (0: taken as known), hence Fisher's F. If the
    residuals are larger than these errors allow (chi2 / dof > 1) the interval grows by their ratio, never shrinks;
    once chi2 is improbable at 5 % the residuals measure the errors better, and their own degrees of freedom count.
    """
    if dof <= 0:
        return _quantile(noise_dof)
    rejected = special.chdtrc(dof, chi2) < 1 - CONFIDENCE
    return max(1.0, chi2 / dof) * _quantile(dof if rejected else noise_dof)


def _quantile(dof: int) -> float:
    return float(special.fdtri(1, dof, CONFIDENCE) if dof > 0 else special.chdtri(1, 1 - CONFIDENCE))


def profile_interval(
    model: Model, best: Minimum, index: int, limits: tuple[float, float], rise: float
) -> tuple[float | None, float | None]:
    """Where the profile of parameter `index` has risen by `rise`, below and above; None where it has not by the limit.

    The limit itself is tried first: a profile that dips back below the threshold there is not a bound.
    """
    low, high = limits
    return _crossing(model, best, index, low, rise), _crossing(model, best, index, high, rise)


def _crossing(model: Model, best: Minimum, index: int, limit: float, rise: float) -> float | None:
    center = best.theta[index]
    direction = np.sign(limit - center)
    if direction == 0:
        return None
    warm = best

    def excess(value: float) -> float:
        nonlocal warm
        shifted = best.theta + (value - center) * _tangent(best, index)
        warm = minimise(model, [warm.theta, shifted], (index, value))
        return max(warm.chi2 - best.chi2, 0.0) - rise

    inner, inner_value = center, -rise
    step = max(float(np.sqrt(best.covariance[index, index] * rise)), 1e-9)
    while True:
        # Not `center + min(...)`: rounding can keep center + (limit - center) beside the limit, and the loop alive.
        outer = limit if step >= abs(limit - center) else center + direction * step
        outer_value = excess(outer)
        if outer_value >= 0:
            break
        if outer == limit:
            return None
        inner, inner_value, step = outer, outer_value, 1.6 * step
    if outer != limit:
        here, warm = warm, best
        if excess(limit) < 0:
            return None
        warm = here
    for _ in range(20):  # false position on the root of the rise, which is nearly linear in the parameter
        a, b = np.sqrt(inner_value + rise), np.sqrt(outer_value + rise)
        share = np.clip((np.sqrt(rise) - a) / (b - a), 0.05, 0.95)
        middle = float(inner + share * (outer - inner))
        value = excess(middle)
        if abs(value) <= 1e-4 * rise:
            return middle
        if value < 0:
            inner, inner_value = middle, value
        else:
            outer, outer_value = middle, value
    return outer


def _tangent(best: Minimum, index: int) -> Array:
    """How the other parameters follow parameter `index` along its profile, to first order."""
    variance = best.covariance[index, index]
    tangent = best.covariance[index] / variance if variance > 0 else np.zeros_like(best.theta)
    tangent[index] = 1.0
    return tangent


@dataclass(frozen=True)
class Linear:
    """Weighted linear regression with p coefficients."""

    coefficient: Array  # (p,)
    covariance: Array  # (p, p), for the errors as given
    rise: float  # of chi2, for a 95 % interval
    chi2: float
    dof: int

    def contrast(self, weights: Array) -> tuple[float, float]:
        """Value and 95 % half-width of weights (p,) @ coefficient."""
        return float(weights @ self.coefficient), float(np.sqrt(self.rise * (weights @ self.covariance @ weights)))


def linear_law(design: Array, y: Array, whiten: Array, noise_dof: int = 0) -> Linear:
    """Generalised least squares of y (n,) on `design` (n, p), n >= p, with the interval rule of `threshold`.

    `whiten`: (n, n) as of `whitener`, or (n,) the inverse errors of independent points.
    """
    a, z = (whiten[:, None] * design, whiten * y) if whiten.ndim == 1 else (whiten @ design, whiten @ y)
    inverse = np.linalg.pinv(a)
    coefficient = inverse @ z
    residual = z - a @ coefficient
    chi2, dof = float(residual @ residual), y.size - design.shape[1]
    return Linear(coefficient, inverse @ inverse.T, threshold(chi2, dof, noise_dof), chi2, dof)


def p_value(rise: float, n_extra: int, chi2: float, dof: int, noise_dof: int) -> float:
    """Chance of a rise of chi2 as large when `n_extra` parameters are taken away that do not matter.

    `chi2`, `dof`: with the parameters. The scale of the errors is judged as in `threshold`.
    """
    rejected = dof > 0 and special.chdtrc(dof, chi2) < 1 - CONFIDENCE
    scale = max(1.0, chi2 / dof) if dof > 0 else 1.0
    known_from = dof if rejected else noise_dof
    if known_from > 0:
        return float(special.fdtrc(n_extra, known_from, max(rise, 0.0) / n_extra / scale))
    return float(special.chdtrc(n_extra, max(rise, 0.0) / scale))
