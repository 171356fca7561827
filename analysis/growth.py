"""How things grow with the token budget: quantity = 2^level * (T/T0)^exponent * (N/N0)^exponent_width, in log2.

Headline for B_crit and eta_crit: the exponents of the fit over all budgets and widths (`analysis.laws`), by profile
likelihood, in which bounds of single budgets take part with what they do say. Everything else: generalised least
squares on the points that have a value; a bound or an edge has no point and is left out. There, but for eta* at fixed
B, budgets count as independent; runs read out at several budgets make the true errors of exponents smaller, not larger.
"""

from collections.abc import Sequence

import numpy as np

from analysis.critical_batch import DEFINITION_OF_FORM
from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.power_law import LawPoint, PowerLaw, fit_power_law
from analysis.results import BestBatch, Cell, CriticalBatch, Estimate, Growth, bounded

MEASURES = ("wortsman", "window1", "window2")


def growth_laws(
    points: Points,
    cells: Sequence[Cell],
    critical: Sequence[CriticalBatch],
    best: Sequence[BestBatch],
    noise: Noise,
) -> tuple[Growth, ...]:
    """All growth laws that the table allows; none without at least two budgets.

    `batch_crit:*` of the forms of eta*(B) and `lr_crit` from the fit over all budgets; `batch_crit_per_budget:*` of the
    same forms and `batch_crit:*` of other definitions from the values at single budgets; `batch_best` and `lr_best`
    (eta* at B*), `lr_at_batch:B`, and at fixed B, with a level of its own for every B, `curvature` and `sensitivity:*`.
    """
    laws = power_laws(points, cells, critical, best, noise)
    return (*_from_all_budgets(points), *(_growth(quantity, law) for quantity, law in laws.items()))


def power_laws(
    points: Points,
    cells: Sequence[Cell],
    critical: Sequence[CriticalBatch],
    best: Sequence[BestBatch],
    noise: Noise,
) -> dict[str, PowerLaw]:
    """By quantity, the laws that are lines through estimates (`analysis.power_law`)."""
    per_budget = {
        _name(definition): [LawPoint(c.tokens, 0, 0, c.batch) for c in critical if c.definition == definition]
        for definition in dict.fromkeys(c.definition for c in critical)
        if definition != "time_transfer_surge_all_budgets"
    }
    own = [b for b in best if b.width is not None]
    interior = [c for c in cells if c.state == "interior"]
    named = {
        **per_budget,
        "batch_best": [LawPoint(b.tokens, b.width or 0, 0, b.batch) for b in own],
        "lr_best": [LawPoint(b.tokens, b.width or 0, 0, b.lr) for b in own],
        "curvature": [LawPoint(c.tokens, c.width, c.batch_tokens, c.curvature) for c in interior],
        **{
            f"sensitivity:{name}": [LawPoint(c.tokens, c.width, c.batch_tokens, c.sensitivity[name]) for c in interior]
            for name in MEASURES
        },
    }
    fits = {quantity: fit_power_law(law_points, noise) for quantity, law_points in named.items()}
    for batch in sorted({c.batch_tokens for c in cells}):
        here = [LawPoint(c.tokens, c.width, batch, c.lr) for c in cells if c.batch_tokens == batch]
        covariance = points.select(points.batch == np.log2(batch)).covariance
        fits[f"lr_at_batch:{batch}"] = fit_power_law(here, noise, covariance)
    return {quantity: fit for quantity, fit in fits.items() if fit is not None}


def _name(definition: str) -> str:
    kind = "batch_crit_per_budget" if definition in DEFINITION_OF_FORM.values() else "batch_crit"
    return f"{kind}:{definition}"


def _growth(quantity: str, law: PowerLaw) -> Growth:
    return Growth(
        quantity=quantity,
        exponent=law.exponent,
        coefficient=law.coefficient,
        exponent_width=law.exponent_width,
        n_points=law.n_points,
        reference_tokens=float(2.0**law.log2_t0),
        reference_width=float(2.0**law.log2_n0) if law.several_widths else None,
    )


def _from_all_budgets(points: Points) -> list[Growth]:
    laws = []
    for form, definition in DEFINITION_OF_FORM.items():
        fit = fit_law(points, form)
        if fit is None or "batch_crit_tokens_exponent" not in fit.names:
            continue
        quantities = [(f"batch_crit:{definition}", "batch_crit", "batch_crit")]
        if form == "surge":
            quantities.append(("lr_crit", "lr_crit", "lr"))
        laws += [
            Growth(
                quantity=quantity,
                exponent=fit.estimate(f"{stem}_tokens_exponent"),
                coefficient=_log2(fit.estimate(level)),
                exponent_width=fit.estimate(f"{stem}_width_exponent")
                if f"{stem}_width_exponent" in fit.names
                else None,
                n_points=points.lr.size,
                reference_tokens=float(2.0 ** fit.reference["log2_reference_tokens"]),
                reference_width=float(2.0 ** fit.reference["log2_reference_width"]),
            )
            for quantity, level, stem in quantities
        ]
    return laws


def _log2(e: Estimate) -> Estimate:
    low, high = (None if end is None else float(np.log2(end)) for end in (e.low, e.high))
    return bounded(None if e.value is None else float(np.log2(e.value)), low, high, f"log2 {e.unit}", e.method)
