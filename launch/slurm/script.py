"""The sbatch scripts: text that an administrator can read, and a user can submit again by hand."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from configs.site import SiteConfig, nodes_of


@dataclass(frozen=True)
class Job:
    """What the scripts of one submission have in common; all paths are absolute."""

    study: str
    study_dir: Path
    data_dir: Path
    manifest: Path
    manifest_sha256: str
    code: Path  # snapshot that the job runs from
    python: str
    ranks: int  # of a run


def array_script(job: Job, site: SiteConfig, tasks: range, at_a_time: int | None) -> str:
    """The script of an array whose indices 0, 1, ... are the lines `tasks` of the manifest. Raises ConfigError."""
    nodes, per_node = nodes_of(site, job.ranks)
    limit = f"%{at_a_time}" if at_a_time else ""
    options = [
        f"--job-name={job.study}",
        *_where(site, site.partition),
        f"--array=0-{len(tasks) - 1}{limit}",
        f"--nodes={nodes}",
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={site.cpus_per_task}",
        *([f"--gres={site.gres}:{per_node}"] if site.gpus_per_node else []),
        *([f"--mem-per-cpu={site.mem_per_cpu}"] if site.mem_per_cpu else []),
        f"--time={clock(site.time_limit)}",
        f"--signal=B:USR1@{site.signal_seconds}",
        "--requeue",
        "--open-mode=append",
        f"--output={logs_of(job.study_dir)}/%A_%a.log",
        *site.extra,
    ]
    arguments = {
        "--study": job.study_dir,
        "--manifest": job.manifest,
        "--sha256": job.manifest_sha256,
        "--first": tasks.start,
        "--data-dir": job.data_dir,
        "--ranks": job.ranks,
        "--launcher": site.launcher,
        "--signal-seconds": site.signal_seconds,
    }
    command = " ".join(f"{name} {shlex.quote(str(value))}" for name, value in arguments.items())
    device = [] if site.gpus_per_node else ["export DS_ACCELERATOR=cpu"]
    lines = [
        f"# Study {job.study}, lines {tasks.start} to {tasks.stop - 1} of its manifest; written by `bcrit submit`.",
        *_options(options),
        "trap '' USR1  # asks a task to checkpoint and requeue itself; it listens as soon as it has started",
        "set -eo pipefail",
        *site.setup,
        'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK" SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        "unset RANK LOCAL_RANK WORLD_SIZE  # of another launch, where this was submitted from inside one",
        *device,
        "# Compiled kernels: a directory of its own for each job, on the node, since shared ones get corrupted.",
        f'export BCRIT_CACHE="{site.cache_dir}/bcrit-$SLURM_JOB_ID"',
        'export TRITON_CACHE_DIR="$BCRIT_CACHE/triton" TORCHINDUCTOR_CACHE_DIR="$BCRIT_CACHE/inductor"',
        'export TORCH_EXTENSIONS_DIR="$BCRIT_CACHE/extensions"',
        *_code(job),
        f"exec {shlex.quote(job.python)} -m launch.slurm.task {command}",
    ]
    return _text(lines)


def report_script(job: Job, site: SiteConfig) -> str:
    """The script of the job that makes the run table and the report from whatever the runs have left."""
    options = [
        f"--job-name={job.study}-report",
        *_where(site, site.report.partition or site.partition),
        "--ntasks=1",
        f"--cpus-per-task={site.report.cpus}",
        *([f"--mem={site.report.mem}"] if site.report.mem else []),
        f"--time={clock(site.report.time_limit)}",
        "--requeue",
        "--open-mode=append",
        f"--output={logs_of(job.study_dir)}/report-%j.log",
    ]
    bcrit = f"{shlex.quote(job.python)} -m launch.cli"
    study = shlex.quote(str(job.study_dir))
    lines = [
        f"# The report of study {job.study}, after its runs; written by `bcrit submit`.",
        *_options(options),
        "set -eo pipefail",
        *site.setup,
        *_code(job),
        f"{bcrit} table {study}",
        f"{bcrit} analyse {study}",
        f"{bcrit} report {study}",
    ]
    return _text(lines)


def logs_of(study_dir: Path) -> Path:
    """Where jobs write what they say."""
    return study_dir / "slurm" / "logs"


def clock(seconds: int) -> str:
    """A time limit as SLURM wants it."""
    days, rest = divmod(seconds, 86400)
    return (f"{days}-" if days else "") + f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"


def _where(site: SiteConfig, partition: str | None) -> list[str]:
    asked = {"partition": partition, "account": site.account, "qos": site.qos, "constraint": site.constraint}
    return [f"--{name}={value}" for name, value in asked.items() if value]


def _options(options: list[str]) -> list[str]:
    return [f"#SBATCH {option}" for option in options]


def _code(job: Job) -> list[str]:
    code = shlex.quote(str(job.code))
    return ["# The code as it was when this was submitted.", f"cd {code}", f"export PYTHONPATH={code}"]


def _text(lines: list[str]) -> str:
    return "\n".join(["#!/bin/bash", *lines]) + "\n"
