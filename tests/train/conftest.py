"""A run small enough to be trained again and again in one process."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param

from configs.load import load_run
from configs.manifest import Manifest
from configs.plan import Hardware, plan
from configs.rundir import Status, create_run, read_metrics, read_status
from configs.schema import RunConfig
from train.build import built
from train.data.batches import open_split, windows
from train.data.prepare import ensure_embedded
from train.loop import train
from train.pace import PACE

RUN = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
lr: 2^-6
batch_tokens: 256
budget_tokens: 4096
schedule: {warmup_tokens: 1024}
log: {every_tokens: 768, wandb: disabled}
"""
Attempt = Callable[..., Status]


@pytest.fixture
def run(tmp_path, data_dir, process_group) -> Attempt:
    """A function that trains (or goes on training) in a directory, and stops after the given steps of this attempt."""
    config_file = tmp_path / "run.yaml"
    config_file.write_text(RUN)
    manifest = ensure_embedded(data_dir)

    def attempt(run_dir: Path, *overrides: str, stop_after: int | None = None) -> Status:
        config = pinned(load_run(config_file, overrides), manifest)
        create_run(run_dir, config)
        steps = 0

        def stop() -> bool:
            nonlocal steps
            steps += 1
            return steps == stop_after

        stores = (open_split(manifest, "train", 32), open_split(manifest, "valid", 32))
        steps_plan = plan(config, Hardware(world_size=1))
        previous = read_status(run_dir)
        with built(config, steps_plan) as (engine, rows):
            return train(engine, rows, config, steps_plan, stores, run_dir, previous, stop, lambda row: None)

    return attempt


@dataclass(frozen=True)
class Trained:
    """What the trainer held in memory at the end of a run."""

    status: Status
    logits: torch.Tensor
    master_weights: dict[str, torch.Tensor]


@pytest.fixture
def trained(tmp_path, data_dir, process_group) -> Callable[..., Trained]:
    """A function that trains a run in a directory to its end and looks into the engine before it is freed."""
    config_file = tmp_path / "run.yaml"
    config_file.write_text(RUN)
    embedded = ensure_embedded(data_dir)

    def train_and_look(run_dir: Path, *overrides: str, corpus: Manifest = embedded) -> Trained:
        config = pinned(load_run(config_file, overrides), corpus)
        create_run(run_dir, config)
        planned = plan(config, Hardware(world_size=1))
        stores = (open_split(corpus, "train", 32), open_split(corpus, "valid", 32))
        with built(config, planned) as (engine, rows):
            status = train(
                engine, rows, config, planned, stores, run_dir, read_status(run_dir), lambda: False, lambda row: None
            )
            with torch.no_grad():
                logits = engine(input_ids=held_out(embedded)[:, :-1]).logits.float()
            weights = {
                name: (safe_get_full_fp32_param(p) if config.engine.zero_stage else p.detach()).clone()
                for name, p in engine.module.named_parameters()
            }
        return Trained(status, logits, weights)

    return train_and_look


def pinned(config: RunConfig, corpus: Manifest) -> RunConfig:
    return config.model_copy(
        update={"data": config.data.model_copy(update={"fingerprint": corpus.fingerprint})},
    )


def held_out(corpus: Manifest) -> torch.Tensor:
    """The validation tokens of the run, (32, 33)."""
    return torch.from_numpy(windows(open_split(corpus, "valid", 32), np.arange(1024 // 32)))


def science(run_dir: Path) -> list[dict]:
    """The metrics without those that measure time."""
    return [{key: row[key] for key in row if key not in PACE} for row in read_metrics(run_dir)]


def checkpoints_of(run_dir: Path) -> list[Path]:
    """A run's checkpoints, the newest last."""
    return sorted((run_dir / "checkpoints").glob("*"))


def tensors_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by file and path: weights, master weights, moments, average."""
    found: dict[str, torch.Tensor] = {}

    def collect(prefix: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{prefix}/{key}", item)
        elif isinstance(value, list | tuple):
            for key, item in enumerate(value):
                collect(f"{prefix}/{key}", item)

    for file in sorted(checkpoint.rglob("*.pt")):
        collect(file.name, torch.load(file, weights_only=False))
    return found


def assert_same_tensors(one: Path, other: Path) -> None:
    """Two checkpoints hold the same numbers, bit for bit."""
    a, b = tensors_of(one), tensors_of(other)
    assert a.keys() == b.keys()
    assert len(a) > 5
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
