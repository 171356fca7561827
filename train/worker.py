"""What a worker process does: one run, or the unfinished runs of a study one after another.

Starting Python, torch and DeepSpeed costs as long as a small run, so a worker pays it once.
"""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from configs.claims import claim, release
from configs.identity import run_id
from configs.load import load_run
from configs.plan import Hardware, check_tokens, plan
from configs.rundir import (
    ENDED,
    create_run,
    manifest_ids,
    read_config,
    read_status,
    run_dir_of,
    write_json,
    write_status,
)
from train.control import stop_watch
from train.data.batches import open_split
from train.data.open import open_corpus
from train.loop import train
from train.provenance import write_provenance
from train.wandb_mirror import open_mirror

PREEMPTED = 85  # exit code of a run that was stopped and can be resumed
T = TypeVar("T")


def run_single(config_file: Path, overrides: list[str], run_dir: Path | None, data_dir: Path, launched: float) -> int:
    """Train the run of one config file; resume it if it was stopped, say so if it has ended."""
    config = load_run(config_file, overrides)
    manifest = on_rank_0_first(lambda: open_corpus(config.data, data_dir))
    config = config.model_copy(update={"data": config.data.model_copy(update={"fingerprint": manifest.fingerprint})})
    where = run_dir or Path("runs/single/runs") / run_id(config)
    on_rank_0_first(lambda: create_run(where, config))
    return run_claimed("single", [where], data_dir, stop_watch((), None), launched)


def run_study(study_dir: Path, data_dir: Path, parent: int | None, launched: float) -> int:
    """Train what is left of a planned study, in the manifest's order, sharing the work with other workers."""
    stop = stop_watch((study_dir / "STOP",), parent)
    run_dirs = [run_dir_of(study_dir, identity) for identity in manifest_ids(study_dir)]
    return run_claimed(study_dir.name, run_dirs, data_dir, stop, launched)


def run_claimed(study: str, run_dirs: list[Path], data_dir: Path, stop: Callable[[], bool], launched: float) -> int:
    """Take one run after another that is left and unclaimed; one that fails is recorded and the others go on."""
    began, code, first = time.time(), 0, True
    for run_dir in run_dirs:
        if shared(stop() if dist.get_rank() == 0 else None):
            return PREEMPTED
        reason = shared(_not_ours(run_dir, began) if dist.get_rank() == 0 else None)
        if reason:
            if dist.get_rank() == 0:
                print(f"{run_dir}: {reason}", flush=True)
            continue
        try:
            own_stop = stop_watch((run_dir / "STOP",), None)
            state = run_one(study, run_dir, data_dir, lambda own=own_stop: stop() or own(), launched if first else None)
            code, first = max(code, PREEMPTED if state == "preempted" else 0), False
        except Exception as error:
            code = max(code, 1)
            traceback.print_exc()
            if dist.get_rank() == 0:
                failure = {"state": "failed", "message": f"{type(error).__name__}: {error}".splitlines()[0]}
                write_status(run_dir, read_status(run_dir).model_copy(update={**failure, "updated": time.time()}))
            if dist.get_world_size() > 1:
                raise  # the other ranks are inside a collective call; only the launcher can end them
        finally:
            if dist.get_rank() == 0:
                release(run_dir)
    return code


def _not_ours(run_dir: Path, began: float) -> str | None:
    """Why not to train a run now; None once it is claimed."""

    def obstacle() -> str | None:
        status = read_status(run_dir)
        if status.state in ENDED:
            return f"nothing to do, it is {status.state}"
        if status.state == "failed" and status.updated >= began:
            return "it failed a moment ago"
        return "its STOP file asks to leave it; remove that to go on" if (run_dir / "STOP").exists() else None

    if reason := obstacle():
        return reason
    if not claim(run_dir):
        return "another process works on it"
    if reason := obstacle():  # it ended between the look and the claim
        release(run_dir)
    return reason


def run_one(study: str, run_dir: Path, data_dir: Path, stop: Callable[[], bool], launched: float | None) -> str:
    """Train one run that this worker has claimed; `launched` is when the worker was, for its first run."""
    config = read_config(run_dir)
    manifest = open_corpus(config.data, data_dir)
    check_tokens(config, manifest.train.tokens, manifest.valid.tokens, manifest.vocab_size)
    steps = plan(config, Hardware(world_size=dist.get_world_size()))
    stores = (open_split(manifest, "train", config.model.seq_len), open_split(manifest, "valid", config.model.seq_len))
    previous = read_status(run_dir)
    if dist.get_rank() == 0:
        write_json(run_dir / "plan.json", asdict(steps))
        write_provenance(run_dir, manifest.fingerprint, dist.get_world_size())
    if launched is not None:
        previous = previous.model_copy(update={"startup_seconds": time.time() - launched})
    quiet = (lambda row: None), (lambda status: None)
    on_row, at_end = open_mirror(config, run_dir, study) if dist.get_rank() == 0 else quiet
    status = train(config, steps, stores, run_dir, previous, stop, on_row)
    at_end(status)
    return status.state


def on_rank_0_first(action: Callable[[], T]) -> T:
    """Do it on rank 0, then on the others, so that a file is made once."""
    if dist.get_rank() != 0:
        dist.barrier()
    result = action()
    if dist.get_rank() == 0:
        dist.barrier()
    return result


def shared(value: object) -> object:
    """Rank 0's value on every rank."""
    if dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
