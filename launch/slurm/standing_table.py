"""What `bcrit status` prints."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.progress import clock
from launch.slurm.standing import Standing

SHOWN_RUNS = 20
ORDER = ("running", "failed", "parked", "preempted", "pending", "diverged", "finished")


def print_standings(console: Console, found: Sequence[Standing], notes: Sequence[str], *, show_all: bool) -> None:
    """A row a run that has not ended (all with `show_all`), the totals, and notes."""
    rows = [run for run in found if show_all or run.state not in ("finished", "diverged")]
    rows.sort(key=lambda run: ORDER.index(run.state))
    if rows:
        table = Table(box=box.SIMPLE_HEAD)
        for heading in ("run", "state"):
            table.add_column(heading, no_wrap=True)
        for heading in ("done", "left"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("task", no_wrap=True)
        table.add_column("")
        for run in rows if show_all else rows[:SHOWN_RUNS]:
            left = "" if run.seconds_left is None else clock(run.seconds_left)
            table.add_row(run.run, run.state, f"{run.done / run.total:.0%}", left, run.task, escape(run.note))
        console.print(table)
        if len(rows) > SHOWN_RUNS and not show_all:
            console.print(f"... and {len(rows) - SHOWN_RUNS} more (--all)")
    counts = Counter(run.state for run in found)
    said = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    tokens = sum(run.done for run in found) / sum(run.total for run in found)
    console.print(f"{len(found)} runs: {said}; {tokens:.1%} of the tokens", highlight=False)
    for note in notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
