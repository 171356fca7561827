"""`bcrit sync`: run directories -> Weights & Biases, so that in the end the server has each row once.

A line is there if the server counts it and the note in the run's directory says that it was sent as it is now. So a
second sync sends nothing; after a crash, lost requests or a resume that rewound, lines are sent again to their places,
and so are, once, those of a live mirror. Nothing is ever deleted.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from configs.errors import ConfigError
from configs.identity import run_id
from configs.mirrored import (
    Row,
    Sent,
    described,
    digest,
    history,
    outcome,
    place_of,
    read_sent,
    write_sent,
)
from configs.rundir import ENDED, Status, manifest_ids, read_config, read_metrics, read_status, run_dir_of
from launch.wandb_server import Server, ServerError, There, UnreachableError

CHUNK = 1000  # lines a request
PAGE = 100  # runs a question
THREADS = 4
TRIES = 3  # to get the same lines onto the server
ENDINGS = {  # how a run ends there: its state, and what is sent for that
    "finished": ("finished", {"complete": True, "exitcode": 0}),
    "diverged": ("finished", {"complete": True, "exitcode": 0}),
    "failed": ("failed", {"complete": True, "exitcode": 1}),
    "preempted": ("preempted", {"preempting": True, "complete": True, "exitcode": 1}),
}


@dataclass(frozen=True)
class Job:
    """One run and where it goes."""

    run_dir: Path
    id: str
    study: str
    entity: str
    project: str


@dataclass(frozen=True)
class Replayed:
    """What was done for a run."""

    job: Job
    lines: int = 0  # sent
    failure: str = ""  # why not all of it is there; empty if it is


def sync(server: Server, jobs: Sequence[Job], progress: Callable[[Replayed], None]) -> list[Replayed]:
    """Send what the server lacks of each run, several runs at a time; `progress` is told of each.

    A run that fails does not stop the others. Raises ServerError if the server cannot be reached or does not even say
    what it has.
    """
    there: dict[Job, There] = {}
    for project in {(job.entity, job.project) for job in jobs}:
        mine = [job for job in jobs if (job.entity, job.project) == project]
        for first in range(0, len(mine), PAGE):
            page = mine[first : first + PAGE]
            found = server.look(*project, [job.id for job in page])
            there |= {job: found[job.id] for job in page}
    done = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for future in as_completed([pool.submit(_replayed, server, job, there[job]) for job in jobs]):
            done.append(future.result())
            progress(done[-1])
    finally:
        pool.shutdown(cancel_futures=True)
    return done


def _replayed(server: Server, job: Job, there: There) -> Replayed:
    try:
        return Replayed(job, replay(server, job, there))
    except UnreachableError:
        raise
    except (ServerError, ConfigError, OSError) as error:
        return Replayed(job, failure=str(error))


def replay(server: Server, job: Job, there: There) -> int:
    """Send what `there` lacks of a run and look again, until nothing is missing; returns the lines sent.

    Raises ServerError if the server cannot be reached, or does not keep what it is sent.
    """
    status, where = read_status(job.run_dir), (job.entity, job.project)
    lines = history(read_metrics(job.run_dir))
    if status.state in ENDED:  # lines of an undone attempt beyond the run's end are emptied: they cannot be removed
        lines += [{"_step": number} for number in range(len(lines), there.lines)]
    digests = tuple(map(digest, lines))
    final, ending = ENDINGS.get(status.state, ("", {}))
    place = place_of(server.url, *where)
    sent_lines, tries, concluded = 0, 0, False
    while tries < TRIES:
        sent = read_sent(job.run_dir, place)
        first = min(there.lines, sent.unchanged(digests))
        ended = not final or there.state == final or (concluded and there.state != "running")
        if first == len(lines) and there.state and ended:
            return sent_lines
        if not sent_lines:
            server.describe(*where, described(read_config(job.run_dir), job.study))
        beyond = min(first + CHUNK, len(lines))
        if beyond > first:
            server.send(*where, job.id, first, lines[first:beyond])
            write_sent(job.run_dir, Sent(place, digests[:beyond] + sent.digests[beyond:]))
            sent_lines += beyond - first
        if beyond == len(lines):
            server.conclude(*where, job.id, summary(lines, status), ending)
            concluded = True
        there = server.look(*where, [job.id])[job.id]
        tries = 0 if min(there.lines, beyond) > first else tries + 1
    raise ServerError(f"the server has {there.lines} of {len(lines)} rows and calls it {there.state}; sync again")


def summary(lines: Sequence[Row], status: Status) -> Row:
    """The last value of every key, and how the run came out."""
    last: Row = {}
    for line in lines:
        last |= line
    return last | outcome(status)


def jobs_of(directory: Path, server: Server, entity: str | None, project: str | None) -> list[Job]:
    """The runs of a study's directory, or the one of a run's, that have begun, and where they go.

    `entity` and `project` replace those of their configurations; without any, the entity is the user's own.
    Raises ConfigError, and ServerError if the user has to be asked for and cannot.
    """
    single = (directory / "config.json").exists()
    run_dirs = [directory] if single else [run_dir_of(directory, identity) for identity in manifest_ids(directory)]
    study = study_of(directory) if single else directory.resolve().name
    own = cache(server.default_entity)
    jobs = []
    for run_dir in run_dirs:
        if (run_dir / "config.json").exists() and read_status(run_dir).attempt:
            config = read_config(run_dir)
            whose = entity or config.log.wandb_entity or own()
            jobs.append(Job(run_dir, run_id(config), study, whose, project or config.log.wandb_project))
    return jobs


def study_of(run_dir: Path) -> str:
    """Name of the study that a run's directory lies in; `single` if in none."""
    parent = run_dir.resolve().parent
    return parent.parent.name if parent.name == "runs" else "single"
