"""A study -> its runs: axes crossed, filters applied, budgets of the constant schedule shared by one run."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, did_you_mean
from configs.explain import validated
from configs.expressions import evaluate
from configs.fields import field_docs, values
from configs.load import load_study
from configs.plan import Hardware, Plan, plan, readouts
from configs.schema import RunConfig, StudyConfig

MAX_POINTS = 100_000


@dataclass(frozen=True)
class PlannedStudy:
    """A study that has been checked as far as it can be without its data; `plans` are aligned with `runs`."""

    study: StudyConfig
    runs: tuple[RunConfig, ...]
    plans: tuple[Plan, ...]


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
        runs = expand(study)
        return PlannedStudy(study, runs, tuple(plan(run, hardware) for run in runs))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def expand(study: StudyConfig) -> tuple[RunConfig, ...]:
    """The runs of a study, in the order of its axes (the last one fastest), then of its zipped groups.

    With the constant schedule, runs that differ only in `budget_tokens` become one run: the largest budget, read out at
    every budget. Raises ConfigError for axes that contradict each other or a filter that leaves nothing.
    """
    variations = _variations(study)
    if (points := math.prod(map(len, variations))) > MAX_POINTS:
        raise ConfigError(f"axes: {points} combinations; shorten an axis, at most {MAX_POINTS} are accepted")
    changes = [dict(itertools.chain(*(part.items() for part in point))) for point in itertools.product(*variations)]
    runs = [_changed(study.base, change, "axes") for change in changes]
    return tuple(_share_budgets(_filtered(runs, study.where)))


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


def _variations(study: StudyConfig) -> list[list[dict[str, Any]]]:
    """The factors of the product: the settings of each axis and zipped group, every value valid by itself."""
    groups = [("axes", {field: items}) for field, items in study.axes.items()]
    groups += [(f"zipped[{i}]", group) for i, group in enumerate(study.zipped)]
    seen: set[str] = set()
    variations = []
    for place, group in groups:
        for field in group:
            _check_field(place, field)
            if field in seen:
                raise ConfigError(f"{place}.{field}: {field} is varied in two places; keep one")
            seen.add(field)
        lengths = {field: len(items) for field, items in group.items()}
        if len(set(lengths.values())) != 1:
            shown = ", ".join(f"{field} has {n}" for field, n in lengths.items()) or "it is empty"
            raise ConfigError(
                f"{place}: fields that move together need equally many values, but {shown}; make them equal"
            )
        valid = {field: [_valid(study.base, place, field, item) for item in items] for field, items in group.items()}
        settings = [dict(zip(valid, row, strict=True)) for row in zip(*valid.values(), strict=True)]
        for i, setting in enumerate(settings):
            if setting in settings[:i]:
                shown = ", ".join(f"{field} = {value}" for field, value in setting.items())
                raise ConfigError(f"{place}.{next(iter(group))}: {shown} is given twice; remove one")
        variations.append(settings)
    return variations


def _check_field(place: str, field: str) -> None:
    known = field_docs(RunConfig)
    if field in ("data.path", "data.fingerprint"):
        raise ConfigError(f"{place}.{field}: a study has one corpus; write a study for each, and set base.{field}")
    if field in known:
        return
    members = [name for name in known if name.startswith(f"{field}.")]
    if members:
        raise ConfigError(f"{place}.{field}: {field} is a group of fields; vary one of them, such as {members[0]}")
    raise ConfigError(f"{place}.{field}: unknown field; {did_you_mean(field, known)}")


def _valid(base: RunConfig, place: str, field: str, value: Any) -> Any:
    return values(_changed(base, {field: value}, place))[field]


def _changed(base: RunConfig, change: Mapping[str, Any], place: str) -> RunConfig:
    data = base.model_dump()
    for field, value in change.items():
        *groups, name = field.split(".")
        node = data
        for group in groups:
            node = node[group]
        node[name] = value
    return validated(RunConfig, data, place)


def _filtered(runs: list[RunConfig], where: Sequence[str]) -> list[RunConfig]:
    kept = runs
    for condition in where:
        before, kept = kept, [run for run in kept if _holds(condition, run)]
        if not kept:
            raise ConfigError(f"where: `{condition}` leaves none of {len(before)} runs; loosen it or change the axes")
    return kept


def _holds(condition: str, run: RunConfig) -> bool:
    try:
        result = evaluate(condition, values(run))
    except ConfigError as error:
        raise ConfigError(f"where: `{condition}`: {error}") from None
    if not isinstance(result, bool):
        raise ConfigError(
            f"where: `{condition}` is {result!r}, not true or false; compare it with something, such as > 0"
        )
    return result


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
