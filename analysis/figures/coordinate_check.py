"""Figures of `bcrit coordcheck`: what training changed in the activations, and their size, against width."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.coordinates import CoordinateSlope
from analysis.figures import marks
from analysis.figures.colours import BLUE, ORANGE
from analysis.figures.coordinates import exponent_text
from analysis.figures.figure import Figure
from analysis.figures.frames import levels, rows
from analysis.figures.panels import log2_axis, panels, place, within
from analysis.notation import plain

_LOOK = {"mup": (BLUE, "circle", "solid"), "sp": (ORANGE, "diamond", "dash")}
_FORMULA = (
    "Root mean square over fixed validation sequences against width N; marks are single seeds, lines join their "
    "means, numbers are the exponents of N with 95 % half-widths."
)


def coordinate_figures(
    measured: pd.DataFrame, slopes: Mapping[str, Sequence[CoordinateSlope]]
) -> tuple[Figure, Figure, Figure]:
    """Updates after the last step, sizes after it, and sizes at the start.

    `measured`: columns parametrization, width, seed, step, kind, quantity, rms. `slopes`: by parametrisation.
    """
    last = int(measured["step"].max())
    return (
        _figure(
            measured,
            slopes,
            ("update", last),
            f"What {last} steps changed: RMS of x<sub>{last}</sub> − x<sub>0</sub>",
            f"{_FORMULA} Under μP no change may depend on width; under the standard parametrisation the same learning "
            "rate moves a wider model further.",
        ),
        _figure(
            measured,
            slopes,
            ("size", last),
            f"Activations after {last} steps",
            f"{_FORMULA} The logits may fade between −½ and 0, while their initial part lasts.",
        ),
        _figure(
            measured,
            slopes,
            ("size", 0),
            "Activations before the first step",
            f"{_FORMULA} Under μP the logits of a random head fade as N<sup>−½</sup>, by its multiplier.",
        ),
    )


def _figure(
    measured: pd.DataFrame,
    slopes: Mapping[str, Sequence[CoordinateSlope]],
    what: tuple[str, int],
    title: str,
    caption: str,
) -> Figure:
    quantity, step = what
    data = measured[
        (measured["quantity"] == quantity) & (measured["step"] == step) & (measured["kind"] != "loss")
    ].reset_index(drop=True)
    drawn = data[(data["rms"] > 0) & np.isfinite(data["rms"])]
    kinds = list(dict.fromkeys(data["kind"]))
    widths = levels(data, "width")
    plot = panels(
        [kind.replace("_", " ") for kind in kinds],
        6,
        x=log2_axis(widths, "width N") | {"tickvals": widths, "ticktext": [str(width) for width in widths]},
        y=log2_axis(drawn["rms"], "RMS", pad=(0.4, 1.6)),
        height=210,
        narrow=170,
    )
    plot.update_xaxes(tickangle=-45)
    present = [name for name in _LOOK if name in set(data["parametrization"])]
    for panel, kind in enumerate(kinds):
        for line, name in enumerate(present):
            part = drawn[(drawn["kind"] == kind) & (drawn["parametrization"] == name)]
            found = next(s for s in slopes[name] if (s.kind, s.quantity, s.step) == (kind, quantity, step))
            _draw(plot, panel, line, part, name, found)
    return Figure(f"coordinates-{quantity}-{step}", title, caption, data, plot)


def _draw(plot: go.Figure, panel: int, line: int, part: pd.DataFrame, name: str, found: CoordinateSlope) -> None:
    colour, symbol, dash = _LOOK[name]
    label = "μP" if name == "mup" else "standard"
    plot.add_scatter(
        x=part["width"],
        y=part["rms"],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 5},
        name=label,
        legendgroup=name,
        showlegend=panel == 0,
        text=[f"{label}, N = {row.width}, seed {row.seed}<br>RMS {plain(row.rms)}" for row in rows(part)],
        hovertemplate="%{text}<extra></extra>",
        **place(panel),
    )
    mean = part.groupby("width")["rms"].apply(lambda rms: 2 ** np.log2(rms).mean())
    marks.curve(plot, panel, mean.index, mean, name=label, group=name, colour=colour, dash=dash)
    plot.add_annotation(
        text=exponent_text(found.exponent),
        **within(panel),
        x=0.03,
        y=1.0 - 0.11 * line,
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"color": colour, "size": 12},
    )
