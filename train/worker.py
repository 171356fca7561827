"""What a worker process does: one run, or the unfinished runs of a study one after another.

Starting Python, torch and DeepSpeed costs as long as a small run, so a worker pays it once.
"""

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs.claims import claim, heartbeat, lost, release
from configs.errors import ConfigError
from configs.identity import run_id
from configs.lineage import changed_fields
from configs.load import load_run
from configs.manifest import Manifest
from configs.plan import Hardware, Plan, check_tokens, plan
from configs.rundir import (
    ENDED,
    create_run,
    failed,
    manifest_ids,
    path_of,
    read_config,
    read_json,
    read_status,
    run_dir_of,
    write_json,
    write_status,
)
from configs.schema import RunConfig
from train.build import built
from train.control import launchers, stop_watch
from train.data.batches import open_split
from train.data.open import open_corpus
from train.engine import device_memory
from train.loop import train
from train.mirror import Tell, mirroring
from train.provenance import write_provenance
from train.ranks import on_rank_0, say, together
from train.tell import teller

PREEMPTED = 85  # exit code of a run that was stopped and can be resumed
BUSY = "another process works on it"
UNBORN = "its trunk has not come to its branch"
WAIT_S = 1.0  # between looks at runs that other processes work on


def run_single(config_file: Path, overrides: list[str], run_dir: Path | None, data_dir: Path, launched: float) -> int:
    """Train the run of one config file; resume it if it was stopped, say so if it has ended.

    Raises ConfigError before anything is written if the run cannot be planned or has too few tokens.
    """

    def prepare() -> Path:
        config = load_run(config_file, overrides)
        fingerprint = open_corpus(config.data, data_dir).fingerprint
        config = config.model_copy(update={"data": config.data.model_copy(update={"fingerprint": fingerprint})})
        check(config, data_dir)
        where = run_dir or Path("runs/single/runs") / run_id(config)
        create_run(where, config)
        return where

    return run_claimed("single", [on_rank_0(prepare)], data_dir, stop_watch((), launchers()), launched, since=launched)


def run_study(
    study_dir: Path,
    data_dir: Path,
    launched: float,
    since: float,
    *,
    only: Sequence[str] = (),
    parent: int | None = None,
    stop_file: Path | None = None,
) -> int:
    """Train what is left of a planned study, in the manifest's order, sharing the work with other workers.

    `only` names some of its runs, in the order to take them. It stops when `stop_file` exists or `parent` is gone.
    """

    def order() -> list[Path]:
        run_dirs = [run_dir_of(study_dir, identity) for identity in only or manifest_ids(study_dir)]
        return sorted(run_dirs, key=lambda run_dir: read_status(run_dir).state == "failed")

    stop_files = [study_dir / "STOP", *([stop_file] if stop_file else [])]
    stop = stop_watch(stop_files, [*launchers(), *([parent] if parent else [])])
    code = run_claimed(study_dir.name, on_rank_0(order), data_dir, stop, launched, since)
    return PREEMPTED if code == PREEMPTED else 0  # a worker that came to its end did its work; failures are on record


def run_claimed(
    study: str, run_dirs: list[Path], data_dir: Path, stop: Callable[[], bool], launched: float, since: float
) -> int:
    """Take one run after another that is left and unclaimed; one that fails is recorded and the others go on.

    Runs that other processes work on are looked at again until they have ended, in case those processes die. A run
    that failed after `since` is not tried again.
    """
    code, first, waiting = 0, True, list(run_dirs)
    with mirroring() as tell:
        while waiting:
            busy = []
            for run_dir in waiting:
                if on_rank_0(stop):
                    return PREEMPTED
                obstacle = on_rank_0(lambda run_dir=run_dir: _take(run_dir, since))
                if obstacle in (BUSY, UNBORN) and study != "single":
                    busy.append(run_dir)
                elif obstacle:
                    say(f"{run_dir}: {obstacle}")
                    code = max(code, on_rank_0(lambda run_dir=run_dir: _code_without(run_dir)))
                else:
                    outcome = _attempt(study, run_dir, data_dir, stop, launched if first else None, tell)
                    code, first = max(code, outcome), False
            if len(busy) == len(waiting):
                time.sleep(WAIT_S)
            waiting = busy
        return code


def _take(run_dir: Path, since: float) -> str | None:
    """Why not to train a run now; None once it is claimed."""

    def obstacle() -> str | None:
        status = read_status(run_dir)
        if status.state in ENDED:
            return f"nothing to do, it is {status.state}"
        if status.state == "failed" and status.updated >= since:
            return f"it failed: {status.message}"
        if (run_dir / "STOP").exists():
            return "its STOP file asks to leave it; remove that to go on"
        return _without_trunk(run_dir, since)

    if reason := obstacle():
        return reason
    if not claim(run_dir):
        return BUSY
    if reason := obstacle():  # it ended between the look and the claim
        release(run_dir)
    else:
        (run_dir / "failure.txt").unlink(missing_ok=True)
    return reason


def _code_without(run_dir: Path) -> int:
    """The exit code asked for by a run that was not trained now."""
    state = read_status(run_dir).state
    return 0 if state in ENDED else 1 if state == "failed" else PREEMPTED


def _without_trunk(run_dir: Path, since: float) -> str | None:
    """Why a branch cannot leave its trunk now; None if it can, has left it, or is no branch.

    A branch of a trunk that diverged before that point has diverged with it.
    """
    branch = read_config(run_dir).branch
    if branch is None or read_status(run_dir).attempt:
        return None
    trunk = run_dir.parent / branch.parent
    if path_of(trunk, branch.tokens).exists():
        return None
    status = read_status(trunk)
    if status.state == "diverged" and status.tokens <= branch.tokens:
        message = f"its trunk {branch.parent} diverged: {status.message}"
        fate: dict[str, Any] = {
            "state": "diverged",
            "tokens": status.tokens,
            "message": message,
            "updated": time.time(),
        }
        fate["readouts"] = tuple(readout for readout in status.readouts if readout.tokens == 0)
        write_status(run_dir, read_status(run_dir).model_copy(update=fate))
        return message
    if status.state in ENDED or (status.state == "failed" and status.updated >= since) or not trunk.exists():
        message = f"its trunk {branch.parent} left no checkpoint at {branch.tokens} tokens; train the trunk again"
        _record_failure(run_dir, message)
        return message
    if (trunk / "STOP").exists():
        return f"its trunk {branch.parent} has a STOP file; remove that to go on"
    return UNBORN


def _attempt(
    study: str, run_dir: Path, data_dir: Path, stop: Callable[[], bool], launched: float | None, tell: Tell
) -> int:
    """Train a claimed run and give it back; the exit code it asks for."""
    own_stop = stop_watch((run_dir / "STOP",), ())
    beating = heartbeat(run_dir) if dist.get_rank() == 0 else contextlib.nullcontext()
    try:
        with beating:
            state = run_one(study, run_dir, data_dir, lambda: stop() or own_stop(), launched, tell)
        return PREEMPTED if state == "preempted" else 0
    except ConfigError as error:  # found by all ranks alike
        say(f"error: {error}")
        _record_refusal(run_dir, str(error))
    except Exception as error:
        traceback.print_exc()
        _record_failure(run_dir, _first_failure(run_dir, f"{type(error).__name__}: {error}"))
        if dist.get_world_size() > 1:
            raise  # the other ranks are inside a collective call; only the launcher can end them
    finally:
        if dist.get_rank() == 0:
            tell(ended=run_dir.resolve())
            release(run_dir)
    return 1


def _first_failure(run_dir: Path, message: str) -> str:
    """What went wrong first: the error of the rank that failed, not those of ranks that then lost contact with it.

    Every rank that fails tries to leave a note; the first one's stands until the run is attempted again.
    """
    note, draft = run_dir / "failure.txt", run_dir / f".failure.{dist.get_rank()}.tmp"
    with contextlib.suppress(OSError):
        draft.write_text(f"rank {dist.get_rank()}: {message}\n")
        os.link(draft, note)  # appears with its content, or not at all if there is one
    with contextlib.suppress(OSError):
        draft.unlink()
    return (note.read_text() if note.exists() else "") or message


def _record_refusal(run_dir: Path, message: str) -> None:
    """A stopped run that cannot be resumed like this has not failed: it goes on when it is resumed rightly."""
    if on_rank_0(lambda: read_status(run_dir).state) != "preempted":
        _record_failure(run_dir, message)
    elif dist.get_rank() == 0 and not lost(run_dir):
        write_status(run_dir, read_status(run_dir).model_copy(update={"message": message, "updated": time.time()}))


def _record_failure(run_dir: Path, message: str) -> None:
    if dist.get_rank() == 0 and not lost(run_dir):
        with contextlib.suppress(OSError):  # on a full disk the status stays as it was, and the claim goes stale
            write_status(run_dir, failed(read_status(run_dir), message, time.time()))


def run_one(
    study: str, run_dir: Path, data_dir: Path, stop: Callable[[], bool], launched: float | None, tell: Tell
) -> str:
    """Train one run that this worker has claimed; `launched` is when the worker was, for its first run."""
    config = read_config(run_dir)
    planned, corpus = together(lambda: check(config, data_dir))
    stores = (open_split(corpus, "train", config.model.seq_len), open_split(corpus, "valid", config.model.seq_len))
    previous = read_status(run_dir)
    lineage = on_rank_0(lambda: _lineage(run_dir, config))

    def describe() -> None:
        write_json(run_dir / "plan.json", asdict(planned))
        write_provenance(run_dir, corpus.fingerprint, dist.get_world_size(), lineage)

    on_rank_0(describe)
    if launched is not None:
        previous = previous.model_copy(update={"startup_seconds": time.time() - launched})
    if dist.get_rank() == 0 and config.log.wandb != "disabled":
        tell(run_dir=run_dir.resolve(), study=study, attempt=previous.attempt + 1)
    on_row, at_end = teller(planned, run_dir) if study == "single" and dist.get_rank() == 0 else (_silent, _silent)
    with built(config, planned) as (engine, rows):
        status = train(engine, rows, config, planned, stores, run_dir, previous, stop, on_row)
    at_end(status)
    return status.state


def _silent(heard: object) -> None:
    """For who has nobody to talk to."""


def _lineage(run_dir: Path, config: RunConfig) -> dict[str, Any] | None:
    """Trunk, tokens and changed fields of a branch; None for a run from scratch. Raises ConfigError.

    A branch that has left its trunk needs it no more, and keeps what it recorded then.
    """
    if config.branch is None:
        return None
    if read_status(run_dir).attempt:
        return read_json(run_dir / "provenance.json")["branch"]
    changed = changed_fields(read_config(run_dir.parent / config.branch.parent), config)
    return config.branch.model_dump() | {"changed": changed}


def check(config: RunConfig, data_dir: Path) -> tuple[Plan, Manifest]:
    """The plan of the run on these ranks and its corpus. Raises ConfigError if it does not fit either."""
    planned = plan(config, Hardware(world_size=dist.get_world_size(), device_memory=device_memory()))
    corpus = open_corpus(config.data, data_dir)
    check_tokens(config, corpus.train.tokens, corpus.valid.tokens, corpus.vocab_size)
    return planned, corpus
