"""Commands that plan and train a study."""

import argparse
import time
from pathlib import Path

from rich.console import Console

from launch.commands.asked import collected, hardware_of, layout_of, pinned


def plan_command(arguments: argparse.Namespace, console: Console) -> int:
    from launch.plan_table import print_plan

    planned, runs, _ = _planned(arguments)
    workers = layout_of(arguments).workers
    print_plan(console, planned, runs, workers=workers, show_all=arguments.all, show_memory=arguments.gpu is not None)
    return 0


def run_command(arguments: argparse.Namespace, console: Console) -> int:
    from launch.execute import run_study
    from launch.summary import print_summary

    with console.status("checking the data"):
        planned, runs, study_dir = _planned(arguments, checksums=True)
    began = time.monotonic()
    outcome = run_study(planned, runs, study_dir, arguments.data_dir, layout_of(arguments), console)
    if not outcome.nothing_to_do or not (study_dir / "table.parquet").exists():
        collected(study_dir)
    print_summary(console, outcome, study_dir, time.monotonic() - began)
    return 0 if all(state in ("finished", "diverged") for state in outcome.after.states.elements()) else 1


def _planned(arguments: argparse.Namespace, checksums: bool = False):  # noqa: ANN202
    """The study, its runs with their data pinned, and its directory; everything is checked before anything starts.

    With `checksums` every byte of the data is, too: about a second for 2 GB, once for all workers.
    """
    from launch.study import plan_study

    planned = plan_study(arguments.study, arguments.overrides, hardware_of(arguments))
    return *pinned(planned, arguments, checksums), arguments.out or Path("runs") / planned.study.name
