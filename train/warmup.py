"""Warmups that look at the loss: from the critical rate, and to it again and again (Kalra & Barkeshli 2406.09405).

critical (their section 6): lr = min(peak, lr_c + peak t / T_warmup), with lr_c the critical rate before the first step.
It reaches the peak after T_warmup (1 - lr_c / peak), at once if lr_c is the peak or above.

catapult (algorithm 3, self-stabilisation): start at the critical rate; before each step, if the loss is below what it
was where the rate was last raised, raise it to the critical rate of now, until that is the peak. A catapult throws the
loss up, and nothing is raised until it has come down again: the rate follows 2 / sharpness.

Both look at one fixed batch, the first that is trained on, and search from where a linear warmup would start, or from
where the rate stands: it never falls. A search that finds the loss rising at its first rate keeps that rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from configs.rundir import WarmupStatus
from configs.schema import RunConfig
from train.critical_lr import critical_lr
from train.engine import Engine
from train.evaluate import look_ahead
from train.trial import trial_steps


@dataclass
class Warmup:
    """What a warmup has found, and what that took; kept in the checkpoint."""

    found: float = 0.0  # rate / peak that it starts from (critical) or has come to (catapult)
    start: float = 0.0  # the first `found`
    loss: float = 0.0  # of the fixed batch where the rate was last raised, in nats
    passes: int = 0  # forward passes over a batch
    reached_tokens: int | None = None  # when the rate became the peak


def start_warmup(engine: Engine, config: RunConfig, micro: Sequence[Tensor]) -> tuple[Warmup, dict[str, Any]]:
    """The warmup of a run before its first step and a metrics row about it; on all ranks. `micro`: the fixed batch."""
    warmup = Warmup()
    row = _raise(warmup, engine, config, micro, config.batch_tokens / config.schedule.warmup_tokens, 0)
    warmup.start = warmup.found
    if config.schedule.warmup == "critical":
        rest = config.schedule.warmup_tokens * (1 - warmup.found)
        warmup.reached_tokens = max(1, round(rest / config.batch_tokens)) * config.batch_tokens
    return warmup, row


def advance_warmup(
    warmup: Warmup, engine: Engine, config: RunConfig, micro: Sequence[Tensor], tokens: int
) -> dict[str, Any] | None:
    """Raise a catapult's rate if the fixed batch's loss has come down; a metrics row if it was searched for."""
    warmup.passes += 1
    if not look_ahead(engine.module, micro) < warmup.loss:
        return None
    return _raise(warmup, engine, config, micro, warmup.found, tokens)


def climbing(warmup: Warmup, config: RunConfig) -> bool:
    """Whether the rate may still be raised."""
    return config.schedule.warmup == "catapult" and warmup.found < 1


def summary(warmup: Warmup, config: RunConfig) -> WarmupStatus:
    """What to tell of a warmup. Of the tokens saved, a forward pass takes half a step, as in the paper."""
    reached = warmup.reached_tokens
    passed = warmup.passes * config.batch_tokens / 2
    return WarmupStatus(
        lr_start=warmup.start * config.lr,
        passes=warmup.passes,
        reached_tokens=reached,
        saved_tokens=None if reached is None else config.schedule.warmup_tokens - reached - passed,
    )


def _raise(
    warmup: Warmup, engine: Engine, config: RunConfig, micro: Sequence[Tensor], start: float, tokens: int
) -> dict[str, Any]:
    loss_after, loss = trial_steps(engine, config, micro)
    critical = critical_lr(loss_after, loss, start * config.lr, config.lr)
    warmup.found = max(warmup.found, critical.high / config.lr)
    warmup.loss = look_ahead(engine.module, micro)  # in the run's own precision, to be compared with
    warmup.passes += critical.passes
    if warmup.found >= 1:
        warmup.reached_tokens = tokens
    return {
        "kind": "critical_lr",
        "tokens": tokens,
        "loss": loss,
        "outcome": critical.outcome,
        "low": critical.low,
        "high": critical.high,
        "passes": critical.passes,
    }
