"""When a run has left the road, for good or for a step: decided from losses that are the same on all ranks."""

import math
from collections.abc import Sequence

MAX_SKIPPED = 16  # steps in a row; beyond, it is the weights that are bad, not the batches
LEVEL_HALF_LIFE = 8  # steps: how far back the level reaches that a loss is compared with


def divergence(losses: Sequence[float], limit: float) -> str | None:
    """Why a run ends as diverged, given its step losses (nats) since the last record; None if it goes on.

    Any loss that is not finite ends it, and so does a mean above `limit`. The mean, not a step: with one sequence a
    step a single odd document reaches any limit, and would end runs of small B alone.
    """
    if not losses:
        return None
    if not all(math.isfinite(loss) for loss in losses):
        return "the training loss is not finite"
    mean = sum(losses) / len(losses)
    return f"the training loss {mean:.4g} is above {limit:.4g}" if mean > limit else None


def spikes(losses: Sequence[float], level: float | None, spike_ratio: float) -> tuple[int, float | None]:
    """How many of the step losses stand out, and the level after them.

    A loss stands out that is not finite or above spike_ratio x the level, an exponential mean of the losses before it;
    it moves the level no further than that limit. Steps alone enter, not records: how often is logged changes nothing.
    """
    found, keep = 0, 0.5 ** (1 / LEVEL_HALF_LIFE)
    for loss in losses:
        limit = math.inf if level is None else spike_ratio * level
        out = not math.isfinite(loss) or loss > limit
        found += out
        if math.isfinite(loss):
            level = loss if level is None else keep * level + (1 - keep) * min(loss, limit)
    return found, level
