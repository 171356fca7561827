"""Studies on disk that nobody trained: run directories as the trainer leaves them, quick to write."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.identity import run_id
from configs.rundir import Readout, State, Status, create_run, metrics_path, run_dir_of, write_atomic, write_status
from configs.schema import RunConfig

BATCH = 2**10


def written_config(**changes: Any) -> RunConfig:
    """A run's configuration with its data pinned."""
    data = {"fingerprint": "0" * 16}
    return RunConfig.model_validate({"data": data, "batch_tokens": BATCH, "budget_tokens": 2**20, **changes})


def written_study(directory: Path, configs: Iterable[RunConfig]) -> list[Path]:
    """The directories of a study's runs, none of which has begun."""
    run_dirs = []
    for config in configs:
        run_dirs.append(run_dir_of(directory, run_id(config)))
        create_run(run_dirs[-1], config)
    lines = [json.dumps({"id": run_dir.name}) for run_dir in run_dirs]
    write_atomic(directory / "manifest.jsonl", "".join(line + "\n" for line in lines))
    return run_dirs


def rows(first: int, last: int, noise: float = 0.0) -> list[dict[str, Any]]:
    """Metrics rows of the steps from `first` up to and including `last`; step 0 is the first validation."""
    found = []
    for step in range(first, last + 1):
        tokens, loss = step * BATCH, 2 + 3 / (1 + step) + noise
        kind = "valid" if step == 0 else "train"
        found.append({"kind": kind, "tokens": tokens, "step": step, "loss": loss, "tokens_per_s": 1e4 + noise})
    return found


def write_attempt(run_dir: Path, attempt: int, first: int, last: int, state: State, noise: float = 0.0) -> None:
    """An attempt that resumed after step `first` and logged until step `last`, and the status it left."""
    start = [{"kind": "resume", "tokens": first * BATCH}]
    logged = rows(first + 1 if first else 0, last, noise)
    if state == "finished":
        logged.append({"kind": "valid", "tokens": last * BATCH, "loss": logged[-1]["loss"]})
    write_atomic(metrics_path(run_dir, attempt), "".join(json.dumps(row) + "\n" for row in start + logged))
    readout = Readout(tokens=last * BATCH, loss=logged[-1]["loss"], train_loss=None, rms={})
    readouts = (readout,) if state == "finished" else ()
    write_status(run_dir, Status(state=state, tokens=last * BATCH, attempt=attempt, readouts=readouts))
