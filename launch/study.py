"""A study -> its runs: the grid, budgets of the constant schedule shared by one run, and the trunks of branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.load import load_study
from configs.plan import Hardware, Plan, plan, readouts
from configs.schema import RunConfig, StudyConfig
from launch.grid import grid
from launch.trunks import branched, check_trunk, trunks_of


@dataclass(frozen=True)
class PlannedStudy:
    """A study that has been checked as far as it can be without its data; aligned tuples, trunks before the grid.

    What branches off is complete but for the id of its trunk, which the data names (`launch.execute.pin_data`).
    """

    study: StudyConfig
    runs: tuple[RunConfig, ...]
    plans: tuple[Plan, ...]
    trunk_of: tuple[int | None, ...]  # index of the run that a run branches off; None: it starts from scratch

    @property
    def n_trunks(self) -> int:
        """How many of the runs, the first ones, are there for others to branch off."""
        return len(set(self.trunk_of) - {None})


@dataclass(frozen=True)
class GridCounts:
    """How many different values a study has of each variable, and how many cells (N, T, B)."""

    widths: int
    budgets: int
    batches: int
    lrs: int
    seeds: int
    cells: int
    runs: int


def plan_study(path: str | Path, overrides: Sequence[str], hardware: Hardware) -> PlannedStudy:
    """Load, expand and plan a study; nothing is started or written. Raises ConfigError, one line naming the file."""
    study = load_study(path, overrides)
    try:
        return planned_study(study, hardware)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def planned_study(study: StudyConfig, hardware: Hardware) -> PlannedStudy:
    """The runs of a study, its trunks among them, and their plans. Raises ConfigError."""
    runs = expand(study)
    plans = tuple(plan(run, hardware) for run in runs)
    if not study.trunk:
        return PlannedStudy(study, runs, plans, (None,) * len(runs))
    trunks, trunk_of = trunks_of(runs, study.trunk)
    try:
        trunk_plans = tuple(plan(trunk, hardware) for trunk in trunks)
    except ConfigError as error:
        raise ConfigError(f"trunk: {error}") from None
    return PlannedStudy(study, (*trunks, *runs), (*trunk_plans, *plans), (*(None for _ in trunks), *trunk_of))


def expand(study: StudyConfig) -> tuple[RunConfig, ...]:
    """The grid's runs, in the order of its axes (the last one fastest), then of its zipped groups.

    With the constant schedule, runs that differ only in `budget_tokens` become one run: the largest budget, read out at
    every budget. With `trunk` every run is a branch of a trunk that has no name yet. Raises ConfigError.
    """
    runs = grid(study)
    if study.trunk:
        check_trunk(study.trunk)
        runs = [branched(run, study.trunk) for run in runs]
    return tuple(_share_budgets(runs))


def count(runs: Sequence[RunConfig]) -> GridCounts:
    """The size of the grid that the runs make."""
    return GridCounts(
        widths=len({run.model.width for run in runs}),
        budgets=len({tokens for run in runs for tokens in readouts(run)}),
        batches=len({run.batch_tokens for run in runs}),
        lrs=len({run.lr for run in runs}),
        seeds=len({run.seed for run in runs}),
        cells=len({(run.model.width, tokens, run.batch_tokens) for run in runs for tokens in readouts(run)}),
        runs=len(runs),
    )


def _share_budgets(runs: list[RunConfig]) -> list[RunConfig]:
    """One run per group that differs only in budget, where the group's first was; a decaying run is its own group."""
    groups: dict[RunConfig, list[RunConfig]] = {}
    for run in runs:
        constant = run.schedule.kind == "constant"
        key = run.model_copy(update={"budget_tokens": 1, "readout_tokens": ()}) if constant else run
        groups.setdefault(key, []).append(run)
    return [_shared(group) if len(group) > 1 else group[0] for group in groups.values()]


def _shared(group: list[RunConfig]) -> RunConfig:
    longest = max(group, key=lambda run: run.budget_tokens)
    tokens = tuple(sorted({tokens for run in group for tokens in readouts(run)}))
    return longest.model_copy(update={"readout_tokens": tokens})
