"""Tables of steps to a target loss (model, target, B, steps): critical batches without learning rates or curves.

No noise is known here: the scatter about the law is the error of everything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from analysis.bootstrap import bootstrap_line, percentiles, resample
from analysis.caveats import noted
from analysis.critical_batch import at_equal_loss, with_factors
from analysis.fitting import linear_law
from analysis.growth import Bootstrap
from analysis.hyperbola import Crossings
from analysis.results import Analysis, CriticalBatch, Estimate, Growth
from configs.errors import ConfigError

STEPS_COLUMNS = {
    "model": "label of the model; each has its own fit",
    "n_params": "number of parameters, for the growth with model size",
    "target_loss": "the loss that is reached, nats",
    "batch_tokens": "B: tokens per optimizer step",
    "steps": "optimizer steps to the target",
    "seq_len": "tokens of a sequence: the reference batch of the 20 % definition is 256 sequences",
    "group": "what else the rows differ in",
}
MIN_MODELS = 3  # for a growth law with an error of its own


def is_steps_table(table: pd.DataFrame) -> bool:
    """Whether a table holds steps to target losses instead of runs."""
    return {"target_loss", "batch_tokens", "steps"} <= set(table)


def by_target(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every model and target loss with a label of the two, in the order of the table."""
    named = table.assign(model=table["model"].astype(str) if "model" in table else "")
    for (model, target), rows in named.groupby(["model", "target_loss"], sort=False):
        yield (f"{model}, loss {target:g}" if model else f"loss {target:g}"), rows


def crossings_of(rows: pd.DataFrame) -> Crossings:
    """The rows of one model and target; repeated batches stay points of their own."""
    log2_batch, log2_steps = np.log2(rows["batch_tokens"].to_numpy(float)), np.log2(rows["steps"].to_numpy(float))
    same = np.zeros(log2_batch.size)
    return Crossings(same, log2_batch, log2_batch + log2_steps, np.ones(log2_batch.size, bool))


def analyse_steps(table: pd.DataFrame, bootstrap: Bootstrap) -> Analysis:
    """Critical batches of every model and target, and their growth with T and with the number of parameters.

    `table`: STEPS_COLUMNS, of which target_loss, batch_tokens and steps are needed. `bootstrap`: how many resamples
    check the growth laws, and their seed. Raises ConfigError if nothing can be fitted.
    """
    critical: list[CriticalBatch] = []
    warnings = []
    targets = dict(by_target(table))
    for label, rows in targets.items():
        found = list(_of_target(rows))
        critical += found
        if not found:
            batches = rows["batch_tokens"].nunique()
            warnings.append(f"{label}: {batches} batches are too few; a hyperbola needs three and a point to spare.")
    if not critical:
        raise ConfigError("steps table: no target loss has three batches or more: nothing can be fitted")
    critical = list(with_factors(critical))
    size = "n_params" in table and table["n_params"].nunique() >= MIN_MODELS
    variables = ("tokens", *(["n_params"] if size else []))
    growth = [law for variable in variables for law in _growth(critical, variable, bootstrap)]
    return Analysis(
        meta={
            "kind": "steps to target",
            "study": sorted(map(str, table["study"].unique())) if "study" in table else [],
            "rows_analysed": len(table),
            "seq_len": int(table["seq_len"].iloc[0])
            if "seq_len" in table and table["seq_len"].nunique() == 1
            else None,
            "targets": list(targets),
            "bootstrap": asdict(bootstrap),
        },
        cells=(),
        lr_laws=(),
        lr_verdicts=(),
        critical_batch=tuple(critical),
        best_batch=(),
        growth=tuple(growth),
        warnings=(*warnings, *noted(critical)),
    )


def _of_target(rows: pd.DataFrame) -> Iterator[CriticalBatch]:
    model, target = str(rows["model"].iloc[0]), float(rows["target_loss"].iloc[0])
    seq_len = float(rows["seq_len"].iloc[0]) if "seq_len" in rows and rows["seq_len"].nunique() == 1 else None
    size = float(rows["n_params"].iloc[0]) if "n_params" in rows else None
    crossings = crossings_of(rows)
    tokens = round(2.0 ** float(crossings.log2_tokens.min()))
    for found in at_equal_loss(crossings, tokens, seq_len):
        yield replace(found, model=model, target_loss=target, n_params=size)


def _growth(critical: Iterable[CriticalBatch], variable: str, bootstrap: Bootstrap) -> Iterator[Growth]:
    """Each definition against T or the number of parameters alone: along a series of models both grow together.

    Plain least squares in log2, as published; the scatter about the law gives the interval.
    """
    for name in dict.fromkeys(c.definition for c in critical):
        points = [
            (getattr(c, variable), c.batch.value)
            for c in critical
            if c.definition == name and c.batch.value is not None
        ]
        points = [(x, y) for x, y in points if x]
        if len({x for x, _ in points}) < MIN_MODELS:
            continue
        x, y = np.log2(np.array(points, float)).T
        design = np.column_stack([np.ones_like(x), x - x.mean()])
        law = linear_law(design, y, np.eye(x.size) * 1e3)  # errors of 1e-3 octaves: the scatter takes over
        (level, half_level), (slope, half_slope) = (law.contrast(weights) for weights in np.eye(2))
        counts = resample(x.size, bootstrap.resamples, bootstrap.seed)
        method = f"least squares in log2 against {variable} alone"
        yield Growth(
            quantity=f"batch_crit:{name}",
            exponent=Estimate(slope, slope - half_slope, slope + half_slope, "1", "ok", method),
            coefficient=Estimate(level, level - half_level, level + half_level, "log2 tokens", "ok", method),
            exponent_width=None,
            n_points=x.size,
            reference_tokens=float(2.0 ** x.mean()),
            bootstrap=percentiles(slope, bootstrap_line(design, y, np.ones_like(y), counts)[:, 1]),
            variable=variable,
        )
