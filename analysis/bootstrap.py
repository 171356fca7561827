"""The bootstrap over cells: a check on intervals that are computed, not drawn. All resamples at once, without a loop.

A resample is a set of counts, how often each point was drawn; it enters as a weight. Points count as independent with
their own errors: what runs that are read out at several budgets share is in the computed intervals only.
"""

import numpy as np
from numpy.typing import NDArray

from analysis.fitting import Model
from analysis.results import Estimate, bounded

Array = NDArray[np.floating]
STEPS = 25  # of Gauss-Newton, from the best fit to all points
LARGEST = 6.0  # an exponent beyond this has run away
MOST_LOST = 0.05  # of the resamples may fail to determine the law


def resample(n: int, resamples: int, seed: int) -> Array:
    """(resamples, n) counts of n draws from n points."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def bootstrap_line(design: Array, y: Array, variance: Array, counts: Array) -> Array:
    """(r, p) coefficients of weighted least squares of y (n,) on design (n, p); NaN where a resample has too few."""
    weight = counts / variance
    gram = np.einsum("rn,ni,nj->rij", weight, design, design, optimize=True)
    return _solve(gram, (weight * y) @ design)


def bootstrap_curve(model: Model, theta: Array, variance: Array, counts: Array) -> Array:
    """(r, p) parameters of a form without a shape (`analysis.forms`), damped Gauss-Newton from `theta` (p,)."""
    weight = counts / variance
    nz = model.linear.shape[1]

    def evaluate(at: Array) -> tuple[Array, Array]:
        y, slope, _ = model.form.curve(model.log2_batch - at[:, nz:] @ model.critical.T, 0.0)
        residual = at[:, :nz] @ model.linear.T + y - model.y
        linear = np.broadcast_to(model.linear, (*slope.shape, nz))
        return residual, np.concatenate([linear, -slope[..., None] * model.critical], axis=2)

    at = np.tile(theta, (counts.shape[0], 1))
    damping = np.full(counts.shape[0], 1e-3)
    residual, jacobian = evaluate(at)
    chi2 = np.sum(weight * residual**2, axis=1)
    for _ in range(STEPS):
        weighted = np.swapaxes(jacobian * weight[..., None], 1, 2)
        gram = weighted @ jacobian
        scale = np.einsum("rii->ri", gram) * damping[:, None]
        step = -_solve(gram + scale[..., None] * np.eye(theta.size), (weighted @ residual[..., None])[..., 0])
        trial = at + np.nan_to_num(np.clip(step, -2.0, 2.0))
        trial_residual, trial_jacobian = evaluate(trial)
        trial_chi2 = np.sum(weight * trial_residual**2, axis=1)
        better = trial_chi2 < chi2  # False for NaN
        at = np.where(better[:, None], trial, at)
        residual = np.where(better[:, None], trial_residual, residual)
        jacobian = np.where(better[:, None, None], trial_jacobian, jacobian)
        chi2, damping = np.where(better, trial_chi2, chi2), np.where(better, damping / 5, damping * 4)
    return at


def percentiles(value: float | None, draws: Array) -> Estimate:
    """95 % percentile interval of the draws (r,) of an exponent, around the value that was fitted."""
    known = draws[np.isfinite(draws)]
    method = f"percentiles of {draws.size} resamples of the points"
    if known.size < (1 - MOST_LOST) * draws.size:
        return Estimate(None, None, None, "1", "not_identified", f"{method}: too few points to resample")
    low, high = (float(end) if abs(end) < LARGEST else None for end in np.quantile(known, [0.025, 0.975]))
    return bounded(value, low, high, "1", method)


def _solve(gram: Array, right: Array) -> Array:
    """(r, p) solutions of gram (r, p, p) x = right (r, p); NaN where gram is singular."""
    scale = np.sqrt(np.maximum(np.einsum("rii->ri", gram), 1e-300))
    scaled = gram / scale[:, :, None] / scale[:, None, :]
    regular = np.linalg.eigvalsh(scaled)[:, 0] > 1e-10
    safe = np.where(regular[:, None, None], scaled, np.eye(gram.shape[1]))
    solution = np.linalg.solve(safe, (right / scale)[..., None])[..., 0] / scale
    return np.where(regular[:, None], solution, np.nan)
