"""Checkpoints that exist whole or not at all: written beside, synced, renamed, and only then are older ones pruned.

DeepSpeed's own `latest` file is written before other ranks have finished, so it is not used. The data order is a pure
function of (seed, sample number) and there is no dropout, so parameters, moments and a token count are all the state.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs.errors import ConfigError
from configs.rundir import write_atomic
from train.engine import Engine


def save(engine: Engine, run_dir: Path, tokens: int, state: dict[str, Any]) -> None:
    """Write the checkpoint of `tokens` with the loop's own `state` (JSON), then drop the older ones."""
    root = run_dir / "checkpoints"
    partial, final = root / f"{tokens:015d}.partial", root / f"{tokens:015d}"
    rank = dist.get_rank()
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save_checkpoint(str(partial), tag="state", save_latest=False, client_state={})
    dist.barrier()
    if rank == 0:
        shape = {"world_size": dist.get_world_size(), "zero_stage": engine.zero_optimization_stage()}
        write_atomic(partial / "state.json", json.dumps({"tokens": tokens, **shape, **state}))
        for path in partial.rglob("*"):
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
        _sync(root)
        for other in root.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)
    dist.barrier()


def load_latest(engine: Engine, run_dir: Path) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint and return its state; None if there is none.

    Raises ConfigError if it was written by another number of ranks or ZeRO stage.
    """
    whole = sorted(p for p in (run_dir / "checkpoints").glob("*") if not p.name.endswith(".partial"))
    if not whole:
        return None
    state = json.loads((whole[-1] / "state.json").read_text())
    for name, have in (("world_size", dist.get_world_size()), ("zero_stage", engine.zero_optimization_stage())):
        if state[name] != have:
            raise ConfigError(
                f"{whole[-1]}: written with {name} = {state[name]}, resumed with {have}: "
                f"resume as it was written, or remove the checkpoint to start the run again"
            )
    engine.load_checkpoint(str(whole[-1]), tag="state")
    return state


def export(engine: Engine, run_dir: Path) -> None:
    """Write the weights, in compute precision, as a plain Hugging Face model to run_dir/model.

    Not under ZeRO-3, where no rank holds them whole.
    """
    if dist.get_rank() == 0 and engine.zero_optimization_stage() < 3:
        partial, final = run_dir / ".model.partial", run_dir / "model"
        shutil.rmtree(partial, ignore_errors=True)
        engine.module.save_pretrained(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(partial, final)
    dist.barrier()


def remove(run_dir: Path) -> None:
    """Drop all checkpoints of a run."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
