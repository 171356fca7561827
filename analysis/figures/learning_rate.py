"""Figures of the tuned learning rate: against T, against B with the fitted forms, and eta_crit(T)."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.critical_batch import DEFINITION_OF_FORM
from analysis.figures import marks
from analysis.figures.colours import BLUE, ORANGE, sequential, symbols
from analysis.figures.figure import BATCH_TITLE, CENSORED, LR_TITLE, SHIFTED, TOKENS_TITLE, Figure, schedule_of
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
from analysis.figures.panels import Choice, log2_axis, panels, place
from analysis.forms import FORMS
from analysis.laws import predict_lr
from analysis.notation import compact, grid_count
from analysis.results import Analysis, LrLaw

_CROWDED = 4  # budgets beyond which the curves of the second form start hidden
DRAWN_FORMS = {"surge": "solid", "sqrt_saturation": "dot"}


def lr_against_tokens(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """eta*(T), one curve per B, one panel per width, with slopes +-1/2: figure 1."""
    data = cells(analysis)[[*KEY, "state", *estimate_columns("lr")]]
    figure_id, title = "lr-against-tokens", f"Tuned learning rate against token budget ({schedule_of(table)})"
    caption = (
        "η*: minimum of a parabola in log<sub>2</sub> η through the points around the lowest loss of each (N, T, B); "
        f"bars are 95 % intervals. {CENSORED} {SHIFTED} Dashed: η ∝ T<sup>±1/2</sup>. The early theory expects −1/2 "
        "where B ≪ B<sub>crit</sub>, +1/2 where B ≫ B<sub>crit</sub>."
    )
    if data["tokens"].nunique() < 2:
        reason = "Not drawn: it needs at least two token budgets T, and the table has one."
        return Figure(figure_id, title, caption, data, None, reason)
    widths, batches = levels(data, "width"), levels(data, "batch_tokens")
    plot = panels(
        [f"N = {width}" for width in widths],
        3,
        x=log2_axis(data["tokens"], TOKENS_TITLE, finest=1),
        y=log2_axis(extent(data, "lr"), LR_TITLE, pad=(0.15, 0.15)),
        height=340,
        about=[{"N": width} for width in widths],
    )
    colour, symbol = sequential("batch", batches), symbols(batches)
    ends = np.array([data["tokens"].min() / 1.2, data["tokens"].max() * 1.2])
    lrs, lowest = known(data, "lr"), lowest_runs(table)
    middle = float(np.exp(np.log(lrs).mean())) if len(lrs) else None  # where a guide of slope ±1/2 can pass
    for panel, width in enumerate(widths):
        for sign in (0.5, -0.5) if middle else ():
            slope = middle * (ends / np.sqrt(ends.prod())) ** sign
            marks.guide(plot, panel, ends, slope, name="slopes ±1/2", legend=panel == 0 and sign > 0)
        for batch, shift in zip(batches, marks.shifts(len(batches)), strict=True):
            part = data[(data["width"] == width) & (data["batch_tokens"] == batch)]
            label = f"B = {grid_count(batch)}"
            marks.measured(
                plot,
                panel,
                part,
                "tokens",
                "lr",
                name=label,
                group=label,
                colour=colour[batch],
                symbol=symbol[batch],
                legend=panel == 0,
                hover=[
                    f"{label}, T = {grid_count(row.tokens)}<br>η* {words(row, 'lr')}"
                    f"{lowest.get((width, row.tokens, batch), '')}"
                    for row in rows(part)
                ],
                shift=shift,
                about={"N": width},
            )
    return Figure(figure_id, title, caption, data, plot)


def lr_against_batch(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """eta*(B), one curve per T, with fitted surge and saturation curves and B_crit: figure 2."""
    points = cells(analysis)[[*KEY, "state", *estimate_columns("lr")]].assign(kind="cell", form="")
    figure_id, title = "lr-against-batch", f"Tuned learning rate against batch ({schedule_of(table)})"
    caption = (
        "Marks: η* of each (N, T, B) with 95 % intervals. Solid: the surge form η* = η<sub>crit</sub> / "
        "[½(√(B<sub>crit</sub>/B) + √(B/B<sub>crit</sub>))] fitted at each T to all widths together (the same curve "
        "in every panel). Dotted (with many T, after a click on its name): square-root saturation η* = "
        "η<sub>∞</sub>/√(1 + B<sub>crit</sub>/B). Rings with a bar on the lower edge: B<sub>crit</sub>(T) of the "
        f"surge form with its 95 % interval; triangles there are bounds. {CENSORED}"
    )
    if points["batch_tokens"].nunique() < 2:
        reason = "Not drawn: it needs at least two batches B, and the table has one."
        return Figure(figure_id, title, caption, points, None, reason)
    widths, budgets = levels(points, "width"), levels(points, "tokens")
    grid = np.geomspace(points["batch_tokens"].min() / 1.2, points["batch_tokens"].max() * 1.2, 80)
    curves = [_curve(law, law.tokens, grid) for law in analysis.lr_laws if law.form in DRAWN_FORMS and law.tokens]
    crits = numeric(
        (
            {"kind": "batch_crit", "tokens": crit.tokens, "form": "surge"} | spread("batch_crit", crit.batch)
            for crit in analysis.critical_batch
            if crit.definition == "time_transfer_surge"
        ),
        ["kind", "tokens", "form", *estimate_columns("batch_crit")],
    )
    y_values = [*extent(points, "lr"), *(y for frame in curves for y in frame["lr"])]
    y_axis = log2_axis(y_values, LR_TITLE, pad=(0.9, 0.2))
    floor = 10 ** y_axis["range"][0] * 2**0.2
    crits["drawn_at_lr"] = floor * 2 ** (0.5 / len(budgets) * crits["tokens"].rank(method="dense").sub(1))
    plot = panels(
        [f"N = {width}" for width in widths],
        3,
        x=log2_axis(_crit_span(points, crits), BATCH_TITLE, finest=1),
        y=y_axis,
        height=360,
        about=[{"N": width} for width in widths],
    )
    colour, symbol = sequential("tokens", budgets), symbols(budgets)
    lowest = lowest_runs(table)
    for panel, width in enumerate(widths):
        for frame in curves:
            form, tokens = str(frame["form"].iloc[0]), int(frame["tokens"].iloc[0])
            marks.curve(
                plot,
                panel,
                frame["batch_tokens"],
                frame["lr"],
                name="surge" if form == "surge" else "√ saturation",
                group=f"form {form}",
                colour=colour[tokens],
                dash=DRAWN_FORMS[form],
                hidden=form != "surge" and len(budgets) > _CROWDED,
                legend=panel == 0 and tokens == budgets[-1],
                about={"N": width, "T": tokens, "definition": DEFINITION_OF_FORM[form]},
            )
        for tokens in budgets:
            part = points[(points["width"] == width) & (points["tokens"] == tokens)]
            label = f"T = {grid_count(tokens)}"
            marks.measured(
                plot,
                panel,
                part,
                "batch_tokens",
                "lr",
                name=label,
                group=label,
                colour=colour[tokens],
                symbol=symbol[tokens],
                line=not curves,
                legend=panel == 0,
                hover=[
                    f"{label}, B = {grid_count(row.batch_tokens)}<br>η* {words(row, 'lr')}"
                    f"{lowest.get((width, tokens, row.batch_tokens), '')}"
                    for row in rows(part)
                ],
                about={"N": width, "T": tokens},
            )
            about = {"N": width, "T": tokens, "definition": DEFINITION_OF_FORM["surge"]}
            _mark_crit(plot, panel, crits[crits["tokens"] == tokens], label, colour[tokens], about)
    return Figure(figure_id, title, caption, pd.concat([points, *curves, crits], ignore_index=True), plot)


def lr_crit(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """eta_crit(T) of the surge form and eta_inf(T) of the saturation, with the growth fit: figure 4."""
    data = numeric(
        (
            {"kind": "law", "form": law.form, "tokens": law.tokens}
            | spread("lr", law.parameters[FORMS[law.form].lr_name])
            for law in analysis.lr_laws
            if law.form in DRAWN_FORMS and law.tokens is not None
        ),
        ["kind", "form", "tokens", *estimate_columns("lr")],
    )
    figure_id, title = "lr-crit", f"Critical learning rate against token budget ({schedule_of(table)})"
    caption = (
        "η<sub>crit</sub>(T): the height of the surge form at B<sub>crit</sub>, its largest learning rate; for the "
        "square-root saturation the limit η<sub>∞</sub>(T) of large batches. One fit per T over all widths; bars are "
        "95 % intervals; open triangles are bounds."
    )
    if not known(data, "lr"):
        reason = "Not drawn: no form of η*(B) could be fitted at any T, so η<sub>crit</sub> is not identified."
        return Figure(figure_id, title, caption, data, None, reason)
    plot = panels(
        [""],
        1,
        height=300,
        x=log2_axis(data["tokens"], TOKENS_TITLE, finest=1),
        y=log2_axis(extent(data, "lr"), "learning rate η<sub>crit</sub> (at base width)"),
    )
    styles = {
        "surge": (BLUE, "circle", "surge: η<sub>crit</sub>"),
        "sqrt_saturation": (ORANGE, "square", "√ saturation: η<sub>∞</sub>"),
    }
    for form, (colour, symbol, label) in styles.items():
        part = data[data["form"] == form]
        marks.measured(
            plot,
            0,
            part,
            "tokens",
            "lr",
            name=label,
            group=form,
            colour=colour,
            symbol=symbol,
            legend=len(part) > 0,
            hover=[f"{label}, T = {grid_count(row.tokens)}<br>{words(row, 'lr')}" for row in rows(part)],
            about={"definition": DEFINITION_OF_FORM[form]},
        )
    return Figure(figure_id, title, caption, data, plot)


def _curve(law: LrLaw, tokens: int, batches: np.ndarray) -> pd.DataFrame:
    """The best fit of one T, pooled over widths (so that the width asked for does not matter)."""
    lr = predict_lr(law, batches, tokens, width=1.0)
    return pd.DataFrame({"kind": "curve", "form": law.form, "tokens": tokens, "batch_tokens": batches, "lr": lr})


def _crit_span(points: pd.DataFrame, crits: pd.DataFrame) -> list[float]:
    """What the batch axis covers: the grid, and B_crit where it is within two octaves of it."""
    grid = points["batch_tokens"]
    return [*grid, *np.clip(known(crits, "batch_crit"), grid.min() / 4, grid.max() * 4)]


def _mark_crit(plot: go.Figure, panel: int, crits: pd.DataFrame, group: str, colour: str, about: Choice) -> None:
    """B_crit of one T near the lower edge: a ring with its interval, or a triangle that points at the truth."""
    for row in rows(crits):
        shape = {"ok": "circle-open", "lower_bound": "triangle-right-open", "upper_bound": "triangle-left-open"}
        at = {"ok": row.batch_crit, "lower_bound": row.batch_crit_low, "upper_bound": row.batch_crit_high}
        if row.batch_crit_status not in at:
            continue
        interval = {
            "array": [row.batch_crit_high - row.batch_crit],
            "arrayminus": [row.batch_crit - row.batch_crit_low],
        }
        plot.add_scatter(
            x=[at[row.batch_crit_status]],
            y=[row.drawn_at_lr],
            error_x=None
            if row.batch_crit_status != "ok"
            else {"type": "data", "symmetric": False, "color": colour, "thickness": 1.5, "width": 0} | interval,
            mode="markers",
            marker={"color": colour, "symbol": shape[row.batch_crit_status], "size": 9, "line": {"width": 2}},
            legendgroup=group,
            showlegend=False,
            text=[f"{group}<br>B<sub>crit</sub> {words(row, 'batch_crit', compact)}"],
            hovertemplate="%{text}<extra></extra>",
            meta=about,
            **place(panel),
        )
