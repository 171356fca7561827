"""Learning rate = peak x shape(consumed tokens) x group multiplier: a pure function of tokens, so nothing to resume.

Only where a warmup starts from, or has climbed to, is found while training (`train.warmup`).
"""

import math

from configs.schema import ScheduleConfig


def shape(schedule: ScheduleConfig, budget_tokens: int, tokens: float, found: float = 0.0) -> float:
    """Learning rate / peak after `tokens` of a run of `budget_tokens`: the warmup times the decay.

    Warmup, linear and critical: min(1, found + tokens / warmup_tokens), so that both rise as steeply (Kalra & Barkeshli
    2406.09405); catapult: `found`. `found` is what `train.warmup` has found, as part of the peak; 0 for linear.

    Decay, constant: 1. linear and cosine: from 1 after warmup_tokens to final_ratio at the budget. wsd: 1, then linear
    over the last decay_fraction of the budget (Haegele et al. 2024, 2405.18392).
    """
    return _warmup(schedule, tokens, found) * _decay(schedule, budget_tokens, tokens)


def step_shape(
    schedule: ScheduleConfig, budget_tokens: int, batch_tokens: int, tokens: int, found: float = 0.0
) -> float:
    """Shape for the step that follows `tokens`, taken at the middle of the step's tokens.

    The midpoint makes the sum of lr x tokens over linear pieces the same for every B, so that changing B
    changes only B; at either end of the step a warmup or decay would be longer for one B than for another.
    """
    return shape(schedule, budget_tokens, tokens + 0.5 * batch_tokens, found)


def _warmup(schedule: ScheduleConfig, tokens: float, found: float) -> float:
    if not schedule.warmup_tokens:
        return 1.0
    return found if schedule.warmup == "catapult" else min(1.0, found + tokens / schedule.warmup_tokens)


def _decay(schedule: ScheduleConfig, budget_tokens: int, tokens: float) -> float:
    match schedule.kind:
        case "constant":
            return 1.0
        case "wsd":
            start = budget_tokens * (1 - schedule.decay_fraction)
        case _:
            start = float(schedule.warmup_tokens)
    progress = min(1.0, max(0.0, (tokens - start) / (budget_tokens - start))) if budget_tokens > start else 0.0
    decayed = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1 - progress
    return schedule.final_ratio + (1 - schedule.final_ratio) * decayed
