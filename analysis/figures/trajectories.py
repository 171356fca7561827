"""Figure of `bcrit warmup`: how loss and sharpness went, with the thresholds that the learning rate set."""

from math import log2
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.colours import BLUE, GREEN, ORANGE, PINK, PURPLE, SYMBOLS
from analysis.figures.figure import Figure
from analysis.figures.panels import log2_axis, panels, place
from analysis.figures.phase import way
from analysis.notation import grid_count, plain, power_of_two

_QUANTITIES = {
    "loss": "loss of the probe batch, nats",
    "sharpness": "sharpness λ(H)",
    "preconditioned": "pre-conditioned λ(P⁻¹H)",
}
_COLOURS = (BLUE, ORANGE, GREEN, PINK, PURPLE)


def trajectories(probes: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """A row a quantity, a column a parametrization and peak rate; thresholds are dashed in the colour of their run.

    `probes`: from `analysis.trajectories`; `runs`: the run table, of which the first seed is drawn.
    """
    figure_id, title = "trajectories", "Loss and sharpness on the way"
    known = ["run_id", "parametrization", "optimizer", "second_moment", "warmup", "warmup_tokens", "seed"]
    peaks = runs[[*known, "lr"]].rename(columns={"lr": "peak"}).drop_duplicates("run_id")
    data = probes.merge(peaks, on="run_id") if len(probes) else pd.DataFrame()
    caption = (
        "The first seed of each, measured on one fixed batch before the steps marked. Dashed, in the colour of the "
        "run: the threshold above which Adam with this P would be unstable on a quadratic, "
        "(2 + 2β<sub>1</sub>) / ((1 − β<sub>1</sub>) η), at the learning rate η of the step that follows. Dotted: "
        "2 / η, that of λ(H) under plain gradient descent; the CSV has that with momentum, (2 + 2β<sub>1</sub>) / η, "
        "too. Click a name to hide a run with its thresholds."
    )
    if data.empty:
        reason = "Not drawn: no run has sharpness probes (log.sharpness.every_tokens)."
        return Figure(figure_id, title, caption, data, None, reason)
    data = data[data["seed"] == data["seed"].min()]
    columns = sorted(data[["parametrization", "peak"]].drop_duplicates().itertuples(index=False, name=None))
    x = {"title": "tokens", "range": [-0.02 * data["tokens"].max(), 1.02 * data["tokens"].max()]}
    axes = {name: log2_axis(data[name][data[name] > 0], text, ticks=6) for name, text in _QUANTITIES.items()}
    cells = [(name, column) for name in _QUANTITIES for column in columns]
    plot = panels(
        [f"{p}, peak {power_of_two(log2(peak))}" for _, (p, peak) in cells],
        len(columns),
        x=x,
        y=[axes[name] for name, _ in cells],
        height=230,
        shared_y=False,
        narrow=230,
    )
    styles = ["optimizer", "second_moment", "warmup", "warmup_tokens"]
    keys = list(data[styles].drop_duplicates().itertuples(index=False, name=None))
    for panel, (name, (parametrization, peak)) in enumerate(cells):
        for i, key in enumerate(keys):
            here = (data["parametrization"] == parametrization) & (data["peak"] == peak)
            part = data[here & (data[styles] == list(key)).all(axis=1)]
            _run(plot, panel, part, name, key, i, legend=panel == 0)
    return Figure(figure_id, title, caption, data, plot)


def _run(
    plot: go.Figure, panel: int, part: pd.DataFrame, name: str, key: tuple[Any, ...], i: int, *, legend: bool
) -> None:
    *how, length = key
    label = f"{way(*how)}, {grid_count(length) if length else 'none'}"
    colour = _COLOURS[i % len(_COLOURS)]
    part = part[part[name] > 0]
    plot.add_scatter(
        x=part["tokens"],
        y=part[name],
        mode="lines+markers",
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 5},
        text=[f"{label}<br>{t:,} tokens: {plain(v)}" for t, v in zip(part["tokens"], part[name], strict=True)],
        hovertemplate="%{text}<extra></extra>",
        name=label,
        legendgroup=label,
        showlegend=legend,
        **place(panel),
    )
    if limit := {"preconditioned": "threshold", "sharpness": "threshold_gd"}.get(name):
        plot.add_scatter(
            x=part["tokens"],
            y=part[limit],
            mode="lines",
            line={"color": colour, "width": 1.2, "dash": "dash" if limit == "threshold" else "dot"},
            hoverinfo="skip",
            name=label,
            legendgroup=label,
            showlegend=False,
            **place(panel),
        )
