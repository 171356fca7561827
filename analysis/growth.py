"""How things grow with the token budget: quantity = 2^level * (T/T0)^exponent * (N/N0)^exponent_width, in log2.

Headline for B_crit and eta_crit: the exponents of the fit over all budgets and widths (`analysis.laws`), by profile
likelihood, in which bounds of single budgets take part with what they do say. Everything else: generalised least
squares on the points that have a value; a bound or an edge has no point and is left out. There, but for eta* at fixed
B, budgets count as independent; runs read out at several budgets make the true errors of exponents smaller, not larger.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.critical_batch import DEFINITION_OF_FORM
from analysis.fitting import linear_law, whitener
from analysis.laws import SIGMA_FLOOR, Points, fit_law
from analysis.noise import Noise
from analysis.results import BestBatch, Cell, CriticalBatch, Estimate, Growth, bounded

Array = NDArray[np.floating]
FROM_FORMS = {*DEFINITION_OF_FORM.values(), "time_transfer_surge_all_budgets"}


@dataclass(frozen=True)
class _Point:
    """One estimate to be put on a growth law. `batch` is 0 where it has none."""

    tokens: int
    width: int
    batch: int
    value: Estimate


def growth_laws(
    points: Points,
    cells: Sequence[Cell],
    critical: Iterable[CriticalBatch],
    best: Iterable[BestBatch],
    noise: Noise,
) -> tuple[Growth, ...]:
    """All growth laws that the table allows; none without at least two budgets.

    `batch_crit:*` and `lr_crit` from the fit over all budgets; `batch_crit_per_budget:time_transfer_surge` and the
    `batch_crit:*` of definitions that are no form of eta*(B) from the values at single budgets; `batch_best` and
    `lr_best` (eta* at B*), `lr_at_batch:B`, and at fixed B, with a level of its own for every B, `curvature` and
    `sensitivity:*`.
    """
    critical = list(critical)
    best = [b for b in best if b.width is not None]

    surge = [_Point(c.tokens, 0, 0, c.batch) for c in critical if c.definition == "time_transfer_surge"]
    others = [c for c in critical if c.definition not in FROM_FORMS]
    interior = [c for c in cells if c.state == "interior"]
    laws = [
        *_from_all_budgets(points),
        _law("batch_crit_per_budget:time_transfer_surge", surge, noise),
        *(
            _law(f"batch_crit:{name}", [_Point(c.tokens, 0, 0, c.batch) for c in others if c.definition == name], noise)
            for name in dict.fromkeys(c.definition for c in others)
        ),
        _law("batch_best", [_Point(b.tokens, b.width or 0, 0, b.batch) for b in best], noise),
        _law("lr_best", [_Point(b.tokens, b.width or 0, 0, b.lr) for b in best], noise),
        *(_lr_at_batch(batch, points, cells, noise) for batch in sorted({c.batch_tokens for c in cells})),
        _law("curvature", [_Point(c.tokens, c.width, c.batch_tokens, c.curvature) for c in interior], noise),
        *(
            _law(
                f"sensitivity:{name}",
                [_Point(c.tokens, c.width, c.batch_tokens, c.sensitivity[name]) for c in interior],
                noise,
            )
            for name in ("wortsman", "window1", "window2")
        ),
    ]
    return tuple(law for law in laws if law is not None)


def _lr_at_batch(batch: int, points: Points, cells: Sequence[Cell], noise: Noise) -> Growth | None:
    here = [_Point(c.tokens, c.width, batch, c.lr) for c in cells if c.batch_tokens == batch]
    return _law(f"lr_at_batch:{batch}", here, noise, points.select(points.batch == np.log2(batch)).covariance)


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
            )
            for quantity, level, stem in quantities
        ]
    return laws


def _log2(e: Estimate) -> Estimate:
    low, high = (None if end is None else float(np.log2(end)) for end in (e.low, e.high))
    return bounded(None if e.value is None else float(np.log2(e.value)), low, high, f"log2 {e.unit}", e.method)


def _law(quantity: str, points: list[_Point], noise: Noise, covariance: Array | None = None) -> Growth | None:
    """Generalised least squares in log2; None unless the points with a value span two budgets."""
    rows = [(p, *_log2_point(p.value, noise)) for p in points if (p.value.value or 0) > 0 and (p.value.low or 1) > 0]
    tokens = np.array([np.log2(p.tokens) for p, _, _ in rows])
    if not rows or np.ptp(tokens) == 0:
        return None
    width = np.array([p.width for p, _, _ in rows])
    batch = np.array([p.batch for p, _, _ in rows])
    y, sigma = np.array([v for _, v, _ in rows]), np.array([s for _, _, s in rows])
    t0 = float(np.mean(np.unique(tokens)))
    levels = (batch[:, None] == np.unique(batch)).astype(float)
    columns = [levels, tokens[:, None] - t0]
    several_widths = np.unique(width).size > 1
    if several_widths:
        log2_width = np.log2(width)
        columns.append(log2_width[:, None] - np.mean(np.unique(log2_width)))
    design = np.hstack(columns)
    if y.size < design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return None

    if noise.dof == 0:  # errors unknown: only the scatter about the law can measure them
        if y.size == design.shape[1]:
            return None
        sigma, covariance = np.full(y.size, SIGMA_FLOOR), None
    law = linear_law(design, y, whitener(sigma**2 if covariance is None else covariance), noise.dof)
    left_out = len(points) - len(rows)
    method = "weighted least squares in log2" + (", a level per batch" if levels.shape[1] > 1 else "")
    method += f"; {left_out} of {len(points)} points without a value left out" if left_out else ""
    identity = np.eye(design.shape[1])
    level = np.where(np.arange(design.shape[1]) < levels.shape[1], 1.0 / levels.shape[1], 0.0)
    return Growth(
        quantity=quantity,
        exponent=_estimate(law.contrast(identity[levels.shape[1]]), "1", method),
        coefficient=_estimate(law.contrast(level), f"log2 {points[0].value.unit}", method),
        exponent_width=_estimate(law.contrast(identity[-1]), "1", method) if several_widths else None,
        n_points=y.size,
        reference_tokens=float(2.0**t0),
    )


def _log2_point(e: Estimate, noise: Noise) -> tuple[float, float]:
    """log2 of an estimate and its standard error in octaves; the smallest error where it has no interval."""
    if e.value is None or e.low is None or e.high is None:
        return float(np.log2(e.value or np.nan)), SIGMA_FLOOR
    return float(np.log2(e.value)), max(float(np.log2(e.high / e.low)) / 2 / noise.quantile, SIGMA_FLOOR)


def _estimate(value_and_half: tuple[float, float], unit: str, method: str) -> Estimate:
    value, half = value_and_half
    return Estimate(value, value - half, value + half, unit, "ok", method)
