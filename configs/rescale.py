"""A run's recipe at another batch (and horizon): what changes, why, what to beware of, and the YAML that says so."""

from typing import Any, NamedTuple

import yaml

from configs.errors import ConfigError
from configs.expressions import number_text
from configs.optimizers import TRAITS, Rule, check_rule
from configs.plan import Hardware, plan
from configs.scaling import Recipe, decay_timescale, half_life_tokens, rescaled
from configs.schema import RunConfig

SAYS: dict[Rule, str] = {
    "sqrt": "square-root rule: lr x sqrt(k), 1 - beta x k, eps / sqrt(k), weight decay a token stays",
    "half_life": "square-root rule by half-lives: lr x sqrt(k), beta^k, eps / sqrt(k), weight decay a token stays",
    "linear": "linear rule: lr x k, weight decay a token stays",
    "lr": "learning rate only: lr x sqrt(k)",
    "none": "no rule: the batch alone",
    "adagrad": "Adagrad's rule: lr stays, eps / k, weight decay a token stays",
    "sign": "sign descent's rule: lr x sqrt(k), beta1 stays, weight decay a token stays",
    "joint": "joint rule for batch and horizon: the square-root rule with k over the ratio of the budgets",
}
SHORT_MEMORY = 0.5  # of 1 - beta: beyond it a moment is no average over steps that an SDE could describe


class Change(NamedTuple):
    """A field that gets another value."""

    field: str
    before: float
    after: float


def recipe_of(config: RunConfig) -> Recipe:
    """What a scaling rule changes of a run; a beta that its optimizer does not use is 0."""
    optimizer, uses = config.optimizer, TRAITS[config.optimizer.kind].uses
    return Recipe(
        lr=config.lr,
        beta1=optimizer.beta1 if "beta1" in uses else 0.0,
        beta2=optimizer.beta2 if "beta2" in uses else 0.0,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        decay_follows_lr=optimizer.decay_rule != "independent",
    )


def rescaled_run(config: RunConfig, batch_tokens: int, budget_tokens: int | None, rule: Rule) -> RunConfig:
    """The run at another batch, checked as any run is. Raises ConfigError where the rule or the plan refuses."""
    optimizer, budget = config.optimizer, budget_tokens or config.budget_tokens
    check_rule(optimizer.kind, rule)
    uses = TRAITS[optimizer.kind].uses
    stretch = budget / config.budget_tokens if rule == "joint" else 1.0
    new = rescaled(recipe_of(config), rule, batch_tokens / config.batch_tokens, budget / config.budget_tokens)
    changes: dict[str, Any] = {"batch_tokens": batch_tokens, "budget_tokens": budget, "lr": new.lr}
    moments = {
        name: float(f"{getattr(new, name):.14g}") for name in (*uses, "weight_decay")
    }  # 0.6, not 0.60000000000001
    changes["optimizer"] = _changed(optimizer, moments)
    warmup = _stretched("schedule.warmup_tokens", config.schedule.warmup_tokens, stretch)
    changes["schedule"] = _changed(config.schedule, {"warmup_tokens": warmup})
    if config.ema_half_life_tokens:
        changes["ema_half_life_tokens"] = _stretched("ema_half_life_tokens", config.ema_half_life_tokens, stretch)
    result = _changed(config, changes)
    plan(result, Hardware(world_size=1))
    return result


def changes(before: RunConfig, after: RunConfig) -> list[Change]:
    """The numbers that differ."""
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    return [Change(field, old[field], value) for field, value in new.items() if old[field] != value]


def cautions(before: RunConfig, after: RunConfig, rule: Rule, noise_scale: float | None) -> list[str]:
    """Where the rule may not hold, with the numbers. `noise_scale` in tokens, as measured; None if it was not."""
    found = []
    batch = max(before.batch_tokens, after.batch_tokens)
    if noise_scale is None:
        found.append("the noise scale was not given (--noise-scale): rules hold only for batches well below it")
    elif batch > noise_scale:
        found.append(
            f"a batch of {batch} tokens is above the measured noise scale of {noise_scale:.6g}: noise does not "
            "dominate there, so the rule is not expected to hold"
        )
    if rule != "none" and before.optimizer.clip_norm:
        found.append(
            f"optimizer.clip_norm stays {before.optimizer.clip_norm:g}, but the gradient's norm changes with the "
            "batch: to test a rule, switch clipping off (optimizer.clip_norm=0) in both runs"
        )
    for name in betas_of(after):
        beta = getattr(after.optimizer, name)
        if 0 < beta < SHORT_MEMORY and rule != "none":
            found.append(f"optimizer.{name} = {beta:.4g} remembers less than a step: expect transients to differ")
    if after.budget_tokens != before.budget_tokens and rule != "joint":
        found.append(f"rule {rule} knows nothing of the horizon: lr was not changed for the budget (--rule joint is)")
    return found


def recipe_text(before: RunConfig, after: RunConfig, rule: Rule, noise_scale: float | None) -> str:
    """The new run as YAML, with what changed and why as its first comment. What was left to defaults stays so."""
    ratio = after.batch_tokens / before.batch_tokens
    lines = [
        f"Rescaled by bcrit: {ratio:g} times the batch, {after.budget_tokens / before.budget_tokens:g} the budget."
    ]
    lines.append(f"{SAYS[rule]}, k = {ratio:g}.")
    lines += [f"  {c.field}: {number_text(c.before)} -> {number_text(c.after)}" for c in changes(before, after)]
    lines += [_kept(before, after)]
    lines += [f"Caution: {text}." for text in cautions(before, after, rule, noise_scale)]
    body = yaml.safe_dump(_plain(after.model_dump(mode="json", exclude_unset=True)), sort_keys=False)
    return "".join(f"# {line}\n" for line in lines) + body


def _kept(before: RunConfig, after: RunConfig) -> str:
    """The memories of both runs, in tokens, which a rule is meant to keep."""

    def memories(config: RunConfig) -> list[str]:
        """Of each beta, then of the decay."""
        o = config.optimizer
        tau = decay_timescale(
            config.batch_tokens,
            1.0 if o.decay_rule == "independent" else config.lr,
            o.weight_decay,
            config.budget_tokens,
        )
        halves = (half_life_tokens(getattr(o, name), config.batch_tokens) for name in betas_of(config))
        return [*(f"{tokens:.4g}" for tokens in halves), f"{tau:.4g}"]

    *halves, decay = (f"{old} -> {new}" for old, new in zip(memories(before), memories(after), strict=True))
    named = ", ".join(f"{name} {pair}" for name, pair in zip(betas_of(before), halves, strict=True))
    return (f"Half-lives in tokens: {named}; d" if named else "D") + f"ecay timescale, of the budget: {decay}."


def betas_of(config: RunConfig) -> list[str]:
    """The fields of the moments that a run's optimizer has."""
    return [name for name in TRAITS[config.optimizer.kind].uses if name.startswith("beta")]


def _changed(group: Any, values: dict[str, Any]) -> Any:
    """A copy with what really differs; the rest stays unset if it was."""
    return group.model_copy(update={name: value for name, value in values.items() if getattr(group, name) != value})


def _stretched(field: str, tokens: int, ratio: float) -> int:
    stretched = tokens * ratio
    if stretched != round(stretched):
        raise ConfigError(f"{field} = {tokens}: {ratio:g} times it is no whole number of tokens; choose another budget")
    return round(stretched)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _plain(value: Any) -> Any:
    """Powers of two as one writes them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return text if "^" in (text := number_text(value)) else value
    return value
