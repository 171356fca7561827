"""The run-directory contract: what a study and a run leave on disk, written atomically and read tolerantly.

<study>/study.yaml                 the study as asked, with overrides
<study>/manifest.jsonl             one line a run, in the order of execution
<study>/runs/<id>/config.json      what was asked of the run
                 /plan.json        what follows from it on this hardware
                 /provenance.json  code, packages, machine, data
                 /status.json      where it stands; results when it has ended
                 /metrics.NNN.jsonl  one file an attempt, appended
                 /checkpoints/<tokens>/
                 /claim.json       which process works on it
                 /mirrored.json    what a Weights & Biases server was sent (configs.mirrored)
                 /wandb/           the Weights & Biases client's own files
"""

import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from configs.errors import ConfigError
from configs.explain import validated
from configs.schema import RunConfig

State = Literal["pending", "running", "preempted", "finished", "diverged", "failed"]
ENDED: frozenset[State] = frozenset({"finished", "diverged"})
PARKED_AFTER = 3  # failures in a row for the same reason


_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?")


class Readout(BaseModel):
    """Losses (nats) and activation sizes at one token count."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    tokens: int
    loss: float  # validation, over the whole fixed validation set
    train_loss: float | None  # mean since the previous training record; None before the first step
    ema_loss: float | None = None  # validation, of the averaged weights
    rms: dict[str, float]  # RMS of activations by module kind, on the first validation batch


class WarmupStatus(BaseModel):
    """What a warmup that looks at the loss came to (`schedule.warmup`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lr_start: float  # the critical rate before the first step, or the peak if that is less
    passes: int  # forward passes that the search for it, and for later ones, took
    reached_tokens: int | None  # T_reach: when the rate became the peak; None if it has not yet
    saved_tokens: float | None  # T_save: what a linear warmup from 0 would have taken longer, less the passes


class Status(BaseModel):
    """Where a run stands. The file, not an exit code, is the truth."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    state: State = "pending"
    tokens: int = 0
    attempt: int = 0
    updated: float = 0.0  # unix seconds: the heartbeat
    readouts: tuple[Readout, ...] = ()
    seconds: float = 0.0  # spent in training and validation, over all attempts
    startup_seconds: float = 0.0  # from the launch of the worker to its first run; 0 for later runs
    tokens_per_s: float = 0.0
    spikes: int = 0  # steps whose loss stood out
    skipped: int = 0  # steps left out because of it
    warmup: WarmupStatus | None = None
    peak_memory_bytes: int = 0
    world_size: int = 1
    zero_stage: int = 1
    message: str = ""
    resumed: int = 0  # tokens at which this attempt began
    failure: str = ""  # the message of the last failure
    failures: int = 0  # how often in a row it failed so, without a checkpoint in between that got further
    failed_from: int = 0  # `resumed` of the attempt that failed last


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a reader or a crash sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file or directory to disk: a rename must not outlive a power cut that its contents do not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def run_dir_of(study_dir: Path, identity: str) -> Path:
    """Directory of a study's run."""
    return study_dir / "runs" / identity


def path_of(run_dir: Path, tokens: int) -> Path:
    """Where the checkpoint at `tokens` is."""
    return run_dir / "checkpoints" / f"{tokens:015d}"


def newest_tokens(run_dir: Path) -> int:
    """Tokens of the newest checkpoint that was written to its end; 0 without one."""
    return max((int(path.name) for path in (run_dir / "checkpoints").glob("*") if path.name.isdigit()), default=0)


def manifest_ids(study_dir: Path) -> list[str]:
    """Ids of a study's runs in the order of execution. Raises ConfigError if the study was never planned here."""
    try:
        lines = (study_dir / "manifest.jsonl").read_text().splitlines()
    except FileNotFoundError:
        raise ConfigError(f"{study_dir}: no manifest.jsonl: start the study with `bcrit run` first") from None
    return [json.loads(line)["id"] for line in lines]


def write_status(run_dir: Path, status: Status) -> None:
    """Replace the run's status file."""
    write_atomic(run_dir / "status.json", status.model_dump_json(indent=1) + "\n")


def read_status(run_dir: Path) -> Status:
    """Status of a run; `pending` if it never started."""
    try:
        return Status.model_validate_json((run_dir / "status.json").read_text())
    except FileNotFoundError:
        return Status()


def failed(status: Status, message: str, now: float) -> Status:
    """The status after a failure: it counts those in a row for the same reason, whatever numbers the message has.

    An attempt that began further than the failed one before it was progress, and starts the count again.
    """
    line = (message.strip().splitlines() or ["unknown"])[0]
    again = _NUMBERS.sub("#", line) == _NUMBERS.sub("#", status.failure) and status.resumed <= status.failed_from
    changes = {"message": line, "failure": line, "failures": status.failures + 1 if again else 1}
    return status.model_copy(update={"state": "failed", "updated": now, "failed_from": status.resumed} | changes)


def parked(status: Status) -> bool:
    """Whether a run has failed so often for the same reason that it is not to be tried again unasked."""
    return status.state == "failed" and status.failures >= PARKED_AFTER


def read_config(run_dir: Path) -> RunConfig:
    """The frozen configuration of a run. Raises ConfigError if another version of bcrit wrote it in another form."""
    path = run_dir / "config.json"
    try:
        return validated(RunConfig, read_json(path), str(path))
    except ConfigError as error:
        raise ConfigError(f"{error}; it was written by another version: finish the run with that one") from None


def create_run(run_dir: Path, config: RunConfig) -> None:
    """Make a run's directory, or check that the one there belongs to the same question.

    Engine, logging and checkpoint settings may change between attempts; they do not define the result. The record of
    a run that has ended stays as it is.
    Raises ConfigError if the directory holds a run with other settings.
    """
    from configs.identity import run_id

    run_dir.mkdir(parents=True, exist_ok=True)
    if (run_dir / "config.json").exists() and run_id(read_config(run_dir)) != run_id(config):
        raise ConfigError(f"{run_dir} holds another run: choose another directory, or remove it")
    if read_status(run_dir).state not in ENDED:
        write_atomic(run_dir / "config.json", config.model_dump_json(indent=1) + "\n")


def metrics_path(run_dir: Path, attempt: int) -> Path:
    """File of one attempt's metrics."""
    return run_dir / f"metrics.{attempt:03d}.jsonl"


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The run's metric rows in order of tokens, each once.

    Every attempt opens its file with the token count it resumed from; what an earlier attempt logged beyond
    that point was undone by the resume and is left out. A torn last line is skipped.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(run_dir.glob("metrics.*.jsonl")):
        for row in _json_lines(path):
            if row["kind"] == "resume":
                # An attempt that starts from nothing validates at token 0 again; one that resumes does not.
                rows = [kept for kept in rows if 0 < row["tokens"] >= kept["tokens"]]
            else:
                rows.append(row)
    return rows


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
