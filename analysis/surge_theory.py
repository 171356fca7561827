"""What theory says of the best learning rate of one step at batch B: the surge of sign updates, the saturation of SGD.

G is the mean gradient with coordinates mu, sigma (n,) the standard deviation of one example's gradient, independent
and Gaussian in each coordinate, H (n, n) the Hessian; `batch` (k,) counts examples, or tokens if sigma is a token's. A
step is theta - lr V. Nothing is fitted here: this is the oracle that fits and measurements are held against.
Source: Li et al. 2024 (Surge, arXiv 2405.14578), whose epsilon is our lr; McCandlish et al. 2018 (1812.06162).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.forms import linear_saturation, surge

Array = NDArray[np.floating]


class Optimum(NamedTuple):
    """Of one step, arrays (k,) by batch."""

    lr: Array
    loss_drop: Array  # expected, at that lr, to second order


class Scales(NamedTuple):
    """The two numbers of a law of lr*(B), and the largest loss drop of one step.

    SGD: lr* = lr_max / (1 + batch_noise / B). Signs below the validity bound: the surge, with lr_max at batch_noise.
    The loss drop of both is drop_max / (1 + batch_noise / B).
    """

    batch_noise: float
    lr_max: float
    drop_max: float


def one_step_optimum(along: ArrayLike, noise: ArrayLike, curvature: ArrayLike) -> Optimum:
    """Lemma 1: from G.E[V], tr(H cov V) and E[V].H E[V], each by batch. Where their sum is not positive, lr is NaN."""
    along, bend = np.asarray(along, float), np.asarray(noise, float) + np.asarray(curvature, float)
    lr = np.divide(along, bend, out=np.full(np.broadcast(along, bend).shape, np.nan), where=bend > 0)
    return Optimum(lr, 0.5 * along * lr)


def expected_sign(mu: ArrayLike, sigma: ArrayLike, batch: ArrayLike) -> Array:
    """E_i(B) = erf(sqrt(B/2) mu_i/sigma_i), (k, n): the mean sign of a batch's gradient; 0 where mu_i is."""
    mu, sigma = np.asarray(mu, float), np.asarray(sigma, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mu == 0, 0.0, mu / sigma)
    return special.erf(np.sqrt(np.atleast_1d(np.asarray(batch, float))[:, None] / 2) * ratio)


def sign_optimum(mu: ArrayLike, sigma: ArrayLike, hessian: ArrayLike, batch: ArrayLike) -> Optimum:
    """Thm 2: V = sign(g), at any batch (k,)."""
    mean, h = expected_sign(mu, sigma, batch), np.asarray(hessian, float)
    return one_step_optimum(
        along=mean @ np.asarray(mu, float),
        noise=(1 - mean**2) @ np.diag(h),
        curvature=np.einsum("ki,ij,kj->k", mean, h, mean),
    )


def sign_scales(mu: ArrayLike, sigma: ArrayLike, hessian: ArrayLike) -> Scales:
    """Thms 3 and 5: V = sign(g) while B is far below `validity_bound`; every sigma must be positive.

    Without a positive sum of off-diagonal terms there is no surge: batch_noise and lr_max are infinite, lr* ~ sqrt(B).
    """
    mu, sigma, h = np.asarray(mu, float), np.asarray(sigma, float), np.asarray(hessian, float)
    ratio, trace = mu / sigma, float(np.trace(h))
    return sign_scales_of(float(ratio @ mu), trace, float(ratio @ h @ ratio - ratio**2 @ np.diag(h)))


def sign_scales_of(slope: float, trace: float, off_diagonal: float) -> Scales:
    """The same from its sums: of mu_i^2/sigma_i, of H_ii, and over i != j of mu_i mu_j H_ij/(sigma_i sigma_j)."""
    if off_diagonal <= 0:
        return Scales(np.inf, np.inf, np.inf)
    batch_noise = np.pi * trace / (2 * off_diagonal)
    return Scales(batch_noise, np.sqrt(batch_noise / (2 * np.pi)) * slope / trace, slope**2 / (2 * off_diagonal))


def validity_bound(mu: ArrayLike, sigma: ArrayLike) -> Array:
    """pi sigma_i^2 / (2 mu_i^2), (n,): coordinate i follows Thm 3 while B is far below it; infinite where mu_i is 0."""
    mu, sigma = np.asarray(mu, float), np.asarray(sigma, float)
    return np.divide(np.pi * sigma**2, 2 * mu**2, out=np.full(mu.shape, np.inf), where=mu != 0)


def sign_plateau(mu: ArrayLike, hessian: ArrayLike) -> float:
    """Thm 4: lr* of sign updates as B -> infinity, far above `validity_bound`; NaN where there is no minimum."""
    sign = np.sign(np.asarray(mu, float))
    return float(one_step_optimum(sign @ np.asarray(mu, float), 0.0, sign @ np.asarray(hessian, float) @ sign).lr)


def sgd_scales(mu: ArrayLike, covariance: ArrayLike, hessian: ArrayLike) -> Scales:
    """V = the batch's gradient, of per-example covariance (n, n); G.H G must be positive."""
    mu, h = np.asarray(mu, float), np.asarray(hessian, float)
    squared, bend = float(mu @ mu), float(mu @ h @ mu)
    return Scales(float(np.sum(h * np.asarray(covariance, float))) / bend, squared / bend, squared**2 / (2 * bend))


def sign_lr(scales: Scales, batch: ArrayLike) -> Array:
    """lr*(B) of Thm 3, of the shape of `batch`."""
    return scales.lr_max * 2.0 ** surge(np.log2(np.asarray(batch, float) / scales.batch_noise), 0.0)[0]


def sgd_lr(scales: Scales, batch: ArrayLike) -> Array:
    """lr*(B) of SGD, of the shape of `batch`."""
    return scales.lr_max * 2.0 ** linear_saturation(np.log2(np.asarray(batch, float) / scales.batch_noise), 0.0)[0]


def loss_drop(scales: Scales, batch: ArrayLike) -> Array:
    """Thm 5 for signs, McCandlish et al. eq. 2.7 for SGD: loss drop of one step at lr*(B), of the shape of `batch`."""
    return scales.drop_max / (1 + scales.batch_noise / np.asarray(batch, float))


def lr_max_of_signs(lr: ArrayLike, batch: ArrayLike, batch_noise: float) -> float:
    """lr_max for Adam from measured lr*(B) and a known noise batch: the mean over batches of Thm 3, inverted."""
    u = np.sqrt(batch_noise / np.asarray(batch, float))
    return float(np.mean(np.asarray(lr, float) / 2 * (u + 1 / u)))


def lr_max_of_sgd(lr: ArrayLike, batch: ArrayLike, batch_noise: float, alpha: float = 1.0) -> float:
    """lr_max from lr* = lr_max (1 + B_noise/B)^-alpha: alpha 1 is SGD, 1/2 the usual guess for Adam."""
    return float(np.mean(np.asarray(lr, float) * (1 + batch_noise / np.asarray(batch, float)) ** alpha))
