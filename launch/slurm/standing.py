"""Where every run of a study stands, from its files, and from the queue where there is one."""

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.claims import HEARTBEAT_LIMIT_S, heard, owner_of, process_alive
from configs.plan import start_tokens
from configs.rundir import ENDED, parked, read_config, read_json, read_status, run_dir_of
from launch.slurm import queue
from launch.slurm.submission import Submitted, submissions

UNDER_WAY = 3  # exit code


@dataclass(frozen=True)
class Facts:
    """What SLURM says of a study's tasks."""

    queued: Mapping[queue.Key, tuple[str, str]]  # those that have not ended: state and reason
    ended: Mapping[queue.Key, str]  # how others ended, where accounting knows


@dataclass(frozen=True)
class Standing:
    """Where one run stands."""

    run: str
    state: str  # pending, running, preempted, finished, diverged, failed, parked
    done: int  # tokens that it has trained itself
    total: int  # tokens that it is to train
    seconds_left: float | None  # while it runs
    task: str  # that has the run, such as `123_4`; empty: none in the queue
    note: str  # first line of its error, or what it waits for


def facts_of(study_dir: Path) -> Facts | None:
    """What SLURM says now; None where there is none. Raises ConfigError if it does not answer."""
    jobs = {job for submitted in submissions(study_dir) for job in (*submitted.jobs, submitted.report) if job}
    if not jobs or not queue.available():
        return None
    alive = {key: about for key, about in queue.queued().items() if key[0] in jobs}
    return Facts(alive, {key: state for key, state in queue.ended(jobs).items() if key not in alive})


def left_to_submit(study_dir: Path, ids: Sequence[str]) -> list[str]:
    """Those runs that have not ended, are not parked, and are in no task of the queue."""
    facts = facts_of(study_dir)
    queued = _tasks_of(study_dir, facts.queued if facts else {})
    statuses = {identity: read_status(run_dir_of(study_dir, identity)) for identity in ids}
    return [i for i, s in statuses.items() if s.state not in ENDED and not parked(s) and i not in queued]


def standings(study_dir: Path, ids: Sequence[str], facts: Facts | None, now: float | None = None) -> list[Standing]:
    """Where each run stands at unix time `now`."""
    now = time.time() if now is None else now
    queued = _tasks_of(study_dir, facts.queued if facts else {})
    ended = _tasks_of(study_dir, facts.ended if facts else {})
    return [_standing(study_dir, identity, facts, queued.get(identity), ended.get(identity), now) for identity in ids]


def exit_code(found: Sequence[Standing]) -> int:
    """For scripts: 0 if every run has ended, UNDER_WAY if SLURM or a process works on it, 1 if nobody does."""
    if all(run.state in ENDED for run in found):
        return 0
    return UNDER_WAY if any(run.task or run.state == "running" for run in found) else 1


def task_errors(study_dir: Path, found: Sequence[Standing]) -> list[str]:
    """What tasks that gave up have said, while what they had is left."""
    left = {run.run for run in found if run.state not in ENDED}
    paths = sorted((study_dir / "slurm" / "tasks").glob("*.json"))
    records = {path.stem: read_json(path) for path in paths if left}
    return [
        f"task {key}: {record['message']}"
        for key, record in records.items()
        if record["message"] and (not record["runs"] or left & set(record["runs"]))
    ]


def _standing(
    study_dir: Path,
    identity: str,
    facts: Facts | None,
    queued: queue.Key | None,
    ended: queue.Key | None,
    now: float,
) -> Standing:
    run_dir = run_dir_of(study_dir, identity)
    config, status = read_config(run_dir), read_status(run_dir)
    start = start_tokens(config)
    slurm_state, reason = facts.queued[queued] if facts and queued else ("", "")
    state, note = status.state, status.message
    if parked(status):
        state = "parked"
    elif state == "running" and not _worked_on(run_dir, facts, now):
        state, note = "preempted", "interrupted"
    left = None
    if state == "running" and status.tokens_per_s:
        left = (config.budget_tokens - status.tokens) / status.tokens_per_s
    if state in ("pending", "preempted", "failed"):
        if queued:
            waits = "its task runs" if slurm_state == "RUNNING" else f"waits for {reason or slurm_state}"
            note = "; ".join(filter(None, (note, waits)))
        elif facts:
            how = f"its task {key_text(ended)} ended as {facts.ended[ended]}" if ended else "not queued"
            note = "; ".join(filter(None, (note, how)))
    done = config.budget_tokens - start if state in ENDED else max(0, status.tokens - start)
    return Standing(identity, state, done, config.budget_tokens - start, left, key_text(queued) if queued else "", note)


def _worked_on(run_dir: Path, facts: Facts | None, now: float) -> bool:
    """Whether the process that has claimed a run is at work, as far as can be seen from here."""
    owner = owner_of(run_dir)
    task = (owner.get("launch") or "").partition(" ")[0]
    if not owner or (task and facts and task not in map(key_text, facts.queued)):
        return False
    if owner["host"] == socket.gethostname():
        return process_alive(owner["pid"], owner["started"])
    return now - heard(run_dir) < HEARTBEAT_LIMIT_S


def key_text(key: queue.Key) -> str:
    """`123_4`, or `123` for a job without an array."""
    return f"{key[0]}" if key[1] is None else f"{key[0]}_{key[1]}"


def _tasks_of(study_dir: Path, keys: Mapping[queue.Key, object]) -> dict[str, queue.Key]:
    """Which of the tasks `keys` has a run; of several the last."""
    found: dict[str, queue.Key] = {}
    for submitted in submissions(study_dir):
        for key in _of(submitted, keys):
            found |= dict.fromkeys(submitted.runs(key), key)
    return found


def _of(submitted: Submitted, keys: Mapping[queue.Key, object]) -> list[queue.Key]:
    return [key for key in keys if key[0] in submitted.jobs]
