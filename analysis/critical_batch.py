"""B_crit by every definition that a run table allows, in one list: the name of the definition goes with the number.

From eta*(B): the B_c of a form, per budget, and of the surge over all budgets at once. From the loss: the hyperbola of
steps against tokens at equal loss, and Zhang's batch of 20 % overhead.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.fitting import Model, minimise, profile_interval, threshold, whitener
from analysis.forms import FORMS
from analysis.laws import MIN_BATCHES, REACH, SIGMA_FLOOR, Points, fit_law, starts
from analysis.noise import Noise, standard_error
from analysis.results import Cell, CriticalBatch, Estimate, LrLaw, bounded

Array = NDArray[np.floating]
DEFINITION_OF_FORM = {
    "surge": "time_transfer_surge",
    "sqrt_saturation": "sqrt_saturation",
    "linear_saturation": "linear_saturation",
}


def critical_batches(
    points: Points, laws: Iterable[LrLaw], cells: Iterable[Cell], noise: Noise
) -> tuple[CriticalBatch, ...]:
    """All definitions at all budgets.

    `time_transfer_surge`, `sqrt_saturation`, `linear_saturation`: from the fit of one budget. `..._all_budgets`: the
    surge fitted to all budgets and widths together and read at T, which borrows strength across T. `hyperbola`: at the
    loss that the best batch reaches at T.
    """
    per_budget = [
        CriticalBatch(DEFINITION_OF_FORM[law.form], law.tokens, law.parameters["batch_crit"])
        for law in laws
        if law.tokens is not None and law.form in DEFINITION_OF_FORM
    ]
    budgets = [round(2.0**t) for t in np.unique(points.tokens)]
    together = [
        CriticalBatch("time_transfer_surge_all_budgets", tokens, fit.estimate("batch_crit"))
        for tokens in (budgets if len(budgets) > 1 else [])
        if (fit := fit_law(points, "surge", reference_tokens=tokens)) is not None
    ]
    return (*per_budget, *together, *hyperbolas(cells, noise))


def steps_law(batch: ArrayLike, steps: ArrayLike) -> tuple[float, float]:
    """(a, b) of steps = a + b / batch, least squares in log(steps); both arrays (n,).

    b / a is McCandlish's Emin / Smin in the units of `batch`. Source: Zhang et al. 2024 (2410.21676), their code.
    """
    log2_batch, y = np.log2(np.asarray(batch, float)), -np.log2(np.asarray(steps, float))
    ones = np.ones((y.size, 1))
    model = Model(FORMS["linear_saturation"], log2_batch, y, np.eye(y.size), ones, ones)
    speed, batch_crit = 2.0 ** minimise(model, starts(model, _reach(log2_batch))).theta
    return float(1 / speed), float(batch_crit / speed)


def overhead_batch(batch: ArrayLike, steps: ArrayLike, reference_batch: float, overhead: float = 0.2) -> float:
    """The batch that needs `overhead` more tokens than `reference_batch` to the same loss, in the units of `batch`.

    With steps = a + b / B the tokens are a B + b, hence B = (1 + overhead) B_ref + overhead b / a.
    Source: Zhang et al. 2024, B_ref = 256 sequences, 20 %.
    """
    a, b = steps_law(batch, steps)
    return (1 + overhead) * reference_batch + overhead * b / a


def hyperbolas(cells: Iterable[Cell], noise: Noise) -> list[CriticalBatch]:
    """B_c of S = Smin (1 + B_c / B) at equal loss, one per budget T (every T but the last can be overtaken).

    At each width the target is the lowest tuned loss of any batch at T; every batch's loss, interpolated as a power law
    of tokens between its budgets, says when it gets there. Smin is the width's own, B_c is common. Batches smaller than
    the one that needs the fewest tokens are left out: below it the curve is not a hyperbola (2601.05034).
    Source: McCandlish et al. 2018, eq. 2.7; Bergsma et al. 2025 in tokens.
    """
    tuned = [c for c in cells if c.state == "interior" and c.loss.value is not None and c.loss.value > 0]
    found = []
    for tokens in sorted({c.tokens for c in tuned})[:-1]:
        crossings = [
            row for width in sorted({c.width for c in tuned}) for row in _crossings(tuned, width, tokens, noise)
        ]
        rows = np.array(crossings, float).reshape(-1, 4)
        n_levels = np.unique(rows[:, 0]).size
        if np.unique(rows[:, 1]).size >= MIN_BATCHES and rows.shape[0] > n_levels + 1:
            found.append(CriticalBatch("hyperbola", tokens, _hyperbola(*rows.T, noise_dof=noise.dof)))
    return found


def _crossings(tuned: list[Cell], width: int, tokens: int, noise: Noise) -> list[tuple[float, float, float, float]]:
    """(width, log2 batch, log2 tokens at the target, its error) for every batch that reaches the target of `tokens`."""
    here = [c for c in tuned if c.width == width]
    at_tokens = [c.loss.value for c in here if c.tokens == tokens and c.loss.value is not None]
    if not at_tokens:
        return []
    target = np.log2(min(at_tokens))
    rows = []
    for batch in sorted({c.batch_tokens for c in here}):
        path = sorted((c for c in here if c.batch_tokens == batch), key=lambda c: c.tokens)
        x = np.log2([c.tokens for c in path])
        y = np.log2([c.loss.value or np.nan for c in path])
        error = np.array(
            [(standard_error(c.loss, noise) or 0.0) / ((c.loss.value or np.nan) * np.log(2)) for c in path]
        )
        reached = np.flatnonzero(y <= target)
        if len(path) < 2 or reached.size == 0 or (reached[0] == 0 and y[0] < target):
            continue
        i = max(int(reached[0]), 1)
        slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
        if slope < 0:
            crossing = x[i] + (target - y[i]) / slope
            rows.append(
                (float(width), float(np.log2(batch)), float(crossing), float(max(error[i - 1 : i + 1]) / -slope))
            )
    cheapest = min(rows, key=lambda row: row[2], default=None)
    return [row for row in rows if cheapest is not None and row[1] >= cheapest[1]]


def _hyperbola(width: Array, log2_batch: Array, log2_tokens: Array, error: Array, *, noise_dof: int) -> Estimate:
    """1/S against B is the linear saturation, with one Smin per width."""
    model = Model(
        form=FORMS["linear_saturation"],
        log2_batch=log2_batch,
        y=log2_batch - log2_tokens,
        whiten=whitener(np.maximum(error, SIGMA_FLOOR) ** 2),
        linear=(width[:, None] == np.unique(width)).astype(float),
        critical=np.ones((width.size, 1)),
    )
    reach = _reach(log2_batch)
    best = minimise(model, starts(model, reach))
    rise = threshold(best.chi2, width.size - model.n_parameters, noise_dof)
    low, high = profile_interval(model, best, model.n_parameters - 1, reach, rise)
    value, low, high = (None if v is None else float(2.0**v) for v in (best.theta[-1], low, high))
    return bounded(
        value, low, high, "tokens", f"S = Smin (1 + B_c/B) at equal loss, {width.size} crossings, 95 % profile"
    )


def _reach(log2_batch: Array) -> tuple[float, float]:
    return float(log2_batch.min()) - REACH, float(log2_batch.max()) + REACH
