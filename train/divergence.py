"""When a run has left the road: decided from losses that are the same on all ranks."""

import math
from collections.abc import Sequence


def divergence(losses: Sequence[float], limit: float) -> str | None:
    """Why a run ends as diverged, given its step losses (nats) since the last record; None if it goes on.

    Any loss that is not finite ends it, and so does a mean above `limit`. The mean, not a step: with one sequence a
    step a single odd document reaches any limit, and would end runs of small B alone.
    """
    if not all(math.isfinite(loss) for loss in losses):
        return "the training loss is not finite"
    mean = sum(losses) / len(losses)
    return f"the training loss {mean:.4g} is above {limit:.4g}" if mean > limit else None
