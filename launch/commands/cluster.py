"""Commands that run a study on a SLURM cluster."""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from configs.errors import ConfigError
from launch.commands.asked import pinned, study_dir_of

if TYPE_CHECKING:
    from configs.plan import Plan
    from configs.schema import RunConfig
    from configs.site import SiteConfig
    from launch.slurm.submission import Submission

WATCH_S = 5.0
ROOM = 100e6  # bytes; with less free, somebody should know


def submit_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.devices import device
    from configs.identity import run_id
    from configs.plan import Hardware
    from configs.site import load_site, nodes_of
    from launch.execute import write_study
    from launch.study import plan_study

    site = load_site(arguments.site)
    nodes_of(site, arguments.ranks)
    gpu = device(site.gpu) if site.gpu else None
    hardware = Hardware(world_size=arguments.ranks, device_memory=gpu.memory if gpu else None)
    planned = plan_study(arguments.study, arguments.overrides, hardware)
    with console.status("checking the data"):
        _, runs = pinned(planned, arguments, checksums=not arguments.dry_run)
    study_dir = (arguments.out or Path("runs") / planned.study.name).resolve()
    by_id = {run_id(run): (run, plan) for run, plan in zip(runs, planned.plans, strict=True)}
    ids = list(by_id) if arguments.dry_run else [path.name for path in write_study(planned, runs, study_dir)]
    in_order = [by_id[identity] for identity in ids]
    submission = _prepared(study_dir, in_order, site, arguments.ranks, arguments.data_dir.resolve())
    return _send(submission, arguments.dry_run, console)


def resubmit_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.plan import Hardware, plan
    from configs.rundir import manifest_ids, parked, read_config, read_status, run_dir_of, write_status
    from configs.site import load_site
    from launch.slurm.submission import submissions

    study_dir = study_dir_of(arguments).resolve()
    if not (before := submissions(study_dir)):
        raise ConfigError(f"{study_dir}: it was never submitted; use `bcrit submit`")
    _check_stopped(study_dir)
    last = before[-1]
    run_dirs = [run_dir_of(study_dir, identity) for identity in manifest_ids(study_dir)]
    for run_dir in run_dirs:
        if arguments.parked and not arguments.dry_run and parked(status := read_status(run_dir)):
            write_status(run_dir, status.model_copy(update={"failures": 0}))
    site = load_site(arguments.site or last.where / "site.yaml")
    hardware = Hardware(world_size=last.ranks)
    runs = [(config := read_config(run_dir), plan(config, hardware)) for run_dir in run_dirs]
    return _send(_prepared(study_dir, runs, site, last.ranks, last.data_dir), arguments.dry_run, console)


def cancel_command(arguments: argparse.Namespace, console: Console) -> int:
    from launch.slurm import queue
    from launch.slurm.standing import facts_of

    study_dir = study_dir_of(arguments)
    facts = facts_of(study_dir)
    if not facts or not facts.queued:
        console.print(f"nothing of {study_dir} is queued", soft_wrap=True)
        return 0
    jobs = sorted({job for job, _ in facts.queued})
    (study_dir / "STOP").touch()  # what runs checkpoints and ends; before the rest is cancelled, so that none starts
    queue.cancel(jobs, only_pending=not arguments.now)
    running = sum(state == "RUNNING" for state, _ in facts.queued.values())
    console.print(f"cancelled {len(facts.queued) - running} waiting jobs", highlight=False)
    if running:
        how = "were ended" if arguments.now else "checkpoint and end"
        console.print(f"{running} running ones {how}; go on with `bcrit resubmit`", highlight=False)
    return 0


def status_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.rundir import manifest_ids
    from launch.slurm.standing import UNDER_WAY, exit_code, facts_of, standings, task_errors
    from launch.slurm.standing_table import print_standings

    study_dir = study_dir_of(arguments)
    ids = manifest_ids(study_dir)
    while True:
        notes = []
        try:
            facts = facts_of(study_dir)
        except ConfigError as error:
            facts = None
            notes.append(f"from the files alone, since SLURM does not answer: {error}")
        if (free := shutil.disk_usage(study_dir).free) < ROOM:
            notes.append(f"only {free / 1e6:.3g} MB free where {study_dir} lies: make room")
        found = standings(study_dir, ids, facts)
        code = exit_code(found)
        if arguments.watch and console.is_terminal:
            console.clear()
        print_standings(console, found, [*notes, *task_errors(study_dir, found)], show_all=arguments.all)
        if not arguments.watch or code != UNDER_WAY:
            return code
        time.sleep(WATCH_S)


def _check_stopped(study_dir: Path) -> None:
    """A cancelled study must have stopped before it goes on, or its tasks would miss that they were to stop."""
    from launch.slurm.standing import facts_of

    facts = facts_of(study_dir) if (study_dir / "STOP").exists() else None
    if facts and any(state == "RUNNING" for state, _ in facts.queued.values()):
        raise ConfigError(f"{study_dir}: its tasks are about to stop; wait until `bcrit status` shows none running")


def _prepared(
    study_dir: Path, runs: "Sequence[tuple[RunConfig, Plan]]", site: "SiteConfig", ranks: int, data_dir: Path
) -> "Submission | None":
    """What is left of some runs and is not queued, as a submission; None if there is nothing."""
    from configs.identity import run_id
    from configs.rundir import read_status, run_dir_of
    from launch.slurm.estimate import flops_per_s_of, seconds_left
    from launch.slurm.standing import left_to_submit
    from launch.slurm.submission import prepare

    left = set(left_to_submit(study_dir, [run_id(run) for run, _ in runs]))
    if not left:
        return None
    rate = flops_per_s_of(site, runs[0][0].precision)
    seconds = {
        identity: seconds_left(run, plan, read_status(run_dir_of(study_dir, identity)), rate)
        for run, plan in runs
        if (identity := run_id(run)) in left
    }
    parents = {run_id(run): run.branch.parent for run, _ in runs if run.branch}
    return prepare(study_dir, seconds, parents, site, ranks, data_dir)


def _send(submission: "Submission | None", dry_run: bool, console: Console) -> int:
    """Submit, or print what would be."""
    from launch.slurm import queue
    from launch.slurm.submission import send

    if submission is None:
        console.print("Nothing to submit: every run has ended, is queued, or is parked (`bcrit status` says which).")
        return 0
    if dry_run:
        for script in (*(array.script for array in submission.arrays), submission.report):
            print(script)
        tasks = len(submission.manifest.splitlines())
        console.print(f"# {tasks} tasks; nothing was written or submitted", highlight=False)
        if queue.available():
            console.print(f"# SLURM says: {queue.test(submission.arrays[0].script)}", highlight=False)
        return 0
    (submission.job.study_dir / "STOP").unlink(missing_ok=True)
    sent = send(submission)
    for job, tasks in sent.jobs.items():
        console.print(f"submitted array {job} of {len(tasks)} tasks", highlight=False)
    console.print(f"submitted job {sent.report}, which writes the report when they have ended", highlight=False)
    console.print(f"scripts and manifest: {sent.where}\nlogs: {sent.where.parent / 'logs'}", soft_wrap=True)
    console.print(f"now `bcrit status {submission.job.study_dir}`", soft_wrap=True)
    return 0
