"""The arms of a rule check or an SVAG check: which run follows which rule, and how far each ends from the reference.

The reference is the run of the smallest batch (or of l = 1); the others are named by what their fields are. Runs of one
seed read the same data in the same order, so losses are compared pair by pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from analysis.results import Estimate
from configs.errors import ConfigError
from configs.optimizers import Rule
from configs.rescale import recipe_of
from configs.rundir import manifest_ids, read_config, read_metrics, read_status, run_dir_of
from configs.scaling import RULES, rescaled
from configs.schema import RunConfig

SVAG = "SVAG"
REFERENCE = "reference"
OWN = (SVAG, "sqrt", "half_life", "sign", "adagrad", "linear", "lr", "none")  # the first that a study has
CLOSE = 0.01  # relative: recipes are written with three digits


@dataclass(frozen=True)
class Run:
    """One run: `factor` is kappa = B / B of the reference, or l; losses by tokens in nats, none beyond divergence."""

    run_id: str
    rule: str  # a scaling rule, SVAG, or REFERENCE
    factor: float
    seed: int
    batch_tokens: int
    start_tokens: int
    tokens: int  # T
    losses: Mapping[int, float]  # validation
    records: tuple[Mapping[str, Any], ...]  # metrics rows of kinds train and noise

    @property
    def loss(self) -> float:
        """At the end; NaN if the run diverged or has not come this far."""
        return self.losses.get(self.tokens, float("nan"))


@dataclass(frozen=True)
class Gap:
    """Loss of an arm - loss of the reference at the end, nats, over seeds."""

    rule: str
    factor: float
    batch_tokens: int
    gap: Estimate
    n_diverged: int


@dataclass(frozen=True)
class Distance:
    """How far a rule ends from the reference, the mean over its factors of the size of the mean gap, nats."""

    rule: str
    distance: Estimate
    behind: Estimate  # distance - that of the study's own rule; above 0: it holds worse


def read_runs(study_dir: Path) -> tuple[Run, ...]:
    """The arms of a study, the reference first. Raises ConfigError if its runs are not those of one check."""
    found = {name: read_config(run_dir_of(study_dir, name)) for name in manifest_ids(study_dir)}
    trunks = {config.branch.parent for config in found.values() if config.branch}
    configs = {name: config for name, config in found.items() if name not in trunks}
    reference = min(configs.values(), key=lambda config: (config.batch_tokens, config.optimizer.svag or 1))
    named = {name: rule_of(config, reference) for name, config in configs.items()}
    runs = (_run(study_dir, name, config, *named[name]) for name, config in configs.items())
    return tuple(sorted(runs, key=lambda run: (run.rule != REFERENCE, run.rule, run.factor, run.seed)))


def rule_of(config: RunConfig, reference: RunConfig) -> tuple[str, float]:
    """The rule that makes `config` of `reference`, and its factor. Raises ConfigError if it is none."""
    length, kappa = config.optimizer.svag or 1, config.batch_tokens / reference.batch_tokens
    if kappa == 1 and recipe_of(config) == recipe_of(reference):
        return (SVAG, float(length)) if length > 1 else (REFERENCE, 1.0)
    fitting = [rule for rule in RULES if rule != "joint" and _follows(config, reference, rule, kappa)]
    if not fitting or kappa == 1 or length > 1:
        raise ConfigError(
            f"batch_tokens = {config.batch_tokens}, lr = {config.lr:g}, betas {config.optimizer.beta1:g} and "
            f"{config.optimizer.beta2:g}: no scaling rule makes this of the run of batch_tokens = "
            f"{reference.batch_tokens} and lr = {reference.lr:g}: `bcrit rescale` gives the numbers of each rule"
        )
    return fitting[0], kappa


def own_rule_of(runs: Iterable[Run]) -> str:
    """The rule to which the others of the study are alternatives. Raises ConfigError if there is none to judge."""
    rules = {run.rule for run in runs}
    if own := next((rule for rule in OWN if rule in rules), None):
        return own
    raise ConfigError("the study has one recipe only: it needs runs of other batches under a rule, or of other svag")


def gaps(runs: Sequence[Run]) -> tuple[Gap, ...]:
    """Every arm's, from pairs of a seed. The scatter of a rule's pairs about their means is taken together."""
    found = []
    for rule in dict.fromkeys(run.rule for run in runs if run.rule != REFERENCE):
        pairs = _pairs(runs, rule)
        scatter, dof = _scatter(pairs.values())
        for factor, differences in pairs.items():
            arm = [run for run in runs if run.rule == rule and run.factor == factor]
            diverged = int(np.isnan([run.loss for run in arm]).sum())
            found.append(Gap(rule, factor, arm[0].batch_tokens, _mean(differences, scatter, dof, diverged), diverged))
    return tuple(found)


def distances(runs: Sequence[Run], own: str) -> tuple[Distance, ...]:
    """Every rule's, `own` first, with how much further away each ends than it; over the factors that all have.

    Within a seed the gaps over factors are added under the signs of their means, which makes noise look like distance,
    never less; the interval is Student's over seeds. A rule with a diverged run has no distance.
    """
    rules = [own, *(rule for rule in dict.fromkeys(run.rule for run in runs) if rule not in (own, REFERENCE))]
    by_seed = {rule: _signed(_pairs(runs, rule)) for rule in rules}
    return tuple(
        Distance(rule, _over_seeds(by_seed[rule], {}), _over_seeds(by_seed[rule], by_seed[own])) for rule in rules
    )


def _run(study_dir: Path, name: str, config: RunConfig, rule: str, factor: float) -> Run:
    run_dir = run_dir_of(study_dir, name)
    status = read_status(run_dir)
    return Run(
        run_id=name,
        rule=rule,
        factor=factor,
        seed=config.seed,
        batch_tokens=config.batch_tokens,
        start_tokens=config.branch.tokens if config.branch else 0,
        tokens=config.budget_tokens,
        losses={readout.tokens: readout.loss for readout in status.readouts if readout.tokens},
        records=tuple(row for row in read_metrics(run_dir) if row["kind"] in ("train", "noise")),
    )


def _follows(config: RunConfig, reference: RunConfig, rule: Rule, kappa: float) -> bool:
    try:
        expected = rescaled(recipe_of(reference), rule, kappa)
    except ConfigError:  # beyond the reach of the square-root rule
        return False
    have = recipe_of(config)
    pairs = (
        (have.lr, expected.lr),
        (1 - have.beta1, 1 - expected.beta1),
        (1 - have.beta2, 1 - expected.beta2),
        (have.eps, expected.eps),
        (have.weight_decay, expected.weight_decay),
    )
    return all(abs(a - b) <= CLOSE * abs(b) for a, b in pairs)


def _pairs(runs: Sequence[Run], rule: str) -> dict[float, dict[int, float]]:
    """Differences to the reference by factor and seed; NaN where one of the two has no loss."""
    reference = {run.seed: run.loss for run in runs if run.rule == REFERENCE}
    found: dict[float, dict[int, float]] = {}
    for run in runs:
        if run.rule == rule and run.seed in reference:
            found.setdefault(run.factor, {})[run.seed] = run.loss - reference[run.seed]
    return found


def _scatter(groups: Iterable[Mapping[int, float]]) -> tuple[float, int]:
    """Standard deviation of one pair about the mean of its arm, over arms without divergence; degrees of freedom."""
    arrays = [np.array(list(group.values())) for group in groups]
    whole = [values for values in arrays if not np.isnan(values).any()]
    dof = sum(values.size - 1 for values in whole)
    total = sum(float(((values - values.mean()) ** 2).sum()) for values in whole)
    return (float(np.sqrt(total / dof)), dof) if dof else (float("nan"), 0)


def _mean(differences: Mapping[int, float], scatter: float, dof: int, diverged: int) -> Estimate:
    values = np.array(list(differences.values()))
    method = f"mean of {values.size} pairs of a seed, scatter with {dof} degrees of freedom"
    if np.isnan(values).any() or not values.size:
        why = f"{diverged} of {values.size} diverged" if diverged else "runs are missing"
        return Estimate(None, None, None, "nats", "not_identified", why)
    value = float(values.mean())
    if not dof:
        return Estimate(value, None, None, "nats", "ok", "one seed: no interval")
    half = float(special.stdtrit(dof, 0.975)) * scatter / values.size**0.5
    return Estimate(value, value - half, value + half, "nats", "ok", method)


def _signed(pairs: Mapping[float, Mapping[int, float]]) -> dict[int, float]:
    """By seed the mean over factors of the gap under the sign of its factor's mean."""
    signs = {factor: np.sign(np.mean(list(group.values()))) for factor, group in pairs.items()}
    seeds = set.intersection(*(set(group) for group in pairs.values())) if pairs else set()
    return {s: float(np.mean([signs[f] * group[s] for f, group in pairs.items()])) for s in sorted(seeds)}


def _over_seeds(of: Mapping[int, float], less: Mapping[int, float]) -> Estimate:
    values = np.array([value - less.get(seed, 0.0) for seed, value in of.items()])
    if not values.size or np.isnan(values).any():
        return Estimate(None, None, None, "nats", "not_identified", "a run of the rule diverged or is missing")
    value = float(values.mean())
    if values.size < 2:
        return Estimate(value, None, None, "nats", "ok", "one seed: no interval")
    half = float(special.stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / values.size**0.5)
    return Estimate(value, value - half, value + half, "nats", "ok", f"over {values.size} seeds")
