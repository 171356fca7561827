"""Figures of the batch: B_crit(T) beside B*(T), and loss against B at the tuned learning rate."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.definitions import definition_name, definitions_of
from analysis.figures import marks
from analysis.figures.colours import BLUE, GREEN, INK, ORANGE, PINK, PURPLE, sequential, symbols
from analysis.figures.figure import BATCH_TITLE, SHIFTED, TOKENS_TITLE, Figure, schedule_of
from analysis.figures.frames import (
    KEY,
    cells,
    estimate_columns,
    extent,
    known,
    levels,
    lowest_runs,
    numeric,
    rows,
    spread,
    words,
)
from analysis.figures.panels import Choice, log2_axis, panels
from analysis.notation import grid_count, nats
from analysis.results import Analysis, Growth

COLOURS = (BLUE, PURPLE, ORANGE, GREEN, PINK, INK)
_BAND_POINTS = 60
_FROM_LR = ("time_transfer_surge", "time_transfer_surge_all_budgets", "sqrt_saturation", "linear_saturation")


def critical_batch(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """B_crit(T) by each definition and B*(T) per width, with the fitted growth: figure 3."""
    found = [
        {"kind": "batch_crit", "series": crit.definition, "width": None, "tokens": crit.tokens, "factor": crit.factor}
        | spread("batch", crit.batch)
        for crit in analysis.critical_batch
    ] + [
        {"kind": "batch_best", "series": "batch_best", "width": best.width, "tokens": best.tokens}
        | spread("batch", best.batch)
        for best in analysis.best_batch
    ]
    data = numeric(found, ["kind", "series", "width", "tokens", *estimate_columns("batch"), "factor"])
    figure_id, title = "critical-batch", f"Critical and best batch against token budget ({schedule_of(table)})"
    caption = (
        "B<sub>crit</sub>(T), each series by its own definition (named in the legend, defined in the summary; they are "
        "different quantities), those from the learning rate apart from those from the loss; and B*(T), the batch of "
        "lowest loss when η is tuned for each B. "
        "Bars are 95 % intervals, open triangles are bounds: the grid does not reach the truth, it lies where they "
        "point. Lines with bands: the fitted growth T<sup>α</sup> with its 95 % band, drawn only where the exponent "
        f"is identified. {SHIFTED}"
    )
    if not known(data, "batch"):
        reason = "Not drawn: neither B<sub>crit</sub> nor B* is identified or bounded at any T."
        return Figure(figure_id, title, caption, data, None, reason)
    drawn = {"batch_best"} | {f"batch_crit:{crit.definition}" for crit in analysis.critical_batch}
    laws = [law for law in analysis.growth if law.quantity in drawn and law.variable == "tokens"]
    fits = [fit for law in laws if (fit := _fit(law, data["tokens"])) is not None]
    definitions = definitions_of(analysis)
    shown = {
        "B<sub>crit</sub>(T), from η*(B)": [name for name in definitions if name in _FROM_LR],
        "B<sub>crit</sub>(T), from the loss": [name for name in definitions if name not in _FROM_LR],
        "B*(T), lowest loss at tuned η": ["batch_best"] if analysis.best_batch else [],
    }
    shown = {title: series for title, series in shown.items() if series}
    place = {name: panel for panel, series in enumerate(shown.values()) for name in series}
    span = np.clip(extent(data, "batch"), table["batch_tokens"].min() / 16, table["batch_tokens"].max() * 16)
    plot = panels(
        list(shown),
        3,
        x=log2_axis(data["tokens"], TOKENS_TITLE, finest=1),
        y=log2_axis(span, BATCH_TITLE, finest=1, pad=(0.6, 0.6)),
        height=360,
    )
    colour = {
        name: tone for series in shown.values() for name, tone in zip(series, COLOURS * len(series), strict=False)
    } | {"batch_best": INK}
    for fit in fits:
        series = fit["series"].iloc[0]
        about = {} if series == "batch_best" else {"definition": series}
        panel, line = place[series], {"group": series, "colour": colour[series], "about": about}
        marks.band(plot, panel, fit["tokens"], fit["batch_low"], fit["batch_high"], **line)
        marks.curve(plot, panel, fit["tokens"], fit["batch"], name=series, **line)
    symbol = symbols(definitions)
    for together in shown.values():
        for definition, shift in zip(together, marks.shifts(len(together)), strict=True):
            if definition != "batch_best":
                part, name = data[data["series"] == definition], definition_name(definition)
                style = (colour[definition], symbol[definition], shift, {"definition": definition})
                _series(plot, place[definition], part, name, definition, *style)
    best = data[data["kind"] == "batch_best"]
    keys = sorted(best["width"].fillna(0).unique())  # 0: all widths together
    ink, symbol = sequential("width", keys), symbols(keys)
    for width, shift in zip(keys, marks.shifts(len(keys)), strict=True):
        part, name = best[best["width"].fillna(0) == width], f"B*, N = {width:g}" if width else "B*, all widths"
        about = {"N": int(width)} if width else {}
        _series(plot, place["batch_best"], part, name, name, ink[width], symbol[width], shift, about)
    return Figure(figure_id, title, caption, pd.concat([data, *fits], ignore_index=True), plot)


def loss_against_batch(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """Loss at the tuned learning rate above the best batch's, one curve per T: figure 7."""
    frame = cells(analysis)
    data = frame[[*KEY, "state", *estimate_columns("loss"), "argmin_loss"]].copy()
    data["tuned"] = data["loss"].fillna(data["argmin_loss"])
    best = data.groupby(["width", "tokens"])["tuned"].transform("min")
    data["excess"] = data["tuned"] - best
    data["excess_low"], data["excess_high"] = data["loss_low"] - best, data["loss_high"] - best
    data["excess_status"] = np.where(data["loss"].notna(), "ok", "upper_bound")
    data["excess_high"] = data["excess_high"].where(data["loss"].notna(), data["excess"])
    data["excess"] = data["excess"].where(data["loss"].notna())
    figure_id, title = "loss-against-batch", f"Loss against batch at the tuned learning rate ({schedule_of(table)})"
    caption = (
        "Validation loss at η*(B), in nats above the lowest of the same (N, T); bars are 95 % intervals. Where a "
        "curve is flat within its bars, the best batch is not resolved. Open triangles: η* lay at the edge of the "
        "learning-rate grid, so the loss shown is only an upper bound of the tuned loss."
    )
    if data["batch_tokens"].nunique() < 2:
        reason = "Not drawn: it needs at least two batches B, and the table has one."
        return Figure(figure_id, title, caption, data, None, reason)
    widths, budgets = levels(data, "width"), levels(data, "tokens")
    top = max(data["excess_high"].max(), data["excess"].max(), 1e-6)
    plot = panels(
        [f"N = {width}" for width in widths],
        3,
        x=log2_axis(data["batch_tokens"], BATCH_TITLE, finest=1),
        y={"title": "loss above the best batch, nats", "range": [-0.04 * top, 1.06 * top], "nticks": 7},
        height=340,
        about=[{"N": width} for width in widths],
    )
    colour, symbol = sequential("tokens", budgets), symbols(budgets)
    lowest = lowest_runs(table)
    for panel, width in enumerate(widths):
        for tokens in budgets:
            part = data[(data["width"] == width) & (data["tokens"] == tokens)]
            label = f"T = {grid_count(tokens)}"
            marks.measured(
                plot,
                panel,
                part,
                "batch_tokens",
                "excess",
                name=label,
                group=label,
                colour=colour[tokens],
                symbol=symbol[tokens],
                legend=panel == 0,
                hover=[
                    f"{label}, B = {grid_count(row.batch_tokens)}<br>loss {nats(row.tuned)} nats, "
                    f"above the best: {words(row, 'excess', nats)}"
                    f"{lowest.get((width, tokens, row.batch_tokens), '')}"
                    for row in rows(part)
                ],
                about={"N": width, "T": tokens},
            )
    return Figure(figure_id, title, caption, data, plot)


def _series(
    plot: go.Figure,
    panel: int,
    part: pd.DataFrame,
    label: str,
    group: str,
    colour: str,
    symbol: str,
    shift: float,
    about: Choice,
) -> None:
    marks.measured(
        plot,
        panel,
        part,
        "tokens",
        "batch",
        name=label,
        group=group,
        shift=shift,
        about=about,
        colour=colour,
        symbol=symbol,
        line=False,
        legend=len(part) > 0,
        hover=[
            f"{label}, T = {grid_count(row.tokens)}<br>{words(row, 'batch', grid_count)} tokens" for row in rows(part)
        ],
    )


def _fit(growth: Growth, tokens: pd.Series) -> pd.DataFrame | None:
    """The growth law over the drawn budgets with its 95 % band; None if it is not identified.

    At the reference budget (the centre of the points) slope and level are uncorrelated, so that half-widths of the two
    intervals add in quadrature.
    """
    ends = [end for e in (growth.coefficient, growth.exponent) for end in (e.value, e.low, e.high) if end is not None]
    if len(ends) < 6:
        return None
    level, level_low, level_high, slope, slope_low, slope_high = ends
    x = np.geomspace(tokens.min(), tokens.max(), _BAND_POINTS)
    octaves = np.log2(x / growth.reference_tokens)
    centre = level + slope * octaves
    steeper, flatter = octaves * (slope_high - slope), octaves * (slope - slope_low)
    above = np.hypot(level_high - level, np.where(octaves > 0, steeper, flatter))
    below = np.hypot(level - level_low, np.where(octaves > 0, flatter, steeper))
    return pd.DataFrame(
        {
            "kind": "growth",
            "series": growth.quantity.removeprefix("batch_crit:"),
            "tokens": x,
            "batch": 2.0**centre,
            "batch_low": 2.0 ** (centre - below),
            "batch_high": 2.0 ** (centre + above),
        }
    )
