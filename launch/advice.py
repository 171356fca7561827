"""What a planned grid will not be able to tell: plain warnings, before any token is spent on it."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from configs.expressions import number_text
from configs.plan import readouts, start_tokens
from configs.schema import RunConfig
from launch.trunks import decay_start

MIN_BATCHES = 4  # the surge form has two parameters per T; fewer points cannot tell it from its rivals
MIN_LRS = 5  # points of the quadratic through the minimum
MIN_SEEDS = 3  # for a standard deviation of the loss within a cell
MIN_STEPS = 16  # below it the loss is that of Adam's first moments filling up


def advise(runs: Sequence[RunConfig]) -> list[str]:
    """Warnings about the runs of a grid, a sentence each; empty if it can answer the questions of a study."""
    checks = (_batches, _bracket, _learning_rates, _seeds, _steps, _warmup, _widths, _schedule, _branches)
    return [warning for check in checks if (warning := check(runs))]


def tokens_without_reuse(runs: Sequence[RunConfig]) -> int:
    """Tokens if every budget were a run of its own, as a decaying schedule needs."""
    return sum(sum(readouts(run)) for run in runs)


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def _budgets(runs: Sequence[RunConfig]) -> list[int]:
    return sorted({tokens for run in runs for tokens in readouts(run)})


def _batches(runs: Sequence[RunConfig]) -> str | None:
    batches = sorted({run.batch_tokens for run in runs})
    if len(batches) < MIN_BATCHES:
        few = counted(len(batches), "batch size")
        return f"{few}: fewer than {MIN_BATCHES} cannot show how the best lr bends with B."
    return None


def _bracket(runs: Sequence[RunConfig]) -> str | None:
    """B_crit is identified only inside the grid: B_min <= B_crit(T_min) / 2 and B_max >= 2 B_crit(T_max)."""
    first, last = _budgets(runs)[0], _budgets(runs)[-1]
    smallest = min(run.batch_tokens for run in runs if first in readouts(run))
    largest = max(run.batch_tokens for run in runs if last in readouts(run))
    span, growth = math.log2(largest / smallest), math.log2(last / first)
    if span >= 2 + growth:
        return None
    return (
        f"The batch grid spans {span:.3g} octaves ({number_text(smallest)} to {number_text(largest)}). To bracket "
        f"B_crit from T = {number_text(first)} to {number_text(last)} it needs {2 + growth:.3g} if B_crit grows as T "
        f"(Time Transfer), {2 + growth / 2:.3g} if as T^0.5; where B_crit lies outside, the report gives a bound."
    )


def _learning_rates(runs: Sequence[RunConfig]) -> str | None:
    """eta* rises as sqrt(B) below B_crit, so a grid shared by all batches must be wider than one cell needs."""
    grids: dict[tuple[int, int], set[float]] = {}
    for run in runs:
        grids.setdefault((run.model.width, run.batch_tokens), set()).add(run.lr)
    shared = len({frozenset(grid) for grid in grids.values()}) == 1
    octaves = math.log2(max(run.batch_tokens for run in runs) / min(run.batch_tokens for run in runs))
    needed = 2 + octaves / 2 if shared else 2.0
    fewest = min(len(grid) for grid in grids.values())
    narrowest = min(math.log2(max(grid) / min(grid)) for grid in grids.values())
    coarsest = max(_gaps(grids.values()), default=0.0)
    faults = []
    if fewest < MIN_LRS:
        faults.append(f"{counted(fewest, 'value')} where a minimum needs at least {MIN_LRS}")
    if narrowest < needed - 1e-9:
        reason = f" (2, and {octaves / 2:.3g} since lr* rises as sqrt(B))" if shared else ""
        faults.append(f"{narrowest:.3g} octaves where {needed:.3g} are needed{reason}")
    if coarsest > 1 + 1e-9:
        faults.append(f"steps of {coarsest:.3g} octaves where 1 is the coarsest that a quadratic resolves")
    return f"The learning-rate grid may miss its optimum: {'; '.join(faults)}." if faults else None


def _gaps(grids: Iterable[set[float]]) -> list[float]:
    return [math.log2(b / a) for grid in grids for a, b in pairwise(sorted(grid))]


def _seeds(runs: Sequence[RunConfig]) -> str | None:
    seeds = len({run.seed for run in runs})
    if seeds < MIN_SEEDS:
        return f"{counted(seeds, 'seed')}: the noise of a cell cannot be measured with fewer than {MIN_SEEDS}."
    return None


def _steps(runs: Sequence[RunConfig]) -> str | None:
    short = [run for run in runs if readouts(run)[0] < MIN_STEPS * run.batch_tokens]
    if not short:
        return None
    worst = max(short, key=lambda run: run.batch_tokens / readouts(run)[0])
    return (
        f"{len(short)} of {len(runs)} runs have fewer than {MIN_STEPS} steps at their first readout (B = "
        f"{number_text(worst.batch_tokens)} takes {readouts(worst)[0] // worst.batch_tokens} to T = "
        f"{number_text(readouts(worst)[0])}): add a filter such as `batch_tokens <= budget_tokens / {MIN_STEPS}`."
    )


def _warmup(runs: Sequence[RunConfig]) -> str | None:
    inside = [run for run in runs if run.schedule.warmup_tokens > readouts(run)[0]]
    if inside:
        tokens = number_text(max(run.schedule.warmup_tokens for run in inside))
        return (
            f"{len(inside)} of {len(runs)} runs are first read out during their warmup of {tokens} tokens: shorten it."
        )
    return None


def _widths(runs: Sequence[RunConfig]) -> str | None:
    widths = {run.model.width for run in runs}
    if len(widths) == 1:
        return f"One width ({min(widths)}): whether the optimum transfers across width is not tested."
    return None


def _schedule(runs: Sequence[RunConfig]) -> str | None:
    """A decaying schedule pays for every budget; a constant one only for the largest of each group."""
    decaying = [run for run in runs if run.schedule.kind != "constant" and not run.branch]
    longest: dict[RunConfig, int] = {}
    for run in decaying:
        key = run.model_copy(update={"budget_tokens": 1})
        longest[key] = max(longest.get(key, 0), run.budget_tokens)
    if len(longest) == len(decaying):
        return None
    paid, shared = sum(run.budget_tokens for run in decaying), sum(longest.values())
    return (
        f"A decaying schedule needs a run per budget: {len(decaying)} runs, {paid:.3g} tokens. With schedule.kind "
        f"constant {len(longest)} runs and {shared:.3g} tokens give every budget ({paid / shared:.2g} times less); "
        "with wsd and `trunk: {}` the budgets share what lies before their decay."
    )


def _branches(runs: Sequence[RunConfig]) -> str | None:
    late = [run for run in runs if (start := decay_start(run)) is not None and start < start_tokens(run)]
    if late:
        return (
            f"{len(late)} of {counted(len(runs), 'branch', 'branches')} leave their trunk after their own schedule "
            "has begun to decay: the learning rate drops at once there. `trunk.at: decay` leaves before, with wsd."
        )
    return None
