"""The noise of the losses, estimated once for a run table, and the intervals that follow from it.

With one seed a cell of five learning rates has only two degrees of freedom of its own; all cells together have dozens.
So the noise of one run's loss is pooled per budget from the residuals of the parabolas of all cells. The pooled
residual also contains what is not a parabola, which errs on the safe side. An offset that a seed gives to all learning
rates of a cell is fitted, not counted as noise.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.results import Estimate
from analysis.sweep import FittedSweep

Array = NDArray[np.floating]
MIN_DOF = 8  # fewer at one budget: take the noise of all budgets together


@dataclass(frozen=True)
class Noise:
    """What the cells say together about the errors of a run table.

    sigma: one run's loss, nats, by budget (empty if no cell has a degree of freedom to spare). dof: of all of them.
    correlation: of the noise at two budgets of the same (N, B, lr, seed), in [0, 0.95]; near 1 when one run is read
    out at several budgets. window_octaves: scatter of log2 eta* under +-1 point in the window, beyond the noise's.
    """

    sigma: dict[int, float]
    dof: int
    correlation: float
    window_octaves: float

    @property
    def quantile(self) -> float:
        """Student's 97.5 % quantile at `dof`; the normal one if the noise was not measured."""
        return float(special.stdtrit(self.dof, 0.975) if self.dof else special.ndtri(0.975))


def estimate_noise(fitted: Sequence[FittedSweep]) -> Noise:
    """From the parabolas of all cells that have one."""
    rows = pd.DataFrame(
        [
            (f.sweep.key[1], run, residual, f.fit.dof / f.fit.used.sum())
            for f in fitted
            if f.fit is not None
            for run, residual in zip(f.sweep.run[f.fit.used], f.fit.residual[f.fit.used], strict=True)
        ],
        columns=pd.Index(["tokens", "run", "residual", "dof"]),
    )
    dof = round(rows["dof"].sum())
    if dof == 0:
        return Noise({}, 0, 0.0, 0.0)
    overall = float(np.sqrt((rows["residual"] ** 2).sum() / dof))
    sigma = {}
    for tokens, group in rows.groupby("tokens"):
        own = group["dof"].sum()
        enough = own >= MIN_DOF
        sigma[int(str(tokens))] = float(np.sqrt((group["residual"] ** 2).sum() / own)) if enough else overall
    excess = [
        (p.vertex - f.fit.vertex) ** 2
        - (sigma[f.sweep.key[1]] * np.linalg.norm(p.vertex_weights - f.fit.vertex_weights)) ** 2
        for f in fitted
        if f.fit is not None
        for p in f.variants
    ]
    return Noise(sigma, dof, _correlation(rows), float(np.sqrt(max(np.mean(excess), 0.0))) if excess else 0.0)


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
