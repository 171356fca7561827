"""Learning rate = peak x shape(consumed tokens) x group multiplier: a pure function of tokens, so nothing to resume."""

import math

from configs.schema import ScheduleConfig


def shape(schedule: ScheduleConfig, budget_tokens: int, tokens: float) -> float:
    """Learning rate / peak after `tokens` of a run of `budget_tokens`.

    constant: 1. linear and cosine: from 1 at the end of the warmup to final_ratio at the budget.
    wsd: 1, then linear over the last decay_fraction of the budget (Haegele et al. 2024, 2405.18392).
    Each is multiplied by the linear warmup min(1, tokens / warmup_tokens).
    """
    warmup = min(1.0, tokens / schedule.warmup_tokens) if schedule.warmup_tokens else 1.0
    match schedule.kind:
        case "constant":
            return warmup
        case "wsd":
            start = budget_tokens * (1 - schedule.decay_fraction)
        case _:
            start = float(schedule.warmup_tokens)
    progress = min(1.0, max(0.0, (tokens - start) / (budget_tokens - start))) if budget_tokens > start else 0.0
    decayed = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return warmup * (schedule.final_ratio + (1 - schedule.final_ratio) * decayed)


def step_shape(schedule: ScheduleConfig, budget_tokens: int, batch_tokens: int, tokens: int) -> float:
    """Shape for the step that follows `tokens`, taken at the middle of the step's tokens.

    The midpoint makes the sum of lr x tokens over linear pieces the same for every B, so that changing B
    changes only B; at either end of the step a warmup or decay would be longer for one B than for another.
    """
    return shape(schedule, budget_tokens, tokens + 0.5 * batch_tokens)
