"""Figure of `bcrit transfer`: loss against learning rate, one panel a setting, one curve a width."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.colours import MUTED, sequential, symbols
from analysis.figures.figure import Figure, schedule_of
from analysis.figures.frames import levels, rows
from analysis.figures.panels import log2_axis, panels, place
from analysis.notation import grid_count, nats, plain
from analysis.results import Cell
from analysis.transfer import NO_SETTING, TransferStudy

_ZOOM = 1.0  # of the panels' y axis above the lowest loss, in spans of median minus lowest
_EDGE = {"edge_low": "triangle-left-open", "edge_high": "triangle-right-open"}


def transfer_figure(table: pd.DataFrame, study: TransferStudy) -> Figure:
    """The μTransfer plot (Tensor Programs V, figure 1) with every optimum's 95 % interval; edges as triangles."""
    labels = table["setting"].fillna("").replace("", NO_SETTING) if "setting" in table else NO_SETTING
    data = table.assign(setting=labels)
    here = (data["tokens"] == study.tokens) & (data["batch_tokens"] == study.batch_tokens)
    data = data.loc[here, ["setting", "width", "lr", "seed", "loss"]].reset_index(drop=True)
    settings = [transfer.setting for transfer in study.transfers]
    losses = data["loss"].dropna()
    low, top = float(losses.min()), float(losses.min() + (1 + _ZOOM) * (losses.median() - losses.min()))
    widths = levels(data, "width")
    colour, symbol = sequential("width", widths), symbols(widths)
    plot = panels(
        settings,
        2,
        x=log2_axis(data["lr"], "learning rate η (at base width)", finest=1),
        y={"title": "validation loss, nats", "range": [low - 0.06 * (top - low), top + 0.03 * (top - low)]},
        height=380,
        narrow=380,
    )
    for panel, transfer in enumerate(study.transfers):
        for cell in transfer.cells:
            part = data[(data["setting"] == transfer.setting) & (data["width"] == cell.width)]
            _draw(plot, panel, part, cell, top, colour[cell.width], symbol[cell.width], legend=panel == 0)
    caption = (
        f"Validation loss against learning rate at T = {grid_count(study.tokens)} and B = "
        f"{grid_count(study.batch_tokens)} tokens; marks are runs, lines join the means over seeds (marks at the upper "
        "edge lie above it). Rings: the optimum of the parabola through the points around the lowest loss, with the "
        "95 % interval of η*; open triangles are bounds: the lowest loss lies at the end of the sweep."
    )
    return Figure("transfer", f"Loss against learning rate over widths ({schedule_of(table)})", caption, data, plot)


def _draw(
    plot: go.Figure, panel: int, part: pd.DataFrame, cell: Cell, top: float, colour: str, symbol: str, *, legend: bool
) -> None:
    name = f"N = {cell.width}"
    style = {"name": name, "legendgroup": name, "hovertemplate": "%{text}<extra></extra>", **place(panel)}
    alive = part.dropna(subset="loss")
    mean = alive.groupby("lr")["loss"].mean()
    plot.add_scatter(
        x=mean.index,
        y=mean,
        mode="lines",
        line={"color": colour, "width": 1.6},
        hoverinfo="skip",
        legendgroup=name,
        showlegend=False,
        **place(panel),
    )
    inside = part[part["loss"] <= top]
    beyond = part[~(part["loss"] <= top)]
    at_edge = np.where(beyond["loss"].isna(), "x-thin-open", "arrow-up")
    for runs, y, shape, shown in (
        (inside, inside["loss"], symbol, legend),
        (beyond, [top] * len(beyond), at_edge, False),
    ):
        plot.add_scatter(
            x=runs["lr"],
            y=y,
            mode="markers",
            marker={"color": colour, "size": 6, "symbol": shape, "line": {"width": 1.4 if shape is at_edge else 0}},
            text=[
                f"{name}, η = {plain(row.lr)}, seed {row.seed}<br>"
                + ("diverged" if pd.isna(row.loss) else f"loss {nats(row.loss)} nats")
                for row in rows(runs)
            ],
            showlegend=shown,
            **style,
        )
    interior = cell.state == "interior" and cell.lr.value is not None and cell.loss.value is not None
    x, y = (cell.lr.value, cell.loss.value) if interior else (cell.argmin_lr, cell.argmin_loss)
    bars = (
        {"array": [(cell.lr.high or x) - x], "arrayminus": [x - (cell.lr.low or x)]}
        if interior and x is not None
        else None
    )
    plot.add_scatter(
        x=[x],
        y=[y],
        error_x=bars and {"type": "data", "symmetric": False, "color": colour, "thickness": 1.6, "width": 4} | bars,
        mode="markers",
        marker={
            "color": colour if interior else MUTED,
            "symbol": _EDGE.get(cell.state, "circle-open"),
            "size": 11,
            "line": {"width": 2},
        },
        text=[f"{name}: {cell.state}<br>η* {plain(x or 0)}"],
        showlegend=False,
        **style,
    )
