"""The critical learning rate at a state: the smallest at which one step raises the loss, by forward passes alone.

Kalra & Barkeshli, Why Warmup the Learning Rate? (arXiv 2406.09405), algorithms 1 (doubling) and 2 (bisection).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isnan
from typing import Literal

DELTA = 0.01  # what the paper uses for Adam; it has 0.1 for SGD
NARROW = 2**-10  # a bracket within this part of itself is not halved again: rounding of the loss decides there

Outcome = Literal["found", "below_start", "above_target"]


@dataclass(frozen=True)
class CriticalLr:
    """Where the loss after one step stops being below the loss before.

    found: it is below at `low` and not below at `high`, where it is at most (1 + delta) times the loss before.
    below_start: it already rises at `high`, the first rate tried, and `low` is 0.
    above_target: it still falls at `low` = `high`, the largest rate asked for.
    """

    outcome: Outcome
    low: float
    high: float  # eta_c: what a warmup may start from
    loss: float  # before the step, in nats
    trials: tuple[tuple[float, float], ...]  # learning rate and loss after its step, in the order of the search

    @property
    def passes(self) -> int:
        """Forward passes: one a trial, and the one for the loss before."""
        return 1 + len(self.trials)


def critical_lr(
    loss_after: Callable[[float], float], loss: float, start: float, target: float, delta: float = DELTA
) -> CriticalLr:
    """Double from `start` until the loss rises, but not beyond `target`; then halve the bracket until it fits `delta`.

    `loss_after` is the loss after one step of a learning rate from one and the same state, `loss` that before. A loss
    that is not a number counts as risen.
    """
    trials: list[tuple[float, float]] = []

    def after(lr: float) -> float:
        found = loss_after(lr)
        found = inf if isnan(found) else found
        trials.append((lr, found))
        return found

    low, high = 0.0, min(start, target)
    risen = after(high)
    while risen < loss:
        if high >= target:
            return CriticalLr("above_target", high, high, loss, tuple(trials))
        low, high = high, min(2 * high, target)
        risen = after(high)
    if not low:
        return CriticalLr("below_start", low, high, loss, tuple(trials))
    while risen > loss * (1 + delta) and high - low > NARROW * high:
        middle = (low + high) / 2
        here = after(middle)
        low, high, risen = (middle, high, risen) if here < loss else (low, middle, here)
    return CriticalLr("found", low, high, loss, tuple(trials))
