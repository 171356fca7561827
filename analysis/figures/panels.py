"""Small multiples: axes for n panels, and how they are arranged in one, two or more columns.

The arrangement for every column count, and for every number of panels that a reader may choose, travels in
`layout.meta`: the page restacks panels without knowing any geometry.
"""

from collections.abc import Iterable, Sequence
from math import ceil, floor, log2
from typing import Any

import plotly.graph_objects as go

from analysis.figures.colours import GRID, INK, MUTED
from analysis.notation import power_of_two

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH = 1080  # px of a full-width figure; domains are fractions of it
NARROW = 300  # px of the figure for each column, below which panels are restacked
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 30, 50
_ROW_GAP = 46
Choice = dict[str, Any]  # what a panel or a trace is about, of "N", "T" and "definition"; it is shown when all agree
_TICK_STEPS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)  # octaves


def panels(
    titles: Sequence[str],
    columns: int,
    *,
    x: dict[str, Any],
    y: dict[str, Any] | Sequence[dict[str, Any]],
    height: int = 270,
    shared_y: bool = True,
    narrow: int = NARROW,
    about: Sequence[Choice] = (),
) -> go.Figure:
    """An empty figure with one panel per title; `x` and `y` are axis properties (one y, or one for each panel).

    With `shared_y` all panels have the same y axis, labelled in the first column only. Below `narrow` px of figure
    width per column the page uses fewer columns. `about` says what each panel shows, so that a reader can choose.
    """
    n = len(titles)
    columns = min(columns, n)
    ys = [dict(y) for _ in titles] if isinstance(y, dict) else [dict(axis) for axis in y]
    layout: dict[str, Any] = {}
    for i in range(n):
        layout[_axis("x", i)] = _AXIS | _untitled(x) | {"anchor": _ref("y", i)} | ({"matches": "x"} if i else {})
        layout[_axis("y", i)] = _AXIS | _untitled(ys[i]) | {"anchor": _ref("x", i)}
        if shared_y and i:
            layout[_axis("y", i)]["matches"] = "y"
    meta = {
        "narrow": narrow,
        "titles": {"x": x.get("title", ""), "y": [axis.get("title", "") for axis in ys]},
        "about": list(about) or [{}] * n,
        "arrangements": {  # by the number of panels shown, which a choice makes fewer, and of columns
            shown: [_arrange(shown, count, height, shared_y) for count in range(1, min(columns, shown) + 1)]
            for shown in range(1, n + 1)
        },
    }
    plot = go.Figure()
    plot.update_layout(_LOOK | layout, meta=meta)
    plot.update_layout(_arranged(meta["arrangements"][n][-1], meta["titles"]))
    plot.update_layout(annotations=[_panel_title(i, text) for i, text in enumerate(titles) if text])
    return plot


def place(panel: int) -> dict[str, str]:
    """Axes of a panel, for a trace (panels are numbered from 0 in reading order)."""
    return {"xaxis": _ref("x", panel), "yaxis": _ref("y", panel)}


def within(panel: int) -> dict[str, str]:
    """References that make an annotation's x and y fractions of a panel, wherever it is put."""
    return {"xref": f"{_ref('x', panel)} domain", "yref": f"{_ref('y', panel)} domain"}


def log2_axis(
    values: Iterable[float], title: str, *, ticks: int = 6, pad: tuple[float, float] = (0.3, 0.3), finest: float = 0.25
) -> dict[str, Any]:
    """A log axis over positive values, at most `ticks` ticks at powers of two; `pad` below and above, in octaves.

    Where the axis spans few octaves the ticks are half or quarter octaves, unless `finest` forbids it.
    """
    octaves = [log2(v) for v in values if v > 0] or [0.0]
    low, high = min(octaves) - pad[0], max(octaves) + pad[1]
    step = next(s for s in _TICK_STEPS if s >= finest and floor(high / s) - ceil(low / s) < ticks)
    shown = [k * step for k in range(ceil(low / step), floor(high / step) + 1)]
    return {
        "type": "log",
        "title": title,
        "range": [low / log2(10), high / log2(10)],
        "tickvals": [2.0**k for k in shown],
        "ticktext": [power_of_two(k) for k in shown],
    }


def _arrange(n: int, columns: int, height: int, shared_y: bool) -> dict[str, Any]:
    """Height of the figure in px and, for each of n panels in this many columns, what its axes change."""
    rows = ceil(n / columns)
    inner_width = WIDTH * min(1, (columns + 0.2) / 3) - _LEFT - _RIGHT
    gap = (22 if shared_y else 58) / inner_width if columns > 1 else 0.0
    panel_width = (1 - gap * (columns - 1)) / columns
    row_gap = _ROW_GAP + 14 * (columns == 1)  # tick labels under every panel
    inner_height = rows * height + (rows - 1) * row_gap
    axes = []
    for i in range(n):
        row, column = divmod(i, columns)
        left, top = column * (panel_width + gap), 1 - row * (height + row_gap) / inner_height
        is_bottom, is_first = i + columns >= n, column == 0
        across = [left, min(1.0, left + panel_width)]
        up = [max(0.0, top - height / inner_height), top]
        axes.append(
            {
                "x": {"domain": _short(across), "titled": is_bottom, "ticked": is_bottom or columns == 1},
                "y": {"domain": _short(up), "titled": is_first, "ticked": is_first or not shared_y},
            }
        )
    return {"height": inner_height + _TOP + _BOTTOM, "axes": axes}


def _short(domain: list[float]) -> list[float]:
    return [round(end, 5) for end in domain]


def _arranged(arrangement: dict[str, Any], titles: dict[str, Any]) -> dict[str, Any]:
    """Layout properties of an arrangement that shows all panels; the page does the same for those it shows."""
    layout: dict[str, Any] = {"height": arrangement["height"]}
    for i, axes in enumerate(arrangement["axes"]):
        for letter, title in (("x", titles["x"]), ("y", titles["y"][i])):
            axis = axes[letter]
            layout[_axis(letter, i)] = {
                "domain": axis["domain"],
                "title": {"text": title if axis["titled"] else ""},
                "showticklabels": axis["ticked"],
            }
    return layout


def _untitled(axis: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in axis.items() if key != "title"}


def _axis(letter: str, panel: int) -> str:
    return f"{letter}axis{panel + 1 if panel else ''}"


def _ref(letter: str, panel: int) -> str:
    return f"{letter}{panel + 1 if panel else ''}"


def _panel_title(panel: int, text: str) -> dict[str, Any]:
    return {
        "text": f"<b>{text}</b>",
        **within(panel),
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 4,
        "showarrow": False,
        "font": {"size": 12.5, "color": INK},
    }


_AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": MUTED,
    "tickcolor": MUTED,
    "ticks": "outside",
    "ticklen": 4,
    "showline": True,
    "zeroline": False,
    "tickfont": {"color": MUTED, "size": 12},
    "title": {"font": {"color": INK, "size": 13}, "standoff": 8},
}
_LOOK: dict[str, Any] = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": FONT, "size": 13, "color": INK},
    "margin": {"l": _LEFT, "r": _RIGHT, "t": _TOP, "b": _BOTTOM},
    "hovermode": "closest",
    "hoverlabel": {"font": {"family": FONT, "size": 12.5}},
    "legend": {"groupclick": "togglegroup"},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": INK},
    "autosize": True,
}
