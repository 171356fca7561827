"""The noise of the losses, estimated once for a run table, and the intervals that follow from it.

With one seed a cell of five learning rates has only two degrees of freedom of its own; all cells together have dozens.
So the noise of one run's loss is pooled per budget from the residuals of the parabolas of all cells. A batch whose
cells lie off their parabolas by far more than the others (few steps, a steep side) keeps its own, larger noise and
stays out of the pool. What is left of misfit in the pool errs on the safe side. An offset that a seed gives to all
learning rates of a cell is fitted, not counted as noise.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.results import Estimate
from analysis.sweep import FittedSweep

Array = NDArray[np.floating]
MISFIT_LEVEL = 0.01  # of an F test of one batch's residuals against the others', over all batches of a budget
MIN_DOF = 8  # fewer at one budget: take the noise of all budgets together


class Residuals(NamedTuple):
    """Of some parabolas together."""

    dof: int
    rss: float  # sum of squares, nats^2


@dataclass(frozen=True)
class Noise:
    """What the cells say together about the errors of a run table.

    sigma: one run's loss, nats, by budget (empty if no cell has a degree of freedom to spare). misfit: the same for
    pairs of budget and batch whose cells are far off their parabolas. dof: of all of them.
    correlation: of the noise at two budgets of the same (N, B, lr, seed), in [0, 0.95]; near 1 when one run is read
    out at several budgets. window_octaves: scatter of log2 eta* under +-1 point in the window, beyond the noise's.
    """

    sigma: dict[int, float]
    misfit: dict[tuple[int, int], float]
    dof: int
    correlation: float
    window_octaves: float

    def of(self, tokens: int, batch: int) -> float | None:
        """Noise of one run's loss in the cells of a budget and batch, nats; None if it was not measurable."""
        return self.misfit.get((tokens, batch), self.sigma.get(tokens))

    @property
    def quantile(self) -> float:
        """Student's 97.5 % quantile at `dof`; the normal one if the noise was not measured."""
        return float(special.stdtrit(self.dof, 0.975) if self.dof else special.ndtri(0.975))


def estimate_noise(fitted: Sequence[FittedSweep]) -> Noise:
    """From the parabolas of all cells that have one."""
    parabolas = [(*f.sweep.key, f.sweep.run[f.fit.used], f.fit) for f in fitted if f.fit is not None]
    groups: dict[tuple[int, int], Residuals] = {}
    for _, tokens, batch, _, fit in parabolas:
        dof, rss = groups.get((tokens, batch), Residuals(0, 0.0))
        groups[tokens, batch] = Residuals(dof + fit.dof, rss + float(fit.residual @ fit.residual))
    total = sum(dof for dof, _ in groups.values())
    if total == 0:
        return Noise({}, {}, 0, 0.0, 0.0)
    budgets = sorted({tokens for tokens, _ in groups})
    misfit = {key for tokens in budgets for key in _misfits({k: g for k, g in groups.items() if k[0] == tokens})}
    pools = {tokens: [g for k, g in groups.items() if k[0] == tokens and k not in misfit] for tokens in budgets}
    overall = _root_mean(itertools.chain(*pools.values()))
    sigma = {
        tokens: _root_mean(pool) if sum(dof for dof, _ in pool) >= MIN_DOF else overall
        for tokens, pool in pools.items()
    }
    noise = Noise(sigma, {key: _root_mean([groups[key]]) for key in misfit}, total, 0.0, 0.0)
    excess = [
        (p.vertex - f.fit.vertex) ** 2
        - ((noise.of(*f.sweep.key[1:]) or 0.0) * np.linalg.norm(p.vertex_weights - f.fit.vertex_weights)) ** 2
        for f in fitted
        if f.fit is not None
        for p in f.variants
    ]
    rows = pd.DataFrame(
        [
            (tokens, run, residual)
            for _, tokens, _, runs, fit in parabolas
            for run, residual in zip(runs, fit.residual[fit.used], strict=True)
        ],
        columns=pd.Index(["tokens", "run", "residual"]),
    )
    scatter = float(np.sqrt(max(np.mean(excess), 0.0))) if excess else 0.0
    return replace(noise, correlation=_correlation(rows), window_octaves=scatter)


def _root_mean(residuals: Iterable[Residuals]) -> float:
    """Root of the summed squares over the summed degrees of freedom."""
    dof, rss = (sum(column) for column in zip((0, 0.0), *residuals, strict=True))
    return float(np.sqrt(rss / dof)) if dof else 0.0


def _misfits(groups: dict[tuple[int, int], Residuals]) -> list[tuple[int, int]]:
    """The batches of one budget that are off their parabolas, found one by one, the worst first.

    Each is tested against all others left (F test, MISFIT_LEVEL shared among the batches); MIN_DOF must stay.
    """
    left = {key: group for key, group in groups.items() if group.dof}
    level, found = MISFIT_LEVEL / max(1, len(left)), []
    while len(left) > 1:
        worst = max(left, key=lambda key: left[key].rss / left[key].dof)
        others = [group for key, group in left.items() if key != worst]
        dof = sum(group.dof for group in others)
        limit = special.fdtri(left[worst].dof, dof, 1 - level) * _root_mean(others) ** 2
        if dof < MIN_DOF or left[worst].rss / left[worst].dof <= limit:
            break
        found.append(worst)
        del left[worst]
    return found


def _correlation(rows: pd.DataFrame) -> float:
    """Correlation of the residuals of the same run at two budgets, over all pairs of budgets, kept in [0, 0.95]."""
    wide = rows.pivot(index="run", columns="tokens", values="residual").to_numpy()
    products = norms = 0.0
    for i, j in itertools.combinations(range(wide.shape[1]), 2):
        both = np.isfinite(wide[:, i]) & np.isfinite(wide[:, j])
        products += wide[both, i] @ wide[both, j]
        norms += np.linalg.norm(wide[both, i]) * np.linalg.norm(wide[both, j])
    return float(np.clip(products / norms, 0.0, 0.95)) if norms > 0 else 0.0


def linear_estimate(
    value: float, weights: Array, sigma: Array | float | None, quantile: float, unit: str, method: str
) -> Estimate:
    """Interval of a quantity that is linear in losses with noise `sigma`; without `sigma` it has no interval."""
    if sigma is None:
        return Estimate(float(value), None, None, unit, "ok", f"{method}; noise not measurable")
    half = quantile * float(np.linalg.norm(weights * sigma))
    return Estimate(float(value), float(value - half), float(value + half), unit, "ok", method)


def standard_error(estimate: Estimate, noise: Noise) -> float | None:
    """One standard error of an estimate whose interval came from `noise`; None without a two-sided interval."""
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2 / noise.quantile
