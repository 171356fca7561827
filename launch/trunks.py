"""`trunk` in a study: runs become branches, and what several of them have in common is trained once, as their trunk.

A trunk is a run of the constant schedule that ends where its last branch leaves it.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from configs.errors import ConfigError
from configs.expressions import evaluate
from configs.fields import values
from configs.identity import run_id
from configs.lineage import changed_fields
from configs.plan import Plan, start_tokens
from configs.schema import BranchConfig, RunConfig, ScheduleConfig, TrunkConfig
from launch.grid import changed, check_field, pinned

UNNAMED = "0" * 12  # stands for a trunk's id, which is known when its data is
OF_THE_BRANCHES = "it follows from where the branches leave the trunk"
OF_THE_SCHEDULE = "a trunk has a constant learning rate, since a branch can only leave it before it decays"
NOT_TO_GIVE = {  # beside what a branch must have of its trunk anyway (`configs.lineage`)
    "engine.zero_stage": "a checkpoint is read under the ZeRO stage that wrote it",
    "optimizer.svag": "a trunk is trained without SVAG",
    "budget_tokens": OF_THE_BRANCHES,
    "readout_tokens": OF_THE_BRANCHES,
    "checkpoint.keep": OF_THE_BRANCHES,
    "checkpoint.keep_at_tokens": OF_THE_BRANCHES,
    "schedule.decay_fraction": OF_THE_SCHEDULE,
    "schedule.final_ratio": OF_THE_SCHEDULE,
}


def check_trunk(trunk: TrunkConfig) -> None:
    """Refuse fields that are not for a study to give its trunks. Raises ConfigError."""
    for field, value in trunk.fields.items():
        check_field("trunk.fields", field)
        if field in NOT_TO_GIVE:
            raise ConfigError(f"trunk.fields.{field}: {NOT_TO_GIVE[field]}: remove it")
        if field == "schedule.kind" and value != "constant":
            raise ConfigError(f"trunk.fields.{field} = {value}: {OF_THE_SCHEDULE}: remove it")


def branched(run: RunConfig, trunk: TrunkConfig) -> RunConfig:
    """The run as a branch of a trunk without a name, at the tokens that `trunk.at` gives for it. Raises ConfigError."""
    stem = _stem(run, trunk)
    try:
        changed_fields(stem, run)
    except ConfigError as error:
        raise ConfigError(f"trunk.fields: {error}") from None
    tokens = _leaves_at(run, trunk.at, stem.batch_tokens)
    return run.model_copy(update={"branch": BranchConfig(parent=UNNAMED, tokens=tokens)})


def trunks_of(runs: Sequence[RunConfig], trunk: TrunkConfig) -> tuple[tuple[RunConfig, ...], tuple[int, ...]]:
    """The trunks of branches, in the order of their first branches, and for every branch the index of its trunk.

    Each is as long as its last branch needs it and keeps a checkpoint wherever one leaves. Raises ConfigError.
    """
    stems: dict[str, RunConfig] = {}
    leaving: dict[str, set[int]] = {}
    keys = []
    for run in runs:
        stem = _stem(run, trunk)
        key = run_id(pinned(stem, "any"))  # what defines a run's result decides whether two are one
        stems.setdefault(key, stem)
        leaving.setdefault(key, set()).add(start_tokens(run))
        keys.append(key)
    order = {key: index for index, key in enumerate(stems)}
    return tuple(_grown(stems[key], sorted(leaving[key])) for key in order), tuple(order[key] for key in keys)


def decay_start(run: RunConfig) -> Fraction | None:
    """Tokens from which the learning rate of a run decays, exact in the decimals as written; None if it never does."""
    match run.schedule.kind:
        case "constant":
            return None
        case "wsd":
            return (1 - Fraction(str(run.schedule.decay_fraction))) * run.budget_tokens
        case _:
            return Fraction(run.schedule.warmup_tokens)


def longest_chains(costs: Sequence[float], plans: Sequence[Plan], trunk_of: Sequence[int | None]) -> list[float]:
    """What lies between the start of each run and the end of the last that waits for it, in the unit of `costs`.

    The costs are those of the runs, even over their tokens; a branch waits for the part of its trunk that it continues.
    """
    chains = list(costs)
    for branch, trunk in enumerate(trunk_of):
        if trunk is not None:
            wait = costs[trunk] * plans[branch].start_tokens / plans[trunk].tokens
            chains[trunk] = max(chains[trunk], wait + costs[branch])
    return chains


def _stem(run: RunConfig, trunk: TrunkConfig) -> RunConfig:
    """A run's trunk but for its length; the same for runs that can share it."""
    plain = {
        "branch": None,
        "schedule": ScheduleConfig(warmup_tokens=run.schedule.warmup_tokens),
        "budget_tokens": 1,
        "readout_tokens": (),
        "optimizer": run.optimizer.model_copy(update={"svag": None}),  # it begins where a run leaves its trunk
    }
    return changed(run.model_copy(update=plain), trunk.fields, "trunk.fields")


def _grown(stem: RunConfig, leaving: Sequence[int]) -> RunConfig:
    keep = {"keep": "none", "keep_at_tokens": tuple(leaving)}
    return stem.model_copy(update={"budget_tokens": leaving[-1], "checkpoint": stem.checkpoint.model_copy(update=keep)})


def _leaves_at(run: RunConfig, at: str, batch: int) -> int:
    """Tokens at which a run leaves a trunk of steps of `batch` tokens."""
    places = _places(run, batch)
    if not places:
        raise ConfigError(
            f"trunk.at: no whole steps of the trunk (batch_tokens = {batch}) and then of the run "
            f"({run.batch_tokens}) make budget_tokens = {run.budget_tokens}: change budget_tokens, or leave such runs "
            "out with `where`"
        )
    if at.strip() == "decay":
        return _before_decay(run, places)
    value = _evaluated(run, at)
    if value == int(value) and int(value) in places:
        return int(value)
    below, last = int((value - places[0]) // places.step), len(places) - 1
    legal = sorted({places[min(max(place, 0), last)] for place in (below, below + 1)})
    raise ConfigError(
        f"trunk.at: `{at}` is {value} where budget_tokens = {run.budget_tokens}, and must have whole steps of the "
        f"trunk (batch_tokens = {batch}) before it and of the run ({run.batch_tokens}) after it: use "
        f"{' or '.join(map(str, legal))}"
    )


def _places(run: RunConfig, batch: int) -> range:
    """Tokens at which a run can leave a trunk of steps of `batch` tokens: whole steps of the trunk, then of the run."""
    step = math.lcm(batch, run.batch_tokens)
    first = next((t for t in range(batch, step + 1, batch) if (run.budget_tokens - t) % run.batch_tokens == 0), None)
    return range(first, run.budget_tokens, step) if first else range(0)


def _before_decay(run: RunConfig, places: range) -> int:
    start, kind = decay_start(run), run.schedule.kind
    if start is None:
        raise ConfigError(
            "trunk.at: `decay` means nothing with schedule.kind = constant, which never decays: write trunk.at as a "
            "number of tokens, such as 2^16, or use schedule.kind wsd"
        )
    if kind != "wsd":
        raise ConfigError(
            f"trunk.at: `decay` with schedule.kind = {kind}, which decays from the end of its warmup on, leaves no "
            "more than the warmup to share: use schedule.kind wsd, or write trunk.at as a number of tokens"
        )
    if start < places[0]:
        raise ConfigError(
            f"trunk.at: `decay` begins at {float(start):g} of budget_tokens = {run.budget_tokens}, before a run can "
            f"leave its trunk, at {places[0]}: lower schedule.decay_fraction or the trunk's batch_tokens, or leave "
            "such runs out with `where`"
        )
    # The last place before: the branch takes the rest of the plateau itself, where the learning rate is the same.
    return places[int(start - places[0]) // places.step]


def _evaluated(run: RunConfig, at: str) -> float:
    try:
        value = evaluate(at, values(run))
    except ConfigError as error:
        raise ConfigError(f"trunk.at: `{at}`: {error}") from None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, float) and math.isfinite(value)):
        raise ConfigError(f"trunk.at: `{at}` is {value!r}, not a number of tokens: write one such as 2^16, or `decay`")
    return value
