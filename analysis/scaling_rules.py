"""How the tuned learning rate follows the batch: is it the square-root rule, the linear rule, or neither?

Named hypotheses, as the slope of log eta* on log B at fixed T and N: `sqrt` 1/2 (Adam while noise dominates: Malladi et
al. 2022, Li et al. 2024), `linear` 1 (SGD: Goyal et al. 2017). Both speak of batches below some scale, so the slope is
taken apart for batches below and above B*.
"""

from collections.abc import Iterable

import numpy as np

from analysis.laws import Points
from analysis.power_law import fit_design, log_points_of
from analysis.results import BestBatch, Estimate, RuleVerdict, ScalingRule, Side

HYPOTHESES: dict[RuleVerdict, float] = {"sqrt": 0.5, "linear": 1.0}
RANK = ("ok", "upper_bound", "lower_bound")  # what says more about B* goes first


def scaling_rules(points: Points, best: Iterable[BestBatch]) -> tuple[ScalingRule, ...]:
    """Slope and verdict below and above B*, at every budget and, with several, over all (tokens None).

    A batch inside the 95 % interval of B* is on neither side. Where B* is only bounded, batches beyond the bound still
    have a side. Each (N, T) has a level of its own; the slope is common. A slope that changes along a side is no power
    law there: the misfit widens its interval.
    """
    sides: dict[Side, np.ndarray] = dict(zip(("below", "above"), _sides(points, best), strict=True))
    budgets = np.unique(points.tokens)
    groups = [(round(2.0**t), points.tokens == t) for t in budgets]
    groups += [(None, np.ones(points.lr.size, bool))] if budgets.size > 1 else []
    return tuple(
        _rule(points.select(keep & on_side), side, tokens) for tokens, keep in groups for side, on_side in sides.items()
    )


def verdict_of(slope: Estimate) -> RuleVerdict:
    """The hypothesis that the interval holds; none of it: `neither`; several, or also a slope of 0: `cannot tell`."""
    if slope.low is None or slope.high is None:
        return "cannot tell"
    held: list[RuleVerdict] = [name for name, value in HYPOTHESES.items() if slope.low <= value <= slope.high]
    if not held:
        return "neither"
    return "cannot tell" if len(held) > 1 or slope.low <= 0 else held[0]


def _sides(points: Points, best: Iterable[BestBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Which points (n,) lie below and above B*: the width's own, else that of all widths together."""
    found = {(b.width, b.tokens): b.batch for b in best}
    below, above = np.zeros(points.lr.size, bool), np.zeros(points.lr.size, bool)
    for i, (width, tokens, batch) in enumerate(zip(points.width, points.tokens, points.batch, strict=True)):
        t = round(2.0**tokens)
        known = [b for b in (found.get((round(2.0**width), t)), found.get((None, t))) if b and b.status in RANK]
        if known:
            star = min(known, key=lambda b: RANK.index(b.status))
            below[i] = star.low is not None and 2.0**batch <= star.low * (1 + 1e-9)
            above[i] = star.high is not None and 2.0**batch >= star.high * (1 - 1e-9)
    return below, above


def _rule(points: Points, side: Side, tokens: int | None) -> ScalingRule:
    slope = _slope(points)
    return ScalingRule(side, tokens, slope, verdict_of(slope), points.lr.size)


def _slope(points: Points) -> Estimate:
    """Common slope of log2 eta* on log2 B with a level per (N, T), by generalised least squares."""
    method = "weighted least squares of log2 lr* on log2 B, a level per (N, T)"
    _, group = np.unique(np.column_stack([points.width, points.tokens]), axis=0, return_inverse=True)
    levels = (group.reshape(-1, 1) == np.unique(group)).astype(float)
    design = np.column_stack([levels, points.batch])
    if points.lr.size < design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return Estimate(None, None, None, "1", "not_identified", "fewer than two tuned batches on this side of B*")
    law = fit_design(log_points_of(points), design)
    if law is None:
        return Estimate(None, None, None, "1", "not_identified", "the noise of lr* is not known and cannot be seen")
    value, half = law.contrast(np.eye(design.shape[1])[-1])
    return Estimate(value, value - half, value + half, "1", "ok", method)
