"""Does the width matter once the budget is fixed? If all follows T alone, as under mup, the widths' curves are one.

For quantities of single cells and budgets: all points at the same (T, B) share a level, and the test asks whether
widths differ from that in common, by an F test of one shift per width (W - 1 of them). For B_crit: the same question to
the surge's fit over all budgets, by the likelihood ratio of its exponent of N. A large p says that no difference was
seen above the errors; how large one could have been is the interval of the exponent.
"""

from collections.abc import Sequence

import numpy as np

from analysis.fitting import minimise, p_value
from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.power_law import LawPoint, LogPoints, fit_design, fit_power_law, log_points, log_points_of
from analysis.results import BestBatch, Cell, Collapse, Estimate


def collapse(points: Points, cells: Sequence[Cell], best: Sequence[BestBatch], noise: Noise) -> tuple[Collapse, ...]:
    """Every test that the table allows; none with one width."""
    curvature = [LawPoint(c.tokens, c.width, c.batch_tokens, c.curvature) for c in cells if c.state == "interior"]
    law = fit_power_law(curvature, noise, absolute=True)
    stars = [LawPoint(b.tokens, b.width, 0, b.batch) for b in best if b.width is not None]
    tests = (
        _shifts("lr", log_points_of(points)),
        _shifts("batch_best", log_points(stars, noise)),
        _batch_crit(points),
        _shifts("curvature", log_points(curvature, noise) if law is None else law.points),
    )
    return tuple(test for test in tests if test is not None)


def _shifts(quantity: str, log: LogPoints) -> Collapse | None:
    widths = np.unique(log.width)
    if widths.size < 2:
        return None
    _, group = np.unique(np.column_stack([log.tokens, log.batch]), axis=0, return_inverse=True)
    levels = (group.reshape(-1, 1) == np.unique(group)).astype(float)
    shifts = (log.width[:, None] == widths[1:]).astype(float)
    together = fit_design(log, levels)
    apart = fit_design(log, np.hstack([levels, shifts]))
    sloped = fit_design(log, np.column_stack([levels, log.width]))
    if together is None or apart is None or sloped is None:
        return None
    value, half = sloped.contrast(np.eye(levels.shape[1] + 1)[-1])
    exponent = Estimate(value, value - half, value + half, "1", "ok", "weighted least squares, a level per (T, B)")
    p = p_value(together.chi2 - apart.chi2, widths.size - 1, apart.chi2, apart.dof, log.noise_dof)
    return Collapse(quantity, p, exponent, log.y.size, widths.size)


def _batch_crit(points: Points) -> Collapse | None:
    fit = fit_law(points, "surge")
    name = "batch_crit_width_exponent"
    if fit is None or name not in fit.names or points.noise_dof == 0:
        return None
    without = minimise(fit.model, [fit.best.theta], (fit.names.index(name), 0.0))
    dof = points.lr.size - fit.model.n_parameters
    p = p_value(without.chi2 - fit.best.chi2, 1, fit.best.chi2, dof, points.noise_dof)
    widths = np.unique(points.width).size
    return Collapse("batch_crit:time_transfer_surge", p, fit.estimate(name), points.lr.size, widths)
