"""The gradient noise scale B_simple = tr Sigma / |G|^2 from gradient norms at two batch sizes.

|g_small|^2 is the mean over the parts of a batch (ranks, micro-batches) of their gradients' squared norms, |g_big|^2
that of the gradient of the whole; batches count tokens (or sequences), and so does what comes out. Both estimates are
unbiased, so they are smoothed by themselves and only then divided: a mean of ratios would not converge.

Source: McCandlish et al. 2018 (1812.06162), appendix A.1.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.jackknife import fieller
from analysis.results import Estimate
from configs import moments as arithmetic

Array = NDArray[np.floating]


class Moments(NamedTuple):
    """Unbiased estimates, arrays (n,): |G|^2, which may come out negative, and tr Sigma of one token (or sequence)."""

    mean_sq: Array
    trace: Array


def two_batch(small_sq: ArrayLike, big_sq: ArrayLike, small: float, big: float) -> Moments:
    """From squared norms (n,) at batches `small` and `big`, of one step each or of means over steps."""
    return Moments(*arithmetic.two_batch(np.asarray(small_sq, float), np.asarray(big_sq, float), small, big))


def smoothed_scale(
    tokens: ArrayLike, moments: Moments, half_life_tokens: float, unit: str = "tokens", start: float = 0.0
) -> Iterator[Estimate]:
    """The noise scale at each of `tokens` (n,), increasing, over what came before with weights halved every half-life.

    The first row stands for the tokens since `start`.

    With a 95 % interval of the ratio (Fieller) from the scatter of the estimates; where |G|^2 is not above zero for
    sure, the noise scale is only bounded from below.
    """
    tokens = np.asarray(tokens, float)
    for end in range(1, tokens.size + 1):
        yield last_scale(tokens[:end], Moments(*(m[:end] for m in moments)), half_life_tokens, unit, start)


def last_scale(
    tokens: Array, moments: Moments, half_life_tokens: float, unit: str = "tokens", start: float = 0.0
) -> Estimate:
    """The noise scale at the last of `tokens` (n,), as `smoothed_scale` has it."""
    return _ratio(moments, _weights(tokens, half_life_tokens, start), unit)


def pooled_scale(
    runs: Sequence[tuple[Array, Moments]], half_life_tokens: float, unit: str = "tokens", start: float = 0.0
) -> Estimate:
    """`last_scale` of several runs of one recipe together, each its tokens and moments: both are averaged over all."""
    weights = [_weights(tokens, half_life_tokens, start) for tokens, _ in runs]
    moments = Moments(*(np.concatenate(parts) for parts in zip(*(moments for _, moments in runs), strict=True)))
    return _ratio(moments, np.concatenate(weights), unit)


def signal_to_noise(moments: Moments, batch: float) -> Array:
    """|G|^2 / (tr Sigma / B), (n,): below 1 the noise of a batch dominates, as the square-root rule asks."""
    return moments.mean_sq * batch / moments.trace


def _weights(tokens: Array, half_life_tokens: float, start: float) -> Array:
    return np.diff(tokens, prepend=start) * 0.5 ** ((tokens[-1] - tokens) / half_life_tokens)


def _ratio(moments: Moments, weight: Array, unit: str) -> Estimate:
    """mean(trace) / mean(mean_sq) under weights (n,)."""
    method = f"two batch sizes, {weight.size} records, smoothed apart, Fieller"
    weight = weight / weight.sum()
    effective = 1 / float(weight @ weight)
    mean_sq, trace = (float(weight @ m) for m in moments)
    if effective < 1.5:
        value = trace / mean_sq if mean_sq > 0 else None
        return Estimate(value, None, None, unit, "ok" if value is not None else "not_identified", method)
    spread = np.array([moments.trace - trace, moments.mean_sq - mean_sq]) * weight
    covariance = spread @ spread.T * effective / (effective - 1)
    return fieller((trace, mean_sq), covariance, effective - 1, unit, method)
