"""What `bcrit plan` prints: the runs of a study, what they cost, and what the grid cannot tell."""

import time
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.expressions import number_text
from configs.identity import run_id
from configs.plan import Plan
from configs.schema import RunConfig
from launch.advice import advise, counted, tokens_without_reuse
from launch.study import PlannedStudy, count

# Small models reach about a quarter of a core's matrix-multiplication rate; a step of DeepSpeed ZeRO-1 with two blocks
# costs this much beside its arithmetic on a CPU core. Both only serve an estimate that calls itself rough.
EFFICIENCY = 0.25
STEP_OVERHEAD_S = 0.012
SHOWN_RUNS = 20


def print_plan(
    console: Console, planned: PlannedStudy, runs: Sequence[RunConfig], *, workers: int, show_all: bool = False
) -> None:
    """Print the table of runs, the totals, a rough time for `workers` single-threaded workers, and the warnings.

    `runs` are the planned ones with their data pinned, which names them.
    """
    flops_per_s = EFFICIENCY * measured_flops_per_s()
    seconds = estimate_seconds(planned.plans, flops_per_s, STEP_OVERHEAD_S, workers)
    below = Table.grid(padding=(0, 2))
    below.add_row("grid", grid_text(runs))
    below.add_row("total", cost_text(runs, planned.plans))
    below.add_row(
        "time",
        f"about {duration(seconds)} on {counted(workers, 'core')} like this one: rough, from {flops_per_s / 1e9:.3g} "
        f"GFLOP/s per core and {1000 * STEP_OVERHEAD_S:g} ms per step, without validation",
    )
    for warning in advise(runs):
        below.add_row("warning", Text(warning), style="yellow")
    console.print(runs_table(planned.study.name, runs, planned.plans, show_all=show_all))
    console.print(below)


def runs_table(name: str, runs: Sequence[RunConfig], plans: Sequence[Plan], *, show_all: bool = False) -> Table:
    """A row per run of the study `name`; a long table keeps its first and last rows."""
    table = Table(box=box.SIMPLE_HEAD, title=f"study {name}", title_justify="left")
    for heading in ("id", "N", "T read out at", "B", "lr", "seed", "steps", "micro x accum x world", "tokens", "FLOPs"):
        table.add_column(heading, justify="left" if heading in ("id", "T read out at") else "right", no_wrap=True)
    rows = list(zip(runs, plans, strict=True))
    hidden = 0 if show_all else max(0, len(rows) - SHOWN_RUNS)
    half = len(rows) if not hidden else SHOWN_RUNS // 2
    for run, plan in rows[:half]:
        table.add_row(*_cells(run, plan))
    if hidden:
        table.add_row("...", "", f"{hidden} more runs (--all)")
    for run, plan in rows[half + hidden :]:
        table.add_row(*_cells(run, plan))
    return table


def grid_text(runs: Sequence[RunConfig]) -> str:
    """The size of the grid in words."""
    grid = count(runs)
    axes = {"width": grid.widths, "budget": grid.budgets, "batch size": grid.batches, "learning rate": grid.lrs}
    product = " x ".join(counted(n, noun) for noun, n in (axes | {"seed": grid.seeds}).items())
    return f"{product}: {counted(grid.cells, 'cell')} (N, T, B) from {counted(grid.runs, 'run')}"


def cost_text(runs: Sequence[RunConfig], plans: Sequence[Plan]) -> str:
    """Tokens and FLOPs of the runs, and what it would take without reading several budgets out of one run."""
    tokens, separate = sum(plan.tokens for plan in plans), tokens_without_reuse(runs)
    saving = f" ({separate:.4g} if every budget were a run of its own)" if separate > tokens else ""
    return f"{tokens:.4g} tokens{saving}, {sum(plan.flops for plan in plans):.3g} FLOPs"


def estimate_seconds(plans: Sequence[Plan], flops_per_s: float, overhead_s_per_step: float, workers: int) -> float:
    """Training time of a queue of runs on `workers` workers: an even share of it, at least the longest run.

    `flops_per_s` is one process's; a run has `world_size` of them.
    """
    each = [plan.flops / (flops_per_s * plan.world_size) + plan.steps * overhead_s_per_step for plan in plans]
    return max(max(each), sum(each) / workers)


def measured_flops_per_s(seconds: float = 0.2) -> float:
    """float32 matrix-multiplication rate of one core of this machine.

    Measured against CPU time, which counts all threads of the BLAS, so that several cores do not flatter it.
    """
    size = 512
    a = np.ones((size, size), dtype=np.float32)
    a.dot(a)  # the first call starts the threads
    repeats, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        a.dot(a)
        repeats += 1
    return 2 * size**3 * repeats / (time.process_time() - cpu)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h` or `2.1 days`."""
    for unit, length, limit in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < limit * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _cells(run: RunConfig, plan: Plan) -> tuple[str, ...]:
    return (
        run_id(run),
        str(run.model.width),
        " ".join(number_text(tokens) for tokens in plan.readout_tokens),
        number_text(run.batch_tokens),
        number_text(run.lr),
        str(run.seed),
        str(plan.steps),
        f"{plan.micro_batch_seqs} x {plan.accumulation} x {plan.world_size}",
        number_text(plan.tokens),
        f"{plan.flops:.2e}",
    )
