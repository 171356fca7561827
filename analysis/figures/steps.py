"""The figure of a table of steps to a target: tokens to target against batch, with the fitted hyperbola."""

import numpy as np
import pandas as pd

from analysis.figures import marks
from analysis.figures.colours import sequential, symbols
from analysis.figures.figure import BATCH_TITLE, Figure
from analysis.figures.panels import log2_axis, panels
from analysis.hyperbola import fit_hyperbola
from analysis.notation import compact, grid_count
from analysis.results import Analysis
from analysis.steps import by_target, crossings_of

_POINTS = 60


def tokens_against_batch(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """Tokens to the target loss against B, one series per model and target."""
    parts = []
    for label, rows in by_target(table):
        crossings = crossings_of(rows)
        measured = pd.DataFrame({"batch": 2**crossings.log2_batch, "tokens": 2**crossings.log2_tokens})
        parts.append(measured.assign(kind="measured", series=label))
        fit = fit_hyperbola(crossings)
        if fit is not None:
            batch = np.geomspace(measured["batch"].min(), measured["batch"].max(), _POINTS)
            curve = 2 ** fit.log2_min_steps[0.0] * (batch + 2**fit.log2_batch_crit)
            parts.append(pd.DataFrame({"batch": batch, "tokens": curve}).assign(kind="fit", series=label))
    data = pd.concat(parts, ignore_index=True)
    labels = list(dict.fromkeys(data["series"]))
    plot = panels(
        ["tokens to the target loss"],
        1,
        x=log2_axis(data["batch"], BATCH_TITLE, finest=1),
        y=log2_axis(data["tokens"], "tokens to target", finest=1),
        height=420,
    )
    colour, symbol = sequential("tokens", labels), symbols(labels)
    for label in labels:
        part = data[data["series"] == label]
        fit, points = part[part["kind"] == "fit"], part[part["kind"] == "measured"]
        marks.curve(plot, 0, fit["batch"], fit["tokens"], name=label, group=label, colour=colour[label])
        pairs = zip(points["batch"], points["tokens"], strict=True)
        marks.measured(
            plot,
            0,
            points.assign(tokens_status="ok", tokens_low=np.nan, tokens_high=np.nan),
            "batch",
            "tokens",
            name=label,
            group=label,
            colour=colour[label],
            symbol=symbol[label],
            line=False,
            legend=True,
            hover=[f"{label}<br>B = {grid_count(batch)}: {compact(tokens)} tokens" for batch, tokens in pairs],
        )
    caption = (
        "Points: steps to the target times B. Curves: D = D<sub>min</sub>(1 + B/B<sub>crit</sub>), the hyperbola; its "
        "bend, where tokens to target have doubled, is B<sub>crit</sub>. A rise towards small batches beyond the noise "
        "would be left out of the fit."
    )
    return Figure("tokens-against-batch", "Tokens to the target loss against batch", caption, data, plot)
