"""B_crit by every definition that a run table allows, in one list: the name of the definition goes with the number.

From eta*(B): B_c of a form, per budget, and of the surge over all budgets at once. From the loss at eta*, at the target
losses of `analysis.crossings`: the laws of `analysis.hyperbola`. From branches: `analysis.branched`. And the gradient
noise scale and the noise batch of one step, where columns hold them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from scipy import special

from analysis.branched import branched_batches
from analysis.crossings import crossings_at, targets
from analysis.fitting import CONFIDENCE
from analysis.hyperbola import REFERENCE_SEQS, Crossings, Hyperbola, fit_hyperbola, inverse_regression, overhead_batch
from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.results import Cell, CriticalBatch, Estimate, LrLaw, LrLawVerdict

DEFINITION_OF_FORM = {
    "surge": "time_transfer_surge",
    "sqrt_saturation": "sqrt_saturation",
    "linear_saturation": "linear_saturation",
}
MEASURED_IN_RUNS = ("noise_scale", "step_noise")  # columns of the table, each a definition of its own
REFERENCES = ("hyperbola", "time_transfer_surge")  # what the other definitions are compared with, the first there is


def critical_batches(
    points: Points,
    laws: Iterable[LrLaw],
    verdicts: Iterable[LrLawVerdict],
    cells: Sequence[Cell],
    noise: Noise,
    table: pd.DataFrame,
) -> tuple[CriticalBatch, ...]:
    """All definitions at all budgets.

    `time_transfer_surge`, `sqrt_saturation`, `linear_saturation`: from the fit of one budget. `..._all_budgets`: the
    surge fitted to all budgets and widths together and read at T, which borrows strength across T. At the loss that the
    best batch reaches at T: `hyperbola`, `surge_noise`, `overhead20`, `power_lines`. `branched`: at the tokens where
    branches leave. `noise_scale`, `step_noise`: from columns of these names. `table` (checked) is where batches,
    branches and these columns are read off, and the context length `seq_len` that gives Zhang's reference batch.
    """
    preferred = {verdict.tokens: verdict.candidates for verdict in verdicts}

    def behind(form: str, tokens: int | None) -> str:
        rivals = preferred.get(tokens, ())
        return f"AICc prefers another form ({', '.join(rivals)})" if rivals and form not in rivals else ""

    per_budget = [
        CriticalBatch(
            DEFINITION_OF_FORM[law.form],
            law.tokens,
            law.parameters["batch_crit"],
            note=behind(law.form, law.tokens),
        )
        for law in laws
        if law.tokens is not None and law.form in DEFINITION_OF_FORM
    ]
    budgets = [round(2.0**t) for t in np.unique(points.tokens)]
    together = [
        CriticalBatch("time_transfer_surge_all_budgets", tokens, fit.estimate("batch_crit"), note=behind("surge", None))
        for tokens in (budgets if len(budgets) > 1 else [])
        if (fit := fit_law(points, "surge", reference_tokens=tokens)) is not None
    ]
    return with_factors([*per_budget, *together, *without_form(cells, noise, table)])


def without_form(cells: Sequence[Cell], noise: Noise, table: pd.DataFrame) -> list[CriticalBatch]:
    """The definitions of `critical_batches` that are no form of eta*(B)."""
    seq_len = float(table["seq_len"].iloc[0]) if "seq_len" in table and table["seq_len"].nunique() == 1 else None
    return [*_from_loss(cells, noise, seq_len), *branched_batches(table), *_measured_in_runs(table, cells)]


def at_equal_loss(
    crossings: Crossings, tokens: int, seq_len: float | None, noise_dof: int = 0
) -> Iterator[CriticalBatch]:
    """`hyperbola`, `surge_noise` and `overhead20` of one target, reached at `tokens`, as far as the crossings allow.

    The reference batch of `overhead20` is Zhang's 256 sequences where the context length is known and the batches span
    it, else the smallest batch that the hyperbola was fitted to.
    """
    fit = fit_hyperbola(crossings, noise_dof)
    note = _left_out(crossings, fit) if fit is not None else ""
    if fit is not None:
        batches = 2.0 ** crossings.log2_batch[fit.used]
        zhang = REFERENCE_SEQS * (seq_len or np.nan)
        reference = zhang if batches.min() <= zhang <= batches.max() else float(batches.min())
        yield CriticalBatch("hyperbola", tokens, fit.batch_crit, note=note)
        yield CriticalBatch("overhead20", tokens, overhead_batch(fit.batch_crit, reference), note=note)
    line = inverse_regression(crossings)
    if line is not None:
        yield CriticalBatch("surge_noise", tokens, line, note=note)


def _left_out(crossings: Crossings, fit: Hyperbola) -> str:
    """Empty unless E(B) is U-shaped (`analysis.hyperbola.beyond_the_best`)."""
    if fit.used.all():
        return ""
    batches = sorted({round(b) for b in 2.0 ** crossings.log2_batch[~fit.used]})
    return (
        f"E(B) is U-shaped: tokens to the target rise towards small batches by more than their noise, and "
        f"B = {', '.join(map(str, batches))} are left out of the fit"
    )


def with_factors(found: Iterable[CriticalBatch]) -> tuple[CriticalBatch, ...]:
    """Each with its factor to the reference definition at the same T: the hyperbola's B_c, or else the surge's."""
    found = list(found)
    known = {(c.definition, c.tokens, c.model): c.batch.value for c in found}

    def factor(c: CriticalBatch) -> float | None:
        values = [value for name in REFERENCES if (value := known.get((name, c.tokens, c.model))) is not None]
        return c.batch.value / values[0] if values and c.batch.value is not None else None

    return tuple(replace(c, factor=factor(c)) for c in found)


def _from_loss(cells: Sequence[Cell], noise: Noise, seq_len: float | None) -> Iterator[CriticalBatch]:
    for tokens in targets(cells):
        yield from at_equal_loss(crossings_at(cells, tokens, noise), tokens, seq_len, noise.dof)
        crossings = crossings_at(cells, tokens, noise, "power_law")
        inverted = fit_hyperbola(crossings, noise.dof)
        if inverted is not None:
            method = inverted.batch_crit.method.replace("S = Smin", "D = Dmin")
            batch = replace(inverted.batch_crit, method=method)
            yield CriticalBatch("power_lines", tokens, batch, note=_left_out(crossings, inverted))


def _measured_in_runs(table: pd.DataFrame, cells: Sequence[Cell]) -> Iterator[CriticalBatch]:
    """At each T the geometric mean of a column in tokens over the runs with the lowest loss of their cell.

    It depends on where training is, not on B, so the cells of one T measure the same thing; their scatter gives the
    interval.
    """
    for column, tokens in product(MEASURED_IN_RUNS, sorted({c.tokens for c in cells})):
        if column not in table:
            continue
        here = {(c.width, c.batch_tokens): c.argmin_lr for c in cells if c.tokens == tokens}
        rows = table[table["tokens"] == tokens]
        best = np.isclose(
            rows["lr"], [here.get(key, np.nan) for key in zip(rows["width"], rows["batch_tokens"], strict=True)]
        )
        values = np.log2(rows.loc[best & (rows[column] > 0), column].to_numpy(float))
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        method = f"geometric mean of the column {column} over {values.size} runs at the best learning rates"
        mean, ends = float(values.mean()), (None, None)
        if values.size > 1:
            half = special.stdtrit(values.size - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(values.size)
            ends = (float(2.0 ** (mean - half)), float(2.0 ** (mean + half)))
        yield CriticalBatch(column, tokens, Estimate(2.0**mean, *ends, "tokens", "ok", method))
