"""How things grow with the token budget: quantity = 2^level * (T/T0)^exponent * (N/N0)^exponent_width, in log2.

Headline for B_crit and eta_crit: the exponents of the fit over all budgets and widths (`analysis.laws`), by profile
likelihood, in which bounds of single budgets take part with what they do say. Everything else: generalised least
squares on the points that have a value; a bound or an edge has no point and is left out. There, but for eta* at fixed
B, budgets count as independent; runs read out at several budgets make the true errors of exponents smaller, not larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap import bootstrap_curve, bootstrap_line, percentiles, resample
from analysis.critical_batch import DEFINITION_OF_FORM
from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.power_law import LawPoint, PowerLaw, fit_design, fit_power_law
from analysis.results import BestBatch, Cell, CriticalBatch, Estimate, Growth, SensitivityLaw, bounded

Array = NDArray[np.floating]
MEASURES = ("wortsman", "window1", "window2")
FEWEST_BUDGETS = 3  # to see a bend


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are checked by resampling cells."""

    resamples: int = 1000
    seed: int = 0


def growth_laws(
    points: Points,
    cells: Sequence[Cell],
    critical: Sequence[CriticalBatch],
    best: Sequence[BestBatch],
    noise: Noise,
    bootstrap: Bootstrap,
) -> tuple[Growth, ...]:
    """All growth laws that the table allows; none without at least two budgets.

    `batch_crit:*` of the forms of eta*(B) and `lr_crit` from the fit over all budgets; `batch_crit_per_budget:*` of the
    same forms and `batch_crit:*` of other definitions from the values at single budgets; `batch_best` and `lr_best`
    (eta* at B*), `lr_at_batch:B`, and at fixed B, with a level of its own for every B, `curvature` and `sensitivity:*`.
    """
    laws = power_laws(points, cells, critical, best, noise)
    together = [law for form in DEFINITION_OF_FORM for law in _from_all_budgets(points, form, bootstrap)]
    return (*together, *(growth_of(quantity, law, bootstrap) for quantity, law in laws.items()))


def power_laws(
    points: Points,
    cells: Sequence[Cell],
    critical: Sequence[CriticalBatch],
    best: Sequence[BestBatch],
    noise: Noise,
) -> dict[str, PowerLaw]:
    """By quantity, the laws that are lines through estimates (`analysis.power_law`)."""
    own = [b for b in best if b.width is not None]
    named = {
        **{
            _name(definition): [LawPoint(c.tokens, 0, 0, c.batch) for c in critical if c.definition == definition]
            for definition in dict.fromkeys(c.definition for c in critical)
            if definition != "time_transfer_surge_all_budgets"
        },
        "batch_best": [LawPoint(b.tokens, b.width or 0, 0, b.batch) for b in own],
        "lr_best": [LawPoint(b.tokens, b.width or 0, 0, b.lr) for b in own],
    }
    fits = {quantity: fit_power_law(law_points, noise) for quantity, law_points in named.items()}
    for name, law_points in _measures(cells).items():
        quantity = name if name == "curvature" else f"sensitivity:{name}"
        fits[quantity] = fit_power_law(law_points, noise, absolute=True)
    for batch in sorted({c.batch_tokens for c in cells}):
        here = [LawPoint(c.tokens, c.width, batch, c.lr) for c in cells if c.batch_tokens == batch]
        covariance = points.select(points.batch == np.log2(batch)).covariance
        fits[f"lr_at_batch:{batch}"] = fit_power_law(here, noise, covariance)
    return {quantity: fit for quantity, fit in fits.items() if fit is not None}


def sensitivity_laws(cells: Sequence[Cell], noise: Noise) -> tuple[SensitivityLaw, ...]:
    """Every measure of sensitivity as one power law in T, B and N; `wortsman` compares only where sweeps are equal."""
    fits = {
        name: fit_power_law(points, noise, batch_slope=True, absolute=True) for name, points in _measures(cells).items()
    }
    return tuple(
        SensitivityLaw(
            measure=name,
            exponent_tokens=exponent,
            exponent_width=law.exponent("width"),
            exponent_batch=law.exponent("batch"),
            coefficient=law.coefficient,
            n_points=law.points.y.size,
            reference_tokens=float(2.0 ** law.slopes["tokens"]),
            reference_width=_power(law.slopes.get("width")),
            reference_batch=_power(law.slopes.get("batch")),
        )
        for name, law in fits.items()
        if law is not None and (exponent := law.exponent("tokens")) is not None
    )


def _measures(cells: Sequence[Cell]) -> dict[str, list[LawPoint]]:
    interior = [c for c in cells if c.state == "interior"]
    values = {"curvature": [c.curvature for c in interior]}
    values |= {name: [c.sensitivity[name] for c in interior] for name in MEASURES}
    return {
        name: [LawPoint(c.tokens, c.width, c.batch_tokens, e) for c, e in zip(interior, estimates, strict=True)]
        for name, estimates in values.items()
    }


def _name(definition: str) -> str:
    kind = "batch_crit_per_budget" if definition in DEFINITION_OF_FORM.values() else "batch_crit"
    return f"{kind}:{definition}"


def growth_of(quantity: str, law: PowerLaw, bootstrap: Bootstrap, variable: str = "tokens") -> Growth:
    """A law with its checks. `variable`: what the tokens of its points stand for."""
    at = law.levels.shape[1]  # the column of log2 T
    exponent = law.exponent("tokens") or Estimate(None, None, None, "1", "not_identified", law.method)
    counts = resample(law.points.y.size, bootstrap.resamples, bootstrap.seed)
    draws = bootstrap_line(law.design, law.points.y, law.points.variance, counts)[:, at]
    return Growth(
        quantity=quantity,
        exponent=exponent,
        coefficient=law.coefficient,
        exponent_width=law.exponent("width"),
        n_points=law.points.y.size,
        reference_tokens=float(2.0 ** law.slopes["tokens"]),
        reference_width=_power(law.slopes.get("width")),
        exponent_within=_within(law),
        bend=_bend(law),
        bootstrap=percentiles(exponent.value, draws),
        variable=variable,
    )


def _power(log2_value: float | None) -> float | None:
    return None if log2_value is None else float(2.0**log2_value)


def _within(law: PowerLaw) -> Estimate | None:
    """Exponent of T with fixed effects: a level for every width (and every batch that has one)."""
    if "width" not in law.slopes:
        return None
    _, group = np.unique(np.column_stack([law.levels, law.points.width]), axis=0, return_inverse=True)
    levels = (group.reshape(-1, 1) == np.unique(group)).astype(float)
    return _last(law, np.column_stack([levels, law.points.tokens]), "a level per width and batch")


def _bend(law: PowerLaw) -> Estimate | None:
    """Coefficient of (log2 T/T0)^2 beside the law's other terms."""
    if np.unique(law.points.tokens).size < FEWEST_BUDGETS:
        return None
    octaves = law.points.tokens - law.slopes["tokens"]
    return _last(law, np.column_stack([law.design, octaves**2]), "log2(T/T0)^2 added to the law")


def _last(law: PowerLaw, design: Array, method: str) -> Estimate | None:
    """The coefficient of the last column."""
    fit = fit_design(law.points, design)
    if fit is None:
        return None
    value, half = fit.contrast(np.eye(design.shape[1])[-1])
    return Estimate(value, value - half, value + half, "1", "ok", f"{law.method}; {method}")


def _from_all_budgets(points: Points, form: str, bootstrap: Bootstrap) -> list[Growth]:
    """B_crit of a form and, for the surge, eta_crit: the exponents of its fit to all budgets and widths."""
    fit = fit_law(points, form)
    if fit is None or "batch_crit_tokens_exponent" not in fit.names:
        return []
    counts = resample(points.lr.size, bootstrap.resamples, bootstrap.seed)
    draws = bootstrap_curve(fit.model, fit.best.theta, np.diag(points.covariance), counts)
    quantities = [(f"batch_crit:{DEFINITION_OF_FORM[form]}", "batch_crit", "batch_crit")]
    quantities += [("lr_crit", "lr_crit", "lr")] if form == "surge" else []
    return [
        Growth(
            quantity=quantity,
            exponent=fit.estimate(f"{stem}_tokens_exponent"),
            coefficient=_log2(fit.estimate(level)),
            exponent_width=fit.estimate(name) if (name := f"{stem}_width_exponent") in fit.names else None,
            n_points=points.lr.size,
            reference_tokens=float(2.0 ** fit.reference["log2_reference_tokens"]),
            reference_width=float(2.0 ** fit.reference["log2_reference_width"]),
            bootstrap=percentiles(
                float(fit.best.theta[at := fit.names.index(f"{stem}_tokens_exponent")]), draws[:, at]
            ),
        )
        for quantity, level, stem in quantities
    ]


def _log2(e: Estimate) -> Estimate:
    low, high = (None if end is None else float(np.log2(end)) for end in (e.low, e.high))
    return bounded(None if e.value is None else float(np.log2(e.value)), low, high, f"log2 {e.unit}", e.method)
