"""A submission: runs packed into the tasks of arrays, its immutable manifest and scripts, and the jobs they became.

<study>/slurm/code-<hash>/      the code that its jobs run
             /001/manifest.jsonl   one line a task: its runs, by id
                 /array-0.sbatch, report.sbatch, site.yaml
                 /submission.json  the jobs
             /logs/, /tasks/    what tasks say, and where they stand
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.rundir import read_json, write_atomic, write_json
from configs.site import SiteConfig
from launch.slurm import queue
from launch.slurm.packing import arrays_of, pack, tasks_wanted
from launch.slurm.script import Job, array_script, logs_of, report_script
from launch.slurm.snapshot import code_hash, take_snapshot

MANIFEST = "manifest.jsonl"
RECORD = "submission.json"


@dataclass(frozen=True)
class Array:
    """One job array: lines of the manifest."""

    tasks: range
    after_trunks: bool  # it starts when the arrays of trunks have ended
    script: str


@dataclass(frozen=True)
class Submission:
    """What is to be submitted, as text; nothing has been written."""

    job: Job
    where: Path
    site: SiteConfig
    manifest: str
    arrays: tuple[Array, ...]
    report: str


@dataclass(frozen=True)
class Submitted:
    """A submission as it was recorded."""

    where: Path
    ranks: int
    data_dir: Path
    jobs: Mapping[int, range]  # array job -> lines of the manifest
    report: int | None
    tasks: tuple[tuple[str, ...], ...]  # ids of the runs of each line

    def runs(self, key: queue.Key) -> tuple[str, ...]:
        """The runs of one task of an array."""
        job, index = key
        return self.tasks[self.jobs[job][index]] if index is not None and job in self.jobs else ()


def prepare(
    study_dir: Path, seconds: Mapping[str, float], parents: Mapping[str, str], site: SiteConfig, ranks: int, data: Path
) -> Submission:
    """Pack runs (id -> estimated seconds) into tasks and render what is to be submitted.

    `parents` names the trunks of branches: those that are submitted, too, are arrays of their own, which come first.
    Raises ConfigError.
    """
    if any(character.isspace() for character in str(study_dir)):
        raise ConfigError(f"{study_dir}: #SBATCH options cannot name a path with spaces; choose another --out")
    trunks = [identity for identity in seconds if identity in set(parents.values())]
    stages = [trunks, [identity for identity in seconds if identity not in set(trunks)]]
    limit = site.time_limit - site.signal_seconds - site.startup_seconds
    lines: list[dict[str, Any]] = []
    pieces: list[tuple[range, int | None, bool]] = []
    largest = site.max_array_size or queue.max_array_size()
    for late, stage in enumerate(stages):
        cost = [seconds[identity] for identity in stage]
        tasks = pack(cost, tasks_wanted(sum(cost), site.startup_seconds, site.concurrency), limit)
        first = len(lines)
        for task in tasks:
            runs = {"runs": [stage[i] for i in task], "seconds": round(sum(cost[i] for i in task), 1)}
            lines.append({"study": study_dir.name, "task": len(lines)} | runs)
        for piece, at_a_time in arrays_of(len(tasks), largest, site.concurrency):
            pieces.append((range(first + piece.start, first + piece.stop), at_a_time, bool(late and trunks)))
    manifest = "".join(json.dumps(line) + "\n" for line in lines)
    where = study_dir / "slurm" / f"{_last_number(study_dir) + 1:03d}"
    job = Job(
        study=study_dir.name,
        study_dir=study_dir,
        data_dir=data,
        manifest=where / MANIFEST,
        manifest_sha256=sha256(manifest),
        code=study_dir / "slurm" / f"code-{code_hash()}",
        python=site.python or sys.executable,
        ranks=ranks,
    )
    arrays = tuple(Array(tasks, late, array_script(job, site, tasks, share)) for tasks, share, late in pieces)
    return Submission(job, where, site, manifest, arrays, report_script(job, site))


def send(submission: Submission) -> Submitted:
    """Write a submission and submit it, all of it or nothing. Raises ConfigError."""
    job, where = submission.job, submission.where
    sent: dict[int, range] = {}
    early: list[int] = []
    record: dict[str, Any] = {"ranks": job.ranks, "data_dir": str(job.data_dir), "code": job.code.name, "jobs": {}}
    try:
        logs_of(job.study_dir).mkdir(parents=True, exist_ok=True)
        (job.study_dir / "slurm" / "tasks").mkdir(exist_ok=True)
        take_snapshot(job.code.parent)
        where.mkdir()
        write_atomic(job.manifest, submission.manifest)
        os.chmod(job.manifest, 0o444)
        write_atomic(where / "site.yaml", yaml.safe_dump(submission.site.model_dump(mode="json"), sort_keys=False))
        for number, array in enumerate(submission.arrays):
            write_atomic(script := where / f"array-{number}.sbatch", array.script)
            identity = queue.submit(script, early if array.after_trunks else ())
            sent[identity] = array.tasks
            early += [] if array.after_trunks else [identity]
            record["jobs"][str(identity)] = [array.tasks.start, array.tasks.stop]
            write_json(where / RECORD, record)
        write_atomic(script := where / "report.sbatch", submission.report)
        record["report"] = queue.submit(script, list(sent))
        write_json(where / RECORD, record)
    except (ConfigError, OSError) as error:
        queue.cancel(sent)
        shutil.rmtree(where, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename or where}: {error.strerror}; nothing was submitted") from error
        raise ConfigError(f"{error}; nothing was submitted") from error
    return read_submission(where)


def submissions(study_dir: Path) -> list[Submitted]:
    """All that was submitted of a study, the first first."""
    return [read_submission(path.parent) for path in sorted((study_dir / "slurm").glob(f"*/{RECORD}"))]


def read_submission(where: Path) -> Submitted:
    """A submission from its files."""
    record = read_json(where / RECORD)
    return Submitted(
        where=where,
        ranks=record["ranks"],
        data_dir=Path(record["data_dir"]),
        jobs={int(job): range(*tasks) for job, tasks in record["jobs"].items()},
        report=record.get("report"),
        tasks=tuple(tuple(json.loads(line)["runs"]) for line in (where / MANIFEST).read_text().splitlines()),
    )


def sha256(text: str) -> str:
    """16 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _last_number(study_dir: Path) -> int:
    return max((int(path.name) for path in (study_dir / "slurm").glob("[0-9][0-9][0-9]*")), default=0)
