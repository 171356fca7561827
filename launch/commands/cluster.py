"""Commands that run a study on a SLURM cluster."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from launch.commands.asked import pinned

if TYPE_CHECKING:
    from launch.slurm.submission import Submission


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
    if arguments.dry_run:
        ids = [run_id(run) for run in runs]
    else:
        ids = [run_dir.name for run_dir in write_study(planned, runs, study_dir)]
    by_id = {run_id(run): (run, plan) for run, plan in zip(runs, planned.plans, strict=True)}
    submission = _prepared(study_dir, [by_id[identity] for identity in ids], site, arguments)
    return _send(submission, arguments.dry_run, console)


def _prepared(study_dir: Path, runs: list, site, arguments: argparse.Namespace) -> "Submission | None":  # noqa: ANN001
    """What is left of some runs and is not queued, as a submission; None if there is nothing."""
    from configs.identity import run_id
    from configs.rundir import read_status, run_dir_of
    from launch.slurm.estimate import flops_per_s_of, seconds_left
    from launch.slurm.standing import left_to_submit
    from launch.slurm.submission import prepare

    left = set(left_to_submit(study_dir, [run_id(run) for run, _ in runs]))
    runs = [(run, plan) for run, plan in runs if run_id(run) in left]
    if not runs:
        return None
    rate = flops_per_s_of(site, runs[0][0].precision)
    seconds = {
        (identity := run_id(run)): seconds_left(run, plan, read_status(run_dir_of(study_dir, identity)), rate)
        for run, plan in runs
    }
    parents = {run_id(run): run.branch.parent for run, _ in runs if run.branch}
    return prepare(study_dir, seconds, parents, site, arguments.ranks, arguments.data_dir.resolve())


def _send(submission: "Submission | None", dry_run: bool, console: Console) -> int:
    """Submit, or print what would be."""
    from launch.slurm import queue
    from launch.slurm.submission import send

    if submission is None:
        console.print("Nothing to submit: every run has ended, is queued, or is parked (`bcrit status` says which).")
        return 0
    lines = submission.manifest.splitlines()
    if dry_run:
        for array in submission.arrays:
            print(array.script)
        print(submission.report)
        console.print(f"# {len(lines)} tasks; nothing was written or submitted", highlight=False)
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
