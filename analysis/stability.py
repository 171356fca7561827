"""Where gradient descent on a quadratic is unstable, and catapults: where training met that limit and bounced off.

Kalra & Barkeshli, Why Warmup the Learning Rate? (arXiv 2406.09405), sections 2 and 3; Cohen et al., Adaptive gradient
methods at the edge of stability (arXiv 2207.14484), for Adam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

RISE = 1.05


def gd_threshold(lr: float) -> float:
    """Sharpness above which gradient descent diverges: 2 / lr."""
    return 2 / lr if lr > 0 else inf


def momentum_threshold(lr: float, beta: float) -> float:
    """That with momentum m <- g + beta m: (2 + 2 beta) / lr."""
    return (2 + 2 * beta) / lr if lr > 0 else inf


def adam_threshold(lr: float, beta1: float) -> float:
    """Pre-conditioned sharpness above which Adam with a fixed P diverges: (2 + 2 beta1) / ((1 - beta1) lr).

    It is that of momentum m <- beta1 m + (1 - beta1) g, 38 / lr at beta1 = 0.9. Mini-batches lower it, later by much.
    """
    return (2 + 2 * beta1) / ((1 - beta1) * lr) if lr > 0 else inf


def threshold(optimizer: str, lr: float, beta1: float) -> float | None:
    """Threshold of the pre-conditioned sharpness for a kind of optimizer; None for those that have no P."""
    match optimizer:
        case "adamw":
            return adam_threshold(lr, beta1)
        case "rmsprop":
            return gd_threshold(lr)
        case "sgd":
            return momentum_threshold(lr, beta1)
        case _:
            return None


@dataclass(frozen=True)
class Catapults:
    """Excursions of the loss, from the first probe above the lowest loss before it to the last one in a row."""

    starts: tuple[int, ...]  # index of the first probe of each catapult
    spikes: int  # excursions during which, and before which, the sharpness was below the threshold throughout
    height: float  # largest loss / lowest loss before it; 1 if there was no excursion


def catapults(losses: Sequence[float], ratios: Sequence[float], rise: float = RISE) -> Catapults:
    """Excursions above `rise` x the running minimum of `losses`, told apart by `ratios`, both one value a probe.

    `ratios` is the sharpness over its threshold. An excursion is a catapult if the ratio is above 1 at one of its
    probes or at the one before it, from where it was thrown. The paper has no rule; 1.05 was chosen here: the loss of a
    fixed batch hardly rises by itself. A loss that is not finite is an excursion of infinite height.
    """
    starts, spikes, height, lowest = [], 0, 1.0, inf
    begin: int | None = None
    for i, loss in enumerate([*losses, -inf]):
        out = (not isfinite(loss) and loss != -inf) or loss > rise * lowest
        if out:
            begin = i if begin is None else begin
            height = max(height, loss / lowest if isfinite(loss) and isfinite(lowest) else inf)
        elif begin is not None:
            thrown = any(ratio > 1 for ratio in ratios[max(begin - 1, 0) : i])
            starts += [begin] if thrown else []
            spikes += not thrown
            begin = None
        lowest = min(lowest, loss) if isfinite(loss) else lowest
    return Catapults(tuple(starts), spikes, height)
