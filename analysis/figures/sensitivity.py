"""Figure of the sensitivity: how much loss a mistuned learning rate costs, against T, per width."""

import pandas as pd

from analysis.figures import marks
from analysis.figures.colours import sequential, symbols
from analysis.figures.figure import SHIFTED, TOKENS_TITLE, Figure, schedule_of
from analysis.figures.frames import KEY, estimate_columns, extent, known, levels, numeric, rows, spread, words
from analysis.figures.panels import log2_axis, panels
from analysis.notation import grid_count, plain
from analysis.results import Analysis

_MEASURES = {
    "curvature": "S<sub>c</sub>, nats / octave²",
    "window1": "S<sub>w</sub>(1), nats",
    "wortsman": "S<sub>W</sub>, nats",
}


def sensitivity(table: pd.DataFrame, analysis: Analysis) -> Figure:
    """Three sensitivities against T, one curve per B; a row per measure, a column per width: figure 6."""
    found = (
        dict(zip(KEY, (cell.width, cell.tokens, cell.batch_tokens), strict=True))
        | {"measure": name}
        | spread("sensitivity", value)
        for cell in analysis.cells
        for name, value in ({"curvature": cell.curvature} | cell.sensitivity).items()
        if name in _MEASURES
    )
    data = numeric(found, [*KEY, "measure", *estimate_columns("sensitivity")])
    figure_id, title = "sensitivity", f"Sensitivity to the learning rate against token budget ({schedule_of(table)})"
    caption = (
        "S<sub>c</sub>: curvature of the parabola in log<sub>2</sub> η (loss − loss* = S<sub>c</sub> × octaves²). "
        "S<sub>w</sub>(1): mean loss above the optimum over η*/2 … 2η*, a window that moves with η*. S<sub>W</sub>: "
        "mean over the whole learning-rate sweep of min(loss, loss at initialisation) − loss* (Wortsman et al. "
        "2023), diverged runs counted at the loss of initialisation. Bars are 95 % intervals; open triangles are "
        f"bounds. {SHIFTED}"
    )
    drawn = [name for name in _MEASURES if known(data[data["measure"] == name], "sensitivity")]
    if data["tokens"].nunique() < 2 or not drawn:
        reason = "Not drawn: it needs sensitivities at two token budgets T or more, and the table does not give them."
        return Figure(figure_id, title, caption, data, None, reason)
    widths, batches = levels(data, "width"), levels(data, "batch_tokens")
    cells = [(name, width) for name in drawn for width in widths]
    y_axes = {
        name: log2_axis(extent(data[data["measure"] == name], "sensitivity"), _MEASURES[name], ticks=5)
        for name in drawn
    }
    plot = panels(
        [f"{name_of(name)}, N = {width}" for name, width in cells],
        len(widths),
        x=log2_axis(data["tokens"], TOKENS_TITLE, finest=1),
        y=[y_axes[name] for name, _ in cells],
        height=220,
        shared_y=False,
        about=[{"N": width} for _, width in cells],
    )
    colour, symbol = sequential("batch", batches), symbols(batches)
    for panel, (name, width) in enumerate(cells):
        for batch, shift in zip(batches, marks.shifts(len(batches)), strict=True):
            part = data[(data["measure"] == name) & (data["width"] == width) & (data["batch_tokens"] == batch)]
            label = f"B = {grid_count(batch)}"
            marks.measured(
                plot,
                panel,
                part,
                "tokens",
                "sensitivity",
                name=label,
                group=label,
                colour=colour[batch],
                symbol=symbol[batch],
                legend=panel == 0,
                hover=[
                    f"{label}, T = {grid_count(row.tokens)}<br>{name_of(name)} {words(row, 'sensitivity', plain)}"
                    for row in rows(part)
                ],
                shift=shift,
                about={"N": width},
            )
    return Figure(figure_id, title, caption, data, plot)


def name_of(measure: str) -> str:
    """The symbol of a measure without its unit."""
    return _MEASURES[measure].split(",")[0]
