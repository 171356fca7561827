"""Figures of the raw losses: the U-curves behind every optimum, and the muTransfer plot over widths."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.colours import MUTED, sequential, symbols
from analysis.figures.figure import Figure, schedule_of
from analysis.figures.frames import KEY, levels, rows
from analysis.figures.panels import Choice, log2_axis, panels, place
from analysis.notation import estimate_text, grid_count, nats, plain
from analysis.results import Analysis, Cell

_ZOOM = 4.0  # a panel shows losses up to this many times the median height above its lowest
_CURVE_POINTS = 40
_CHOICES = {"N": "width", "T": "tokens"}
_LR_TITLE = "learning rate η (at base width)"
_EDGE = {"edge_low": "triangle-left-open", "edge_high": "triangle-right-open"}
_HOW = (
    "Points: single runs (one per seed). Line: the parabola in log<sub>2</sub> η over the window it was fitted to. "
    "Ring with bar: its minimum η* with the 95 % interval. Open triangle: the lowest loss lay at the edge of the "
    "grid, η* is only bounded. On the upper edge: × diverged runs, arrows runs above the panel (the mouse shows the "
    "loss)."
)


def loss_against_lr(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """U-curves of every (N, T), one curve per B: figure 5."""
    data = _marks(table, list(analysis.cells))
    widths, budgets = levels(table, "width"), levels(table, "tokens")
    figure_id, title = "loss-against-lr", f"Loss against learning rate, every cell ({schedule_of(table)})"
    groups = [
        (f"N = {n}, T = {grid_count(t)}", (data["width"] == n) & (data["tokens"] == t)) for n in widths for t in budgets
    ]
    columns = next(c for c in (4, 3, 2, 1) if len(budgets) % c == 0 or len(budgets) > c)
    plot = _u_curves(data, groups, "batch_tokens", "batch", "B = {}", columns)
    return Figure(figure_id, title, _HOW, data, plot)


def loss_against_lr_by_width(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """Loss against lr for all widths at one B of each T: does the optimum stay? Figure 9"""
    chosen = {tokens: _shared_batch(analysis.cells, tokens) for tokens in sorted({c.tokens for c in analysis.cells})}
    data = _marks(table, [cell for cell in analysis.cells if chosen[cell.tokens] == cell.batch_tokens])
    figure_id, title = "width-transfer", f"Does the optimum stay when the width grows? ({schedule_of(table)})"
    caption = (
        "Loss against η, one curve per width, at one batch per token budget (the one with most interior optima; the "
        "middle of the grid if several). η is given at base width: under muP the optima should lie above each other. "
        f"{_HOW}"
    )
    if table["width"].nunique() < 2:
        reason = "Not drawn: it compares widths, and the table has one."
        return Figure(figure_id, title, caption, data, None, reason)
    groups = [
        (f"T = {grid_count(t)}, B = {grid_count(b)}", (data["tokens"] == t) & (data["batch_tokens"] == b))
        for t, b in chosen.items()
    ]
    plot = _u_curves(data, groups, "width", "width", "N = {}", min(4, len(groups)))
    return Figure(figure_id, title, caption, data, plot)


def _marks(table: pd.DataFrame, cells: list[Cell]) -> pd.DataFrame:
    """Tidy: a row per run of these cells, per drawn point of their parabolas, and per optimum."""
    keys = pd.DataFrame([(c.width, c.tokens, c.batch_tokens) for c in cells], columns=pd.Index(KEY))
    columns = [*KEY, "lr", "seed", "loss", "status", *(["run_id"] if "run_id" in table else [])]
    runs = table.merge(keys, on=KEY)[columns].assign(kind="run")
    optima, fits = [], []
    for cell in cells:
        key = dict(zip(KEY, (cell.width, cell.tokens, cell.batch_tokens), strict=True))
        at = {"lr": cell.lr.value or cell.argmin_lr, "loss": cell.loss.value or cell.argmin_loss}
        optima.append(
            key | at | {"kind": "optimum", "state": cell.state, "lr_low": cell.lr.low, "lr_high": cell.lr.high}
            | {"text": f"η* {estimate_text(cell.lr, plain)}<br>loss {estimate_text(cell.loss, nats)} nats"}
        )  # fmt: skip
        if cell.lr.value and cell.loss.value and cell.curvature.value and cell.window:
            lr = np.geomspace(min(cell.window), max(cell.window), _CURVE_POINTS)
            loss = cell.loss.value + cell.curvature.value * np.log2(lr / cell.lr.value) ** 2
            fits.append(pd.DataFrame(key | {"kind": "parabola", "lr": lr, "loss": loss}))
    frames = [runs, *fits, pd.DataFrame(optima)]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _u_curves(
    data: pd.DataFrame, groups: list[tuple[str, pd.Series]], key: str, scale: str, label: str, columns: int
) -> go.Figure:
    """Panels of loss against lr with one colour for each value of `key`; each panel has its own loss axis."""
    values = levels(data, key)
    colour, symbol = sequential(scale, values), symbols(values)  # pyright: ignore[reportArgumentType]
    parts = [data[mask] for _, mask in groups]
    about = [{short: _only(part[column]) for short, column in _CHOICES.items()} for part in parts]
    about = [{short: value for short, value in choice.items() if value is not None} for choice in about]
    tops = [_top(part) for part in parts]
    floors = [part["loss"].min() for part in parts]
    plot = panels(
        [title for title, _ in groups],
        columns,
        x=log2_axis(data["lr"], _LR_TITLE, ticks=5),
        y=[
            {"title": "loss, nats", "range": [low - 0.06 * (top - low), top + 0.07 * (top - low)], "nticks": 5}
            for low, top in zip(floors, tops, strict=True)
        ],
        height=215,
        shared_y=False,
        narrow=250,
        about=about,
    )
    named: set[int] = set()
    for panel, (part, top) in enumerate(zip(parts, tops, strict=True)):
        for value in levels(part, key):
            name = label.format(value if key == "width" else grid_count(value))
            _draw(
                plot,
                panel,
                part[part[key] == value],
                top,
                name,
                colour[value],
                symbol[value],
                legend=value not in named,
                about=about[panel] | ({"N": value} if key == "width" else {}),
            )
            named.add(value)
    return plot


def _draw(
    plot: go.Figure,
    panel: int,
    part: pd.DataFrame,
    top: float,
    name: str,
    colour: str,
    symbol: str,
    *,
    legend: bool,
    about: Choice,
) -> None:
    """One U-curve: runs, diverged runs, parabola, optimum."""
    style = {"name": name, "legendgroup": name, "hovertemplate": "%{text}<extra></extra>", **place(panel)}
    style |= {"meta": about}
    runs = part[part["kind"] == "run"]
    inside = runs[runs["loss"] <= top]
    beyond = runs[~(runs["loss"] <= top)]
    fit = part[part["kind"] == "parabola"]
    plot.add_scatter(
        x=inside["lr"],
        y=inside["loss"],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 5.5, "opacity": 0.85},
        text=_run_words(inside, name),
        showlegend=legend,
        **style,
    )
    plot.add_scatter(
        x=fit["lr"],
        y=fit["loss"],
        mode="lines",
        line={"color": colour, "width": 1.4},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        meta=about,
        **place(panel),
    )
    plot.add_scatter(
        x=beyond["lr"],
        y=[top] * len(beyond),
        mode="markers",
        marker={
            "color": colour,
            "symbol": np.where(beyond["loss"].isna(), "x-thin-open", "arrow-up"),
            "size": 7,
            "line": {"width": 1.4},
        },
        text=_run_words(beyond, name),
        showlegend=False,
        **style,
    )
    for row in rows(part[part["kind"] == "optimum"]):
        interior = row.state == "interior"
        ends = {"array": [row.lr_high - row.lr], "arrayminus": [row.lr - row.lr_low]} if interior else {}
        plot.add_scatter(
            x=[row.lr],
            y=[row.loss],
            error_x={"type": "data", "symmetric": False, "color": colour, "thickness": 1.6, "width": 4} | ends
            if ends
            else None,
            mode="markers",
            marker={
                "color": colour if interior else MUTED,
                "symbol": _EDGE.get(row.state, "circle-open"),
                "size": 9 if interior else 11,
                "line": {"width": 1.8},
            },
            text=[f"{name}<br>{row.text}"],
            showlegend=False,
            **style,
        )


def _only(values: pd.Series) -> int | None:
    """The value that all have in common."""
    return int(values.iloc[0]) if values.nunique() == 1 else None


def _top(part: pd.DataFrame) -> float:
    """Upper edge of a panel: far enough for the U, not so far that the optimum looks flat."""
    losses = part.loc[part["kind"] == "run", "loss"].dropna()
    low = losses.min()
    return float(min(losses.max(), low + _ZOOM * (losses.median() - low)))


def _run_words(runs: pd.DataFrame, name: str) -> list[str]:
    return [
        f"{name}, η = {plain(row.lr)}, seed {row.seed:g}<br>"
        + (f"loss {nats(row.loss)} nats" if np.isfinite(row.loss) else "diverged")
        + (f"<br>run {row.run_id}" if "run_id" in runs and not pd.isna(row.run_id) else "")
        for row in rows(runs)
    ]


def _shared_batch(cells: tuple[Cell, ...], tokens: int) -> int:
    """The batch with most interior optima over the widths at this T; of several, the one nearest the middle."""
    batches = sorted({cell.batch_tokens for cell in cells if cell.tokens == tokens})
    interior = [c.batch_tokens for c in cells if c.tokens == tokens and c.state == "interior"]
    middle = (len(batches) - 1) / 2
    return max(batches, key=lambda b: (interior.count(b), -abs(batches.index(b) - middle)))
