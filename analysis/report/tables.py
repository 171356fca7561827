"""The tables below the figures: runs, forms with AICc, growth laws, best batches, all cells; and the definitions."""

from collections import Counter

import pandas as pd

from analysis.check import ANALYSED
from analysis.definitions import form_name, quantity_name
from analysis.notation import compact, estimate_text, grid_count, hundredths, nats, plain
from analysis.report.html import facts, html_table
from analysis.results import Analysis, Cell, LrLaw

STATES = {
    "interior": "interior",
    "edge_low": "edge, low",
    "edge_high": "edge, high",
    "too_few": "too few",
    "not_convex": "not convex",
}
TERMS = (
    ("T, B, N", "Training tokens seen; tokens per optimizer step; residual width. Every token is seen once."),
    ("η, lr", "Peak learning rate at base width; the parametrization turns it into the rate of each tensor."),
    (
        "η*(N, T, B)",
        "Learning rate of the lowest loss: vertex of a parabola in log<sub>2</sub> η through the points around the "
        "minimum. Never extrapolated: if the lowest loss is at the edge of the grid (edge, low or high) it is a "
        "bound; with too few points or no positive curvature it is unknown. Diverged runs count as higher than any "
        "loss but enter no parabola.",
    ),
    (
        "By window, octaves",
        "How far η* depends on the window of the parabola: the spread over 3, 5 and 7 learning rates, over those "
        "within 0.03 and 0.1 nats of the lowest loss, and a robust fit to 7. Beside it the rate of the lowest loss.",
    ),
    ("B*(T)", "Batch of the lowest loss when η is tuned for each B. Not a critical batch."),
    (
        "Interval",
        "95 %. It covers the scatter of runs and the choice of the window, not what another data set or model would "
        "change.",
    ),
    (
        "Checks of a growth exponent",
        "By resampling: percentiles over resampled cells. By choice: lowest and highest over the windows of the "
        "parabola and over the forms that are not told apart. Bend: coefficient of log<sub>2</sub>(T)², 0 for a power "
        "law. A level per N: the exponent of T when every width has a level of its own.",
    ),
    (
        "AICc, weight",
        "Akaike's criterion, corrected for few points; lower is better. The weight is each form's share among those "
        "fitted to the same points. A difference below 2 decides nothing.",
    ),
)


def tables(table: pd.DataFrame, analysis: Analysis) -> str:
    """The section of tables, as HTML."""
    cells = html_table(
        [
            "N",
            "T",
            "B",
            "state",
            "η*",
            "by window, octaves",
            "lowest tried",
            "loss at η*, nats",
            "S<sub>c</sub>, nats/octave²",
            "learning rates",
            "seeds",
            "diverged",
        ],
        [_cell_row(cell) for cell in analysis.cells],
        "All cells",
    )
    return "\n".join(
        (
            '<section id="tables" class="wide"><h2>Tables</h2>',
            "<h3>Runs and cells</h3>",
            _counts(table, analysis),
            "<h3>Forms of η*(B), by AICc</h3>",
            _laws(analysis.lr_laws) if analysis.lr_laws else "<p>No form was fitted.</p>",
            "<h3>Growth laws</h3>",
            growth_table(analysis) if analysis.growth else "<p>No growth law was fitted.</p>",
            _sensitivity(analysis) if analysis.sensitivity_laws else "",
            "<h3>Best batch</h3>",
            _best(analysis) if analysis.best_batch else "<p>No best batch was found.</p>",
            f"<details><summary>All {len(analysis.cells)} cells (N, T, B)</summary>{cells}</details>",
            "</section>",
            f'<section id="definitions"><h2>Definitions</h2>{facts(TERMS, "terms")}</section>',
        )
    )


def _counts(table: pd.DataFrame, analysis: Analysis) -> str:
    """Rows of the run table and states of the cells for every (N, T)."""
    rows = []
    for (width, tokens), part in table.groupby(["width", "tokens"]):
        status = part["status"].value_counts()
        other = len(part) - sum(int(status.get(name, 0)) for name in ANALYSED)
        states = Counter(cell.state for cell in analysis.cells if (cell.width, cell.tokens) == (width, tokens))
        rows.append(
            [str(width), grid_count(float(str(tokens)))]
            + [str(int(status.get(name, 0))) for name in ANALYSED]
            + [str(other)]
            + [str(states[state]) for state in STATES]
        )
    head = ["N", "T", *ANALYSED, "other, not analysed", *(f"cells: {label}" for label in STATES.values())]
    return html_table(head, rows, "Runs and cells by width and budget")


def _laws(laws: tuple[LrLaw, ...]) -> str:
    best = {
        tokens: min((law.aicc for law in laws if law.tokens == tokens and law.aicc is not None), default=None)
        for tokens in {law.tokens for law in laws}
    }
    rows = [
        [
            "all" if law.tokens is None else grid_count(law.tokens),
            form_name(law.form),
            "" if law.weight is None else f"{law.weight:.2f}",
            "" if law.aicc is None else f"{law.aicc:.1f}",
            "" if law.aicc is None or (low := best[law.tokens]) is None else f"{law.aicc - low:.1f}",
            f"{law.rms_octaves:.3f}",
            f"{law.chi2:.1f}",
            f"{law.n_points}, {law.n_parameters}",
            f'<span class="long">{_parameters(law)}</span>',
        ]
        for law in sorted(laws, key=lambda law: (law.tokens or 0, law.aicc is None, law.aicc))
    ]
    head = [
        "T",
        "form",
        "weight",
        "AICc",
        "above best",
        "rms, octaves",
        "χ²",
        "points, parameters",
        "parameters [95 %]",
    ]
    return html_table(head, rows, "Forms by AICc")


def _parameters(law: LrLaw) -> str:
    texts = {
        name: estimate_text(value, grid_count if name == "batch_crit" else plain)
        for name, value in law.parameters.items()
    }
    return "; ".join(f'{name.replace("_", " ")} <span class="num">{text}</span>' for name, text in texts.items())


def growth_table(analysis: Analysis) -> str:
    """The growth laws, as HTML."""
    rows = [
        [
            quantity_name(growth.quantity) + ("" if growth.variable == "tokens" else ", against parameters"),
            estimate_text(growth.exponent, hundredths),
            *(
                estimate_text(check, hundredths) if check else ""
                for check in (growth.bootstrap, growth.choices, growth.bend, growth.exponent_within)
            ),
            estimate_text(growth.exponent_width, hundredths) if growth.exponent_width else "",
            estimate_text(growth.coefficient, hundredths),
            compact(growth.reference_tokens),
            str(growth.n_points),
        ]
        for growth in analysis.growth
    ]
    head = [
        "quantity",
        "exponent (of T unless said)",
        "by resampling",
        "by choice of window and form",
        "bend",
        "a level per N",
        "exponent of N",
        "log<sub>2</sub> of the quantity at the reference",
        "reference",
        "points",
    ]
    return html_table(head, rows, "Growth laws")


def _sensitivity(analysis: Analysis) -> str:
    rows = [
        [
            quantity_name(law.measure if law.measure == "curvature" else f"sensitivity:{law.measure}"),
            *(
                estimate_text(exponent, hundredths) if exponent else ""
                for exponent in (law.exponent_tokens, law.exponent_batch, law.exponent_width)
            ),
            str(law.n_points),
        ]
        for law in analysis.sensitivity_laws
    ]
    head = ["measure", "exponent of T", "exponent of B", "exponent of N", "points"]
    return "<h3>Sensitivity in T, B and N together</h3>" + html_table(rows=rows, head=head, label="Sensitivity laws")


def _best(analysis: Analysis) -> str:
    rows = [
        [
            "all" if best.width is None else str(best.width),
            grid_count(best.tokens),
            estimate_text(best.batch, grid_count),
            f"{grid_count(best.bracket[0])} to {grid_count(best.bracket[1])}",
            estimate_text(best.lr),
            estimate_text(best.loss, nats),
        ]
        for best in analysis.best_batch
    ]
    return html_table(
        ["N", "T", "B*, tokens", "bracket of the grid", "η* at B*", "loss, nats"],
        rows,
        "Best batch by width and budget",
    )


def _cell_row(cell: Cell) -> list[str]:
    return [
        str(cell.width),
        grid_count(cell.tokens),
        grid_count(cell.batch_tokens),
        STATES[cell.state],
        estimate_text(cell.lr),
        "" if cell.window_octaves is None else f"{cell.window_octaves:.2f}",
        plain(cell.argmin_lr),
        estimate_text(cell.loss, nats),
        estimate_text(cell.curvature),
        str(cell.n_lrs),
        str(cell.n_seeds),
        str(cell.n_diverged),
    ]
