"""What is compared: one small run, laid out in every way that is supported."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from configs.plan import Hardware, Plan, plan
from configs.schema import RunConfig
from train.data.batches import open_split, sequences
from train.data.prepare import ensure_embedded
from train.schedules import step_shape

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BATCH_SEQS, SEQ_LEN, STEPS = 32, 32, 16
SINGLE_STEPS = (1, 9)  # also compared by themselves, each from the engine's own state before it
SNAPSHOTS = (1, 8, 9, STEPS)  # steps after which the engine's state is read


@dataclass(frozen=True)
class Cell:
    """A way to execute the run."""

    precision: Precision
    zero_stage: int
    accumulation: int
    world_size: int

    def __str__(self) -> str:
        return f"{self.precision} ZeRO-{self.zero_stage} accumulation {self.accumulation} ranks {self.world_size}"


# ZeRO-0 with bf16 is not here because `configs.plan` refuses it; test_known_wrong.py shows why.
CELLS = tuple(
    Cell(precision, stage, accumulation, world_size)
    for precision, stage, world_size, accumulation in product(PRECISIONS, (0, 1, 2, 3), (1, 2), (1, 2, 4))
    if not (precision == "bf16" and stage == 0)
)

PLAIN_BASE = {  # the published table was made with it; a default that moves must not move the table
    "hidden_init_std": 0.125,
    "embedding_init_std": 1.0,
    "output_init_std": 0.125,
    "embedding_multiplier": 1.0,
    "output_multiplier": 1.0,
    "residual_multiplier": 1.0,
}


def config_of(precision: Precision, zero_stage: int = 1, micro_batch_seqs: int = BATCH_SEQS) -> RunConfig:
    """The run: small, but with all that a layout could get wrong.

    Three optimizer groups (muP at twice the base width), weight decay, a warmup and a decay of the learning rate, and
    a clipping norm that some steps exceed and others do not.
    """
    batch_tokens = BATCH_SEQS * SEQ_LEN
    return RunConfig.model_validate(
        {
            "model": {"width": 32, "base_width": 16, "depth": 2, "head_dim": 16, "seq_len": SEQ_LEN} | PLAIN_BASE,
            "data": {"valid_tokens": SEQ_LEN},
            "optimizer": {"weight_decay": 0.1, "clip_norm": 0.7},
            "schedule": {"kind": "cosine", "warmup_tokens": 4 * batch_tokens, "final_ratio": 0.1},
            "engine": {"zero_stage": zero_stage, "micro_batch_seqs": micro_batch_seqs},
            "lr": 2**-6,
            "batch_tokens": batch_tokens,
            "budget_tokens": STEPS * batch_tokens,
            "precision": precision,
        }
    )


def layout(cell: Cell) -> tuple[RunConfig, Plan]:
    """The run executed as `cell`."""
    micro_batch_seqs = BATCH_SEQS // (cell.accumulation * cell.world_size)
    config = config_of(cell.precision, cell.zero_stage, micro_batch_seqs)
    return config, plan(config, Hardware(world_size=cell.world_size))


def lr_at(config: RunConfig, step: int) -> float:
    """Learning rate of a step (the first is 0), before the groups' multipliers."""
    tokens = step * config.batch_tokens
    return config.lr * step_shape(config.schedule, config.budget_tokens, config.batch_tokens, tokens)


def read_batches(data_dir: Path) -> Iterator[torch.Tensor]:
    """The batch of every step, (BATCH_SEQS, SEQ_LEN + 1) token ids of real text."""
    store = open_split(ensure_embedded(data_dir), "train", SEQ_LEN)
    for step in range(STEPS):
        yield torch.from_numpy(sequences(store, 0, step * BATCH_SEQS, BATCH_SEQS))
