"""The last lines of `bcrit run`: what was done, how fast, with how much memory, and what is left."""

from pathlib import Path

from rich.console import Console

from configs.rundir import read_status
from launch.execute import Outcome
from launch.progress import clock


def print_summary(console: Console, outcome: Outcome, study_dir: Path, wall_seconds: float) -> None:
    """Print the outcome of an execution."""
    states = outcome.after.states
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count)
    if outcome.nothing_to_do:
        console.print(f"Nothing to do: all {states.total()} runs of {study_dir} have ended ({counts}).")
        return
    statuses = [read_status(run_dir) for run_dir in outcome.run_dirs]
    tokens = outcome.after.tokens_done - outcome.before.tokens_done
    console.print(f"{states.total()} runs: {counts}.")
    rate = f"{tokens / wall_seconds:,.0f} tokens/s over all workers"
    console.print(f"{tokens:,} tokens in {clock(wall_seconds)}: {rate}.")
    console.print(
        f"Start-up of a worker: {max((s.startup_seconds for s in statuses), default=0):.1f} s at most; "
        f"peak memory of a process: {max((s.peak_memory_bytes for s in statuses), default=0) / 2**20:,.0f} MiB."
    )
    for run_dir, status in zip(outcome.run_dirs, statuses, strict=True):
        if status.message and status.state in ("failed", "preempted"):
            console.print(f"{status.state}: {run_dir}: {status.message}", style="red", markup=False)
    for log in outcome.broken_logs:
        console.print(f"a worker ended with an error: see the end of {log}", style="red", markup=False)
