"""The sections of a report on steps to target losses that differ from those of a run table."""

from html import escape

import pandas as pd

from analysis.notation import grid_count
from analysis.report.html import facts, html_table
from analysis.report.tables import growth_table
from analysis.results import Analysis
from analysis.steps import by_target


def steps_provenance(table: pd.DataFrame, analysis: Analysis) -> str:
    """What the table holds, as HTML."""
    studies = table["study"].astype(str).unique() if "study" in table else ["not recorded"]
    batches = ", ".join(grid_count(batch) for batch in sorted(table["batch_tokens"].unique()))
    pairs = [
        ("Table", escape(", ".join(studies))),
        ("Rows", f"{len(table)}, each the steps of one batch to a target loss"),
        ("Batches B, tokens", batches),
        ("Targets", escape("; ".join(label for label, _ in by_target(table)))),
    ]
    return f'<section id="provenance"><h2>Where the numbers come from</h2>{facts(pairs)}</section>'


def steps_tables(table: pd.DataFrame, analysis: Analysis) -> str:
    """The table itself and the growth laws, as HTML."""
    rows = [
        [escape(label), grid_count(float(batch)), f"{steps:.0f}"]
        for label, part in by_target(table)
        for batch, steps in zip(part["batch_tokens"], part["steps"], strict=True)
    ]
    return "\n".join(
        (
            '<section id="tables" class="wide"><h2>Tables</h2>',
            "<h3>Growth laws</h3>",
            growth_table(analysis) if analysis.growth else "<p>No growth law was fitted.</p>",
            "<h3>Steps to target</h3>",
            html_table(["model, target", "B, tokens", "steps"], rows, "Steps to target"),
            "</section>",
        )
    )
