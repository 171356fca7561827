"""The forms of eta*(B): log2 eta* relative to its scale, as a function of x = log2(B / B_c), with derivatives.

Every form is `form(x, shape) -> (y, dy_dx, dy_dshape)`, arrays of the shape of `x`. dy_dx is the local exponent of the
law. Forms without a `shape` ignore it; `FORMS` says who has one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Curve = Callable[[Array, float], tuple[Array, Array, Array]]


def _share(z: Array) -> Array:
    """2^z / (1 + 2^z), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.log(2.0) * z))


def surge(x: Array, shape: float) -> tuple[Array, Array, Array]:
    """2 / (sqrt(B_c/B) + sqrt(B/B_c)): rises as B^1/2, peaks at B_c, falls as B^-1/2.

    Source: Li et al. 2024 (Surge), Thm 3; Filatov et al. 2024 (Time Transfer), eq. TT-1.
    """
    return 1.0 - np.logaddexp2(-x / 2, x / 2), 0.5 - _share(x), np.zeros_like(x)


def sqrt_saturation(x: Array, shape: float) -> tuple[Array, Array, Array]:
    """(1 + B_c/B)^-1/2: rises as B^1/2, then flat at the limiting rate. Source: Li et al. 2024, alpha = 1/2."""
    return -0.5 * np.logaddexp2(0.0, -x), 0.5 * _share(-x), np.zeros_like(x)


def linear_saturation(x: Array, shape: float) -> tuple[Array, Array, Array]:
    """1 / (1 + B_c/B): rises as B, then flat. Source: McCandlish et al. 2018, eq. 2.6 (SGD); also 1/S against B."""
    return -np.logaddexp2(0.0, -x), _share(-x), np.zeros_like(x)


def surge_plateau(x: Array, shape: float) -> tuple[Array, Array, Array]:
    """Surge in the saturating variable u = k x / (x + k - 1), x = B/B_c, k = 1 + 2^shape: peak at B_c, then a plateau.

    The mean-field form of Li et al. 2024, Thm 2, with E_i^2 = B/(B + B_noise), B_noise = (k - 1) B_c. Its plateau is
    2 sqrt(k) / (1 + k) of the peak (Thm 4); k -> infinity is the surge, k -> 1 saturates without a peak.
    """
    u = x + np.logaddexp2(0.0, shape) - np.logaddexp2(x, shape)
    y, dy_du, _ = surge(u, 0.0)
    return y, dy_du * _share(shape - x), dy_du * (_share(np.full_like(x, shape)) - _share(shape - x))


def power(x: Array, shape: float) -> tuple[Array, Array, Array]:
    """(B / reference)^shape: no scale of its own."""
    return shape * x, np.full_like(x, shape), x


@dataclass(frozen=True)
class Form:
    """A curve and what its parameters are called."""

    curve: Curve
    lr_name: str  # the rate that multiplies the curve
    has_batch_crit: bool = True
    shape_name: str | None = None
    shape_start: float = 0.0


FORMS: dict[str, Form] = {
    "power": Form(power, "lr_at_reference_batch", has_batch_crit=False, shape_name="batch_exponent", shape_start=0.5),
    "sqrt_saturation": Form(sqrt_saturation, "lr_limit"),
    "linear_saturation": Form(linear_saturation, "lr_limit"),
    "surge": Form(surge, "lr_crit"),
    "surge_plateau": Form(surge_plateau, "lr_crit", shape_name="plateau_ratio", shape_start=3.0),
}
