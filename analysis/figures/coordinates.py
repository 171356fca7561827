"""Figure of the coordinate check: do activations keep their size when the width grows?"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.coordinates import exponent
from analysis.figures import marks
from analysis.figures.colours import BLUE, ORANGE
from analysis.figures.figure import Figure, schedule_of
from analysis.figures.frames import levels, rows
from analysis.figures.panels import log2_axis, panels, place, within
from analysis.notation import grid_count, plain
from analysis.results import Analysis, Estimate

SITES = ("embedding", "attention", "ffn", "residual", "logits")
_WHEN = {
    "init": (ORANGE, "circle-open", "dot", "before the first step"),
    "readout": (BLUE, "circle", "solid", "after training"),
}


def coordinate_check(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """RMS of activations against width, at init and at a readout, with the exponent: figure 8."""
    figure_id, title = "coordinate-check", f"Coordinate check: activation size against width ({schedule_of(table)})"
    caption = (
        "RMS of activations on some validation sequences against width N, before the first step and after training; "
        "points are single runs, lines join the means, the number is the exponent of N (± the 95 % half-width with "
        "three widths or more). Before the first step muP gives 0, and −½ for the logits: a random head "
        "under the multiplier base width / N. After it muP keeps every exponent from growing; under standard "
        "parametrisation they are clearly positive. Small or badly tuned widths also differ by how far they have come."
    )
    columns = [f"rms_{site}{end}" for site in SITES for end in ("_init", "")]
    where = _comparable(table, analysis)
    if where is None or not set(columns) <= set(table):
        data = pd.DataFrame(columns=pd.Index(["site", "when", "width", "seed", "rms"]))
        what = "it needs two widths at the same T, B and η" if where is None else "the table has no rms_* columns"
        return Figure(figure_id, title, caption, data, None, f"Not drawn: {what}.")
    tokens, batch, lr = where
    runs = table[(table["tokens"] == tokens) & (table["batch_tokens"] == batch) & (table["lr"] == lr)]
    data = runs.melt(["width", "seed"], columns, var_name="column", value_name="rms").dropna(subset="rms")
    data = data[data["rms"] > 0]  # a zero-initialised head has no logarithm
    data["when"] = np.where(data["column"].str.endswith("_init"), "init", "readout")
    data["site"] = data["column"].str.removeprefix("rms_").str.removesuffix("_init")
    data = data[["site", "when", "width", "seed", "rms"]].reset_index(drop=True)
    caption += (
        f" Shown at T = {grid_count(tokens)}, B = {grid_count(batch)}, η = {plain(lr)} (the grid's nearest to η*)."
    )
    if data.groupby(["site", "when"])["width"].nunique().lt(2).all():
        return Figure(
            figure_id, title, caption, data, None, "Not drawn: activation sizes were recorded at fewer than two widths."
        )
    widths = levels(data, "width")
    plot = panels(
        list(SITES),
        len(SITES),
        x=log2_axis(widths, "width N") | {"tickvals": widths, "ticktext": [str(width) for width in widths]},
        y=log2_axis(data["rms"], "RMS of activations", pad=(0.3, 0.9)),
        height=270,
        narrow=200,
    )
    for (site, when), part in data.groupby(["site", "when"]):
        _draw(plot, SITES.index(str(site)), part, str(when))
    return Figure(figure_id, title, caption, data, plot)


def _draw(plot: go.Figure, panel: int, part: pd.DataFrame, when: str) -> None:
    colour, symbol, dash, label = _WHEN[when]
    mean = part.groupby("width")["rms"].apply(lambda rms: 2 ** np.log2(rms).mean())
    plot.add_scatter(
        x=part["width"],
        y=part["rms"],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 8},
        name=label,
        legendgroup=when,
        showlegend=panel == 0,
        text=[f"N = {row.width}, seed {row.seed}<br>RMS {plain(row.rms)} {label}" for row in rows(part)],
        hovertemplate="%{text}<extra></extra>",
        **place(panel),
    )
    if len(mean) < 2:
        return
    marks.curve(plot, panel, mean.index, mean, name=label, group=when, colour=colour, dash=dash)
    fitted = exponent(mean.index.to_numpy(float), mean.to_numpy())
    plot.add_annotation(
        text=exponent_text(fitted),
        **within(panel),
        x=0.98,
        y=0.99 if when == "readout" else 0.91,
        xanchor="right",
        yanchor="top",
        showarrow=False,
        font={"color": colour, "size": 13},
    )


def exponent_text(found: Estimate) -> str:
    """`+0.02 ± 0.05`: an exponent of width with its 95 % half-width, where it has one."""
    if found.value is None:
        return "zero"
    half = "" if found.high is None else f" ± {found.high - found.value:.2f}"
    return f"{round(found.value, 2) + 0.0:+.2f}{half}".replace("-", "\N{MINUS SIGN}")


def _comparable(table: pd.DataFrame, analysis: Analysis) -> tuple[int, int, float] | None:
    """(T, B, lr) measured at every width: the largest T, the middle B, the lr nearest to the optimum there."""
    alive = table[table["loss"].notna()]
    widths = alive.groupby(["tokens", "batch_tokens", "lr"])["width"].nunique()
    shared = widths[widths == table["width"].nunique()].index.to_frame(index=False)
    if table["width"].nunique() < 2 or shared.empty:
        return None
    shared = shared[shared["tokens"] == shared["tokens"].max()]
    batches = levels(shared, "batch_tokens")
    batch = batches[(len(batches) - 1) // 2]
    tokens, lrs = int(shared["tokens"].iloc[0]), shared.loc[shared["batch_tokens"] == batch, "lr"]
    optima = [
        np.log2(c.lr.value or c.argmin_lr) for c in analysis.cells if (c.tokens, c.batch_tokens) == (tokens, batch)
    ]
    nearest = (np.log2(lrs) - np.mean(optima)).abs().idxmin()
    return tokens, int(batch), float(lrs[nearest])
