"""How much the loss reacts when the learning rate is wrong: Wortsman's measure and the mean over a window of octaves.

The third measure, the curvature S_c, comes with the parabola of the cell (`analysis.optimum`).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

Array = NDArray[np.floating]


def wortsman(loss: ArrayLike, loss_init: float | None) -> float | None:
    """S_W = mean over the sweep of min(loss, loss_init) - best loss, nats; loss (n,) with NaN for a diverged run.

    None if a run diverged and the loss at initialisation is not known, or if no run has a loss. It depends on the
    learning rates that were swept: compare only cells with the same sweep.
    Source: Wortsman et al. 2023 (2309.14322), section 3.1.
    """
    loss = np.asarray(loss, float)
    finished = np.isfinite(loss)
    if not finished.any() or (loss_init is None and not finished.all()):
        return None
    clipped = loss if loss_init is None else np.minimum(np.where(finished, loss, loss_init), loss_init)
    return float(np.mean(clipped) - np.min(clipped))


def wortsman_weights(loss: ArrayLike, loss_init: float | None) -> Array:
    """(n,) d S_W / d loss: 1/n for every run below the loss at initialisation, minus 1 for the best."""
    loss = np.asarray(loss, float)
    below = np.isfinite(loss) & (loss < (np.inf if loss_init is None else loss_init))
    weights = below / loss.size
    weights[np.nanargmin(loss)] -= 1.0
    return weights


def window_weights(log2_lr: Array, center: float, octaves: float) -> Array | None:
    """(n,) weights w so that w @ loss is the mean loss for log2 lr in center +- octaves.

    The curve between the points is the cubic spline through them (the parabola for three), which is exact for a
    parabola: there S_w(k) = w @ loss - minimum = a k^2 / 3. None if the points do not cover the window.
    `log2_lr` (n >= 3,) ascending and consecutive: the caller leaves out what lies at or beyond a diverged run.
    """
    low, high = center - octaves, center + octaves
    slack = 1e-9
    if log2_lr.size < 3 or low < log2_lr[0] - slack or high > log2_lr[-1] + slack:
        return None
    basis = CubicSpline(log2_lr, np.eye(log2_lr.size))
    return np.asarray(basis.integrate(low, high)) / (high - low)
