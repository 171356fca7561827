"""The few kinds of marks all figures are drawn with: measured points, bounds, fitted curves, bands."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from analysis.figures.colours import MUTED
from analysis.figures.panels import Choice, place

_BOUND = {"lower_bound": ("low", "up", "right"), "upper_bound": ("high", "down", "left")}


def measured(
    plot: go.Figure,
    panel: int,
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    name: str,
    group: str,
    colour: str,
    symbol: str = "circle",
    dash: str = "solid",
    line: bool = True,
    legend: bool,
    hover: Sequence[str],
    shift: float = 0.0,
    about: Choice | None = None,
) -> None:
    """Points of estimate column `y` against `x` with error bars; its bounds as open triangles that point at the truth.

    `hover` has one text per row of `frame`. Rows that are not identified are not drawn. `shift` moves the marks along a
    logarithmic x axis, in octaves, so that the bars of several series do not cover each other. `about`: see `panels`.
    """
    frame = frame.assign(**{x: frame[x] * 2.0**shift})
    style = {"legendgroup": group, "name": name, "hovertemplate": "%{text}<extra></extra>", **place(panel)}
    style |= {"meta": about or {}}
    texts = pd.Series(list(hover), index=frame.index)
    ok = frame[frame[f"{y}_status"] == "ok"]
    plot.add_scatter(
        x=ok[x],
        y=ok[y],
        error_y=bars(ok, y, colour),
        mode="lines+markers" if line else "markers",
        line={"color": colour, "width": 1.6, "dash": dash},
        marker={"color": colour, "symbol": symbol, "size": 8},
        text=texts[ok.index],
        showlegend=legend,
        **style,
    )
    for status, (end, direction, _) in _BOUND.items():
        bound = frame[(frame[f"{y}_status"] == status) & frame[f"{y}_{end}"].notna()]
        if len(bound):
            plot.add_scatter(
                x=bound[x],
                y=bound[f"{y}_{end}"],
                mode="markers",
                marker={"color": colour, "symbol": f"triangle-{direction}-open", "size": 10, "line": {"width": 1.8}},
                text=texts[bound.index],
                showlegend=False,
                **style,
            )


def shifts(n: int, spacing: float = 0.05) -> list[float]:
    """Octaves by which n series are moved sideways, centred on zero; never more than 0.15 either way."""
    return [min(spacing, 0.3 / max(n - 1, 1)) * (i - (n - 1) / 2) for i in range(n)]


def bars(frame: pd.DataFrame, y: str, colour: str) -> dict[str, Any]:
    """Error bars from the interval columns; a missing end has no bar."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (frame[f"{y}_high"] - frame[y]).fillna(0.0),
        "arrayminus": (frame[y] - frame[f"{y}_low"]).fillna(0.0),
        "color": colour,
        "thickness": 1.3,
        "width": 0,
    }


def curve(
    plot: go.Figure,
    panel: int,
    x: ArrayLike,
    y: ArrayLike,
    *,
    name: str,
    group: str,
    colour: str,
    dash: str = "solid",
    legend: bool = False,
    hidden: bool = False,
    about: Choice | None = None,
) -> None:
    """A fitted curve; the mouse passes through it to the points. `hidden`: until its name in the legend is clicked."""
    plot.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 1.6, "dash": dash},
        name=name,
        legendgroup=group,
        showlegend=legend,
        visible="legendonly" if hidden else True,
        hoverinfo="skip",
        meta=about or {},
        **place(panel),
    )


def band(
    plot: go.Figure,
    panel: int,
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    *,
    group: str,
    colour: str,
    about: Choice | None = None,
) -> None:
    """The 95 % band of a fitted curve."""
    edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": group, "showlegend": False, "hoverinfo": "skip"}
    edge |= {"meta": about or {}}
    plot.add_scatter(x=x, y=low, **edge, **place(panel))
    plot.add_scatter(x=x, y=high, fill="tonexty", fillcolor=f"{colour}26", **edge, **place(panel))


def guide(plot: go.Figure, panel: int, x: ArrayLike, y: ArrayLike, *, name: str, legend: bool) -> None:
    """A thin dashed grey line: theory or reference, not data."""
    plot.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dash"},
        name=name,
        legendgroup=name,
        showlegend=legend,
        hoverinfo="skip",
        **place(panel),
    )
