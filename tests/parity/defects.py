"""Known defects of layouts, put into the plain loop: what the tolerances must not let pass."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.parity.cells import Precision
from tests.parity.noise import Deviation, Plain, loop_of, of_run, of_single_steps
from tests.parity.reference import Loop


def _unequal(batch: Tensor) -> list[Tensor]:
    return [batch[: len(batch) // 4], batch[len(batch) // 4 :]]


def _all_but_the_last_of_four(batch: Tensor) -> Sequence[Tensor]:
    return batch.chunk(4)[:-1]


def _set(key: str, value: float) -> Callable[[dict[str, Any]], None]:
    return lambda group: group.__setitem__(key, value)


def _summed_in_bf16(parts: int) -> tuple[Precision, int, Loop]:
    return "bf16", parts, replace(loop_of("bf16", parts), accumulate=torch.bfloat16)


# Precision, micro-batches of the sound loop, broken loop.
DEFECTS: dict[str, tuple[Precision, int, Loop]] = {
    "gradients of 2 micro-batches or ranks summed in bf16": _summed_in_bf16(2),
    "gradients of 8 micro-batches or ranks summed in bf16": _summed_in_bf16(8),
    "mean of the means of unequal micro-batches": ("fp32", 1, Loop(_unequal)),
    "last of 4 micro-batches left out": ("fp32", 1, Loop(_all_but_the_last_of_four)),
    "learning-rate multipliers of the groups lost": ("fp32", 1, Loop(edit_group=_set("lr_multiplier", 1.0))),
    "weight decay of the groups lost": ("fp32", 1, Loop(edit_group=_set("weight_decay", 0.0))),
    "clipping at 1.0, DeepSpeed's default": ("fp32", 1, Loop(clip_norm=1.0)),
}


def ratios(
    batches: Sequence[Tensor], plain: Plain, tolerances: dict[Precision, dict[str, Deviation]]
) -> dict[str, dict[str, float]]:
    """By defect and view, the largest ratio of a deviation to its tolerance."""
    found = {}
    for name, compared in DEFECTS.items():
        limits = tolerances[compared[0]]
        found[name] = {
            "step": _ratio(of_single_steps(batches, plain, *compared), limits["step"]),
            "run": _ratio(of_run(batches, plain, *compared), limits["run"]),
        }
    return found


def _ratio(found: Deviation, limit: Deviation) -> float:
    return max(found[key] / limit[key] for key in limit)
