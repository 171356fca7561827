"""When a run has left the road, for good or for a step: decided from losses that are the same on all ranks."""

import math
from collections.abc import Sequence

from configs.schema import RunConfig

MAX_SKIPPED = 16  # steps in a row; beyond, it is the weights that are bad, not the batches


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


def spikes(losses: Sequence[float], level: float | None, config: RunConfig) -> list[float]:
    """Those of the step losses that are not finite or above spike_ratio x `level`, the mean of the last record."""
    limit = math.inf if level is None else config.spike_ratio * level
    return [loss for loss in losses if not math.isfinite(loss) or loss > limit]
