"""What a run alone in its terminal says of itself; the runs of a study are watched by `bcrit run`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.plan import Plan
from configs.rundir import Status

QUIET_S = 10.0  # between lines


def teller(plan: Plan, run_dir: Path) -> tuple[Callable[[dict[str, Any]], None], Callable[[Status], None]]:
    """What to call on each metrics row and at the end; now and then a line is printed."""
    steps = f"{plan.steps:,} steps of {plan.step_seqs:,} sequences"
    print(f"{run_dir}: {plan.n_params:,} parameters, {plan.tokens:,} tokens, {steps}", flush=True)
    told = time.monotonic() - QUIET_S

    def on_row(row: dict[str, Any]) -> None:
        nonlocal told
        if row["kind"] == "train" and row["loss"] is not None and time.monotonic() - told >= QUIET_S:
            told = time.monotonic()
            left = (plan.tokens - row["tokens"]) / row["tokens_per_s"] / 60
            pace = f"{row['tokens_per_s']:,.0f} tokens/s, {left:,.1f} min left"
            print(f"{row['tokens']:,} tokens, training loss {row['loss']:.4f}, {pace}", flush=True)

    def at_end(status: Status) -> None:
        loss = f", validation loss {status.readouts[-1].loss:.4f}" if status.state == "finished" else ""
        why = f": {status.message}" if status.message else ""
        again = "; the same command goes on" if status.state == "preempted" else ""
        print(f"{run_dir}: {status.state} at {status.tokens:,} tokens{loss}{why}{again}", flush=True)

    return on_row, at_end
