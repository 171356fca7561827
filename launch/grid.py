"""A study's base, axes and filters -> the runs of its grid, one for every point."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError, did_you_mean
from configs.explain import validated
from configs.expressions import evaluate
from configs.fields import field_docs, values
from configs.schema import RunConfig, StudyConfig

MAX_POINTS = 100_000
BRANCHING = "a study finds the trunks of its runs itself: remove it and write `trunk`, such as `trunk: {at: 2^16}`"


def grid(study: StudyConfig) -> list[RunConfig]:
    """The points of a study that pass its filters: axes crossed (the last one fastest), then zipped groups.

    Raises ConfigError for axes that contradict each other, a filter that leaves nothing, or a base that branches.
    """
    if study.base.branch:
        raise ConfigError(f"base.branch: {BRANCHING}")
    variations = _variations(study)
    if (points := math.prod(map(len, variations))) > MAX_POINTS:
        raise ConfigError(f"axes: {points} combinations; shorten an axis, at most {MAX_POINTS} are accepted")
    changes = [dict(itertools.chain(*(part.items() for part in point))) for point in itertools.product(*variations)]
    return _filtered([changed(study.base, change, "axes") for change in changes], study.where)


def changed(base: RunConfig, change: Mapping[str, Any], place: str) -> RunConfig:
    """`base` with dotted fields changed. Raises ConfigError, in terms of `place`, for a value that a field refuses."""
    data = base.model_dump()
    for field, value in change.items():
        *groups, name = field.split(".")
        node = data
        for group in groups:
            node = node[group]
        node[name] = value
    return validated(RunConfig, data, place)


def pinned(run: RunConfig, fingerprint: str) -> RunConfig:
    """The run on the data of that fingerprint."""
    return run.model_copy(update={"data": run.data.model_copy(update={"fingerprint": fingerprint})})


def check_field(place: str, field: str) -> None:
    """Refuse, as a mistake at `place` of the study, what no study may change in a run. Raises ConfigError."""
    known = field_docs(RunConfig)
    if field.partition(".")[0] == "branch":
        raise ConfigError(f"{place}.{field}: {BRANCHING}")
    if field in ("data.path", "data.fingerprint"):
        raise ConfigError(f"{place}.{field}: a study has one corpus; write a study for each, and set base.{field}")
    if field in known:
        return
    members = [name for name in known if name.startswith(f"{field}.")]
    if members:
        raise ConfigError(f"{place}.{field}: {field} is a group of fields; name one of them, such as {members[0]}")
    raise ConfigError(f"{place}.{field}: unknown field; {did_you_mean(field, known)}")


def _variations(study: StudyConfig) -> list[list[dict[str, Any]]]:
    """The factors of the product: the settings of each axis and zipped group, every value valid by itself."""
    groups = [("axes", {field: items}) for field, items in study.axes.items()]
    groups += [(f"zipped[{i}]", group) for i, group in enumerate(study.zipped)]
    seen: set[str] = set()
    variations = []
    for place, group in groups:
        for field in group:
            check_field(place, field)
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


def _valid(base: RunConfig, place: str, field: str, value: Any) -> Any:
    return values(changed(base, {field: value}, place))[field]


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
