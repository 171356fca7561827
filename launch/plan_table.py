"""What `bcrit plan` prints: the runs of a study, what they cost, and what the grid cannot tell."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.expressions import number_text
from configs.identity import run_id
from configs.memory import memory_text
from configs.plan import Plan
from configs.schema import RunConfig
from launch.advice import advise, counted, tokens_without_reuse
from launch.study import PlannedStudy, count
from launch.trunks import longest_chains

# Small models reach about a quarter of a core's matrix-multiplication rate; a step of DeepSpeed ZeRO-1 with two blocks
# costs this much beside its arithmetic on a CPU core. Both only serve an estimate that calls itself rough.
EFFICIENCY = 0.25
STEP_OVERHEAD_S = 0.012
SHOWN_RUNS = 20


@dataclass(frozen=True)
class Cost:
    """What training takes."""

    tokens: int
    flops: int


def print_plan(
    console: Console,
    planned: PlannedStudy,
    runs: Sequence[RunConfig],
    *,
    workers: int,
    show_all: bool = False,
    show_memory: bool = False,
) -> None:
    """Print the table of runs, the totals, a rough time for `workers` single-threaded workers, and the warnings.

    With `show_memory`, also the arithmetic of the memory that the largest run needs on each GPU.

    `runs` are the planned ones with their data pinned, which names them.
    """
    flops_per_s = EFFICIENCY * measured_flops_per_s()
    seconds = estimate_seconds(planned, flops_per_s, STEP_OVERHEAD_S, workers)
    grid = runs[planned.n_trunks :]
    below = Table.grid(padding=(0, 2))
    below.add_row("grid", grid_text(grid))
    if planned.n_trunks:
        below.add_row("trunks", trunks_text(planned))
    below.add_row("total", cost_text(planned))
    below.add_row(
        "time",
        f"about {duration(seconds)} on {counted(workers, 'core')} like this one: rough, from {flops_per_s / 1e9:.3g} "
        f"GFLOP/s per core and {1000 * STEP_OVERHEAD_S:g} ms per step, without validation",
    )
    if show_memory:
        below.add_row("memory", memory_text(max((p.memory for p in planned.plans), key=lambda memory: memory.total)))
    for warning in advise(grid):
        below.add_row("warning", Text(warning), style="yellow")
    console.print(runs_table(planned, runs, show_all=show_all))
    console.print(below)


def runs_table(planned: PlannedStudy, runs: Sequence[RunConfig], *, show_all: bool = False) -> Table:
    """A row per run of the study, trunks first; a long table keeps its first and last rows."""
    table = Table(box=box.SIMPLE_HEAD, title=f"study {planned.study.name}", title_justify="left")
    left = ("id", "branches off", "T read out at")
    headings = ("N", "T read out at", "B", "lr", "seed", "steps", "micro x accum\nx world", "tokens", "FLOPs")
    for heading in ("id", *(["branches off"] if planned.n_trunks else []), *headings):
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    rows = [
        (run_id(run), *([_origin(run)] if planned.n_trunks else []), *_cells(run, plan))
        for run, plan in zip(runs, planned.plans, strict=True)
    ]
    hidden = 0 if show_all else max(0, len(rows) - SHOWN_RUNS)
    half = len(rows) if not hidden else SHOWN_RUNS // 2
    for row in rows[:half]:
        table.add_row(*row)
    if hidden:
        table.add_row("...", *[""] * headings.index("B"), f"{hidden} more runs (--all)")
    for row in rows[half + hidden :]:
        table.add_row(*row)
    return table


def grid_text(runs: Sequence[RunConfig]) -> str:
    """The size of the grid in words."""
    grid = count(runs)
    axes = {"width": grid.widths, "budget": grid.budgets, "batch size": grid.batches, "learning rate": grid.lrs}
    product = " x ".join(counted(n, noun) for noun, n in (axes | {"seed": grid.seeds}).items())
    return f"{product}: {counted(grid.cells, 'cell')} (N, T, B) from {counted(grid.runs, 'run')}"


def cost(plans: Iterable[Plan]) -> Cost:
    """What the runs train themselves: a branch what lies beyond its trunk."""
    plans = list(plans)
    return Cost(sum(plan.tokens - plan.start_tokens for plan in plans), sum(plan.flops for plan in plans))


def cost_from_scratch(plans: Iterable[Plan]) -> Cost:
    """What the runs would train without trunks."""
    plans = list(plans)
    flops = sum(plan.flops * plan.tokens // (plan.tokens - plan.start_tokens) for plan in plans)
    return Cost(sum(plan.tokens for plan in plans), flops)


def cost_text(planned: PlannedStudy) -> str:
    """Tokens and FLOPs of a study, and what it would take without reading several budgets out of one run."""
    grid = slice(planned.n_trunks, None)
    whole, separate = cost(planned.plans), tokens_without_reuse(planned.runs[grid])
    reused = separate > cost_from_scratch(planned.plans[grid]).tokens
    saving = f" ({separate:.4g} if every budget were a run of its own)" if reused else ""
    return f"{whole.tokens:.4g} tokens{saving}, {whole.flops:.3g} FLOPs"


def trunks_text(planned: PlannedStudy) -> str:
    """How many branches share how many trunks, and the saving against every run from scratch."""
    branches = planned.plans[planned.n_trunks :]
    shared = f"{counted(planned.n_trunks, 'trunk')} for {counted(len(branches), 'branch', 'branches')}"
    scratch, whole = cost_from_scratch(branches), cost(planned.plans)
    if whole == scratch:
        return f"{shared}: nothing is saved, no two runs have a trunk in common"
    tokens, flops = scratch.tokens - whole.tokens, scratch.flops - whole.flops
    return (
        f"{shared}: {tokens:.4g} of {scratch.tokens:.4g} tokens ({tokens / scratch.tokens:.1%}) and {flops:.3g} of "
        f"{scratch.flops:.3g} FLOPs saved against every run from scratch"
    )


def estimate_seconds(planned: PlannedStudy, flops_per_s: float, overhead_s_per_step: float, workers: int) -> float:
    """Training time of a study on `workers` workers: an even share of it, at least the longest run (with its trunk).

    `flops_per_s` is one process's; a run has `world_size` of them.
    """
    plans = planned.plans
    each = [plan.flops / (flops_per_s * plan.world_size) + plan.steps * overhead_s_per_step for plan in plans]
    return max(max(longest_chains(each, plans, planned.trunk_of)), sum(each) / workers)


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


def _origin(run: RunConfig) -> str:
    return f"{run.branch.parent} at {number_text(run.branch.tokens)}" if run.branch else "(a trunk)"


def _cells(run: RunConfig, plan: Plan) -> tuple[str, ...]:
    return (
        str(run.model.width),
        " ".join(number_text(tokens) for tokens in plan.readout_tokens),
        number_text(run.batch_tokens),
        number_text(run.lr),
        str(run.seed),
        str(plan.steps),
        f"{plan.micro_batch_seqs} x {plan.accumulation} x {plan.world_size}",
        number_text(plan.tokens - plan.start_tokens),
        f"{plan.flops:.2e}",
    )
