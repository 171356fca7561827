"""Steps against tokens at equal loss, S = Smin (1 + B_c/B): B_c of one or several models from where batches cross.

McCandlish et al. 2018 (1812.06162), eq. 2.7, in steps; Bergsma et al. 2025 (2505.13738) in tokens, as the law
D = Dmin (1 + B/B_c): with D = B S the same, so one fit serves both. Zhang et al. 2024 (2410.21676) read another batch
off it, and Li et al. 2024 (2405.14578) fit it as a line, 1/S = 1/Smin - B_c/E.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.fitting import CONFIDENCE, Minimum, Model, minimise, profile_interval, threshold, whitener
from analysis.forms import FORMS
from analysis.laws import MIN_BATCHES, REACH, SIGMA_FLOOR, starts
from analysis.results import Estimate, bounded

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
OVERHEAD = 0.2  # of Zhang et al.
REFERENCE_SEQS = 256  # the batch of Zhang et al. up to which they take tokens to target as constant


@dataclass(frozen=True)
class Crossings:
    """Where batches reach their target loss, arrays (n,): one Smin for each `level` (a width, a model), one B_c.

    `log2_tokens` are those at the target; where not `reached`, those of the longest run, which the truth exceeds.
    `error` is one standard error of them in octaves; None if nothing but the scatter about the law can tell.
    """

    level: Array
    log2_batch: Array
    log2_tokens: Array
    reached: Mask
    error: Array | None = None

    def select(self, keep: Mask) -> "Crossings":
        """Some of them, `keep` (n,)."""
        error = None if self.error is None else self.error[keep]
        return Crossings(self.level[keep], self.log2_batch[keep], self.log2_tokens[keep], self.reached[keep], error)


@dataclass(frozen=True)
class Hyperbola:
    """The fitted law. `used` (n,) marks the crossings that it was fitted to; `log2_min_steps` is by level."""

    batch_crit: Estimate
    log2_batch_crit: float  # the best fit also where it is only a bound, to draw it
    log2_min_steps: dict[float, float]
    used: Mask


def fit_hyperbola(crossings: Crossings, noise_dof: int = 0) -> Hyperbola | None:
    """The law by least squares in log2 S, with a 95 % profile interval of B_c.

    If the tokens to target rise towards small batches (`beyond_the_best`), where the law cannot hold (2601.05034), it
    is fitted to the batches from the cheapest up. None without three batches and a crossing to spare.
    """
    used = ~beyond_the_best(crossings, noise_dof)
    kept = crossings.select(used)
    fit = _fit(kept)
    if fit is None:
        return None
    model, best, dof = fit
    rise = threshold(best.chi2, dof, noise_dof)
    reach = _reach(kept.log2_batch)
    low, high = profile_interval(model, best, model.n_parameters - 1, reach, rise)
    at = float(np.clip(best.theta[-1], *reach))
    value, low, high = (None if v is None else float(2.0**v) for v in (at, low, high))
    shape = "E(B) not U-shaped, all batches" if used.all() else "E(B) U-shaped, only batches from the cheapest up"
    censored = int((~kept.reached).sum())
    shape += f", {censored} of them censored" if censored else ""
    levels = np.unique(kept.level)
    return Hyperbola(
        batch_crit=bounded(
            value, low, high, "tokens", f"S = Smin (1 + B_c/B), {used.sum()} crossings ({shape}), 95 % profile"
        ),
        log2_batch_crit=at,
        log2_min_steps={float(k): -float(v) for k, v in zip(levels, best.theta[: levels.size], strict=True)},
        used=used,
    )


def beyond_the_best(crossings: Crossings, noise_dof: int = 0) -> Mask:
    """(n,) the batches below the cheapest of their level, where E(B) is U-shaped; nowhere if it need not be.

    U-shaped: one of them needs more tokens than the cheapest by more than the noise allows at 95 %, for the number of
    batches it could have been (Bonferroni). Without errors the scatter about the law from the cheapest batch up is the
    noise; if that has no degree of freedom the curve is taken as it is.
    """
    smaller = np.zeros(crossings.level.size, bool)
    excess = np.zeros(crossings.level.size)
    cheapest = np.zeros(crossings.level.size, int)
    for level in np.unique(crossings.level):
        here = np.flatnonzero((crossings.level == level) & crossings.reached)
        if here.size == 0:
            continue
        best = here[np.argmin(crossings.log2_tokens[here])]
        below = here[crossings.log2_batch[here] < crossings.log2_batch[best]]
        smaller[below], cheapest[below] = True, best
        excess[below] = crossings.log2_tokens[below] - crossings.log2_tokens[best]
    if not smaller.any():
        return smaller
    error, dof = crossings.error, noise_dof
    if error is None:
        fit = _fit(crossings.select(~smaller))
        dof = fit[2] if fit else 0
        scatter = SIGMA_FLOOR * np.sqrt(fit[1].chi2 / dof) if fit and dof > 0 else 0.0
        error = np.full(smaller.size, scatter)
    sigma = np.maximum(np.hypot(error, error[cheapest]), SIGMA_FLOOR)
    level = 1 - (1 - CONFIDENCE) / 2 / smaller.sum()
    quantile = special.stdtrit(dof, level) if dof > 0 else special.ndtri(level)
    u_shaped = np.unique(crossings.level[smaller & (excess > quantile * sigma)])
    return smaller & np.isin(crossings.level, u_shaped)


def steps_law(batch: ArrayLike, steps: ArrayLike) -> tuple[float, float]:
    """(a, b) of steps = a + b / batch, least squares in log(steps); both arrays (n,).

    b / a is McCandlish's Emin / Smin in the units of `batch`. Source: Zhang et al. 2024 (2410.21676), their code.
    """
    log2_batch, log2_steps = np.log2(np.asarray(batch, float)), np.log2(np.asarray(steps, float))
    fit = _fit(Crossings(np.zeros(log2_batch.size), log2_batch, log2_batch + log2_steps, log2_batch > -np.inf))
    if fit is None:
        raise ValueError("steps = a + b / batch needs three batches")
    speed, batch_crit = 2.0 ** fit[1].theta
    return float(1 / speed), float(batch_crit / speed)


def overhead_batch(batch_crit: Estimate, reference: float, overhead: float = OVERHEAD) -> Estimate:
    """The batch that needs `overhead` more tokens to the same loss than linear scaling from `reference` (tokens).

    On S = a + b/B the tokens are a B + b, and those of linear scaling a B_ref + b, so that B = (1 + overhead) B_ref +
    overhead b / a: rising in B_c = b / a, whose interval or bound carries over. Source: Zhang et al. 2024, 20 %.
    """

    def at(end: float | None) -> float | None:
        return None if end is None else (1 + overhead) * reference + overhead * end

    value, low, high = (at(e) for e in (batch_crit.value, batch_crit.low, batch_crit.high))
    how = f"{1 + overhead:g} B_ref + {overhead:g} B_c of the hyperbola, B_ref = {reference:g} tokens"
    return Estimate(value, low, high, batch_crit.unit, batch_crit.status, how)


def inverse_regression(crossings: Crossings) -> Estimate | None:
    """B_noise: minus the slope of 1/S against 1/E, plain least squares, an intercept 1/Smin for each level.

    With the interval of a slope from its own scatter. The largest S weigh least and both sides carry the same errors,
    so it is the less certain sibling of `fit_hyperbola`; without noise they agree. Source: Li et al. 2024 (2405.14578).
    """
    c = crossings.select(crossings.reached & ~beyond_the_best(crossings))
    levels = np.unique(c.level)
    dof = c.level.size - levels.size - 1
    if np.unique(c.log2_batch).size < MIN_BATCHES or dof < 1:
        return None
    scale = 2.0 ** np.array([c.log2_tokens[c.level == level].min() for level in c.level])  # so that levels weigh alike
    inverse_tokens = scale / 2.0**c.log2_tokens
    inverse_steps = inverse_tokens * 2.0**c.log2_batch
    design = np.column_stack([-inverse_tokens, c.level[:, None] == levels])
    solve = np.linalg.pinv(design)
    coefficient = solve @ inverse_steps
    residual = inverse_steps - design @ coefficient
    half = special.stdtrit(dof, (1 + CONFIDENCE) / 2) * np.sqrt(residual @ residual / dof) * np.linalg.norm(solve[0])
    value, low, high = (float(coefficient[0] + sign * half) for sign in (0, -1, 1))
    method = f"slope of 1/S against 1/E, {c.level.size} crossings, least squares"
    return bounded(value, low if low > 0 else None, high if high > 0 else None, "tokens", method)


def _fit(crossings: Crossings) -> tuple[Model, Minimum, int] | None:
    """Model, minimum and degrees of freedom of 1/S = (1/Smin) / (1 + B_c/B), the linear saturation in B."""
    levels = np.unique(crossings.level)
    dof = int(crossings.reached.sum()) - levels.size - 1
    if np.unique(crossings.log2_batch[crossings.reached]).size < MIN_BATCHES or dof < 1:
        return None
    error = np.zeros(crossings.level.size) if crossings.error is None else crossings.error
    model = Model(
        form=FORMS["linear_saturation"],
        log2_batch=crossings.log2_batch,
        y=crossings.log2_batch - crossings.log2_tokens,
        whiten=whitener(np.maximum(error, SIGMA_FLOOR) ** 2),
        linear=(crossings.level[:, None] == levels).astype(float),
        critical=np.ones((crossings.level.size, 1)),
        at_most=None if crossings.reached.all() else ~crossings.reached,
    )
    return model, minimise(model, starts(model, _reach(crossings.log2_batch))), dof


def _reach(log2_batch: Array) -> tuple[float, float]:
    return float(log2_batch.min()) - REACH, float(log2_batch.max()) + REACH
