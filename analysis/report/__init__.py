"""The local report: one self-contained page, every number as JSON, the run table and what each figure was drawn from as
CSV: what a reader needs to check it, wherever it is copied to (`bcrit review`)."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis import figures
from analysis.analyse import to_json
from analysis.check import check_table, with_status
from analysis.figures import Figure
from analysis.figures.surge import surge_at_checkpoints
from analysis.report.page import render
from analysis.results import Analysis
from analysis.steps import is_steps_table
from analysis.surge_measured import Surge
from configs.rundir import write_atomic


def write_report(table: pd.DataFrame, analysis: Analysis, out_dir: Path, surges: Sequence[Surge] = ()) -> Path:
    """Write `out_dir`/index.html, laws.json, table.csv and data/<figure>.csv atomically, the page last; return it.

    `table` is the run table that was analysed, with all its rows: what the analysis left out is not drawn but counted.
    `surges`: what `bcrit surge` measured at its checkpoints, which has a figure of its own.
    Raises ConfigError if the table cannot be analysed.
    """
    drawn = drawn_figures(table, analysis, surges)
    (out_dir / "data").mkdir(parents=True, exist_ok=True)
    for figure in drawn:
        write_atomic(out_dir / "data" / f"{figure.id}.csv", figure.data.to_csv(index=False))
    write_atomic(out_dir / "table.csv", table.to_csv(index=False))
    write_atomic(out_dir / "laws.json", json.dumps(to_json(analysis), indent=1, allow_nan=False))
    page = out_dir / "index.html"
    write_atomic(page, render(table if is_steps_table(table) else with_status(table), analysis, drawn))
    return page


def drawn_figures(table: pd.DataFrame, analysis: Analysis, surges: Sequence[Surge] = ()) -> tuple[Figure, ...]:
    """The figures of a report, in its order. Raises ConfigError if the table cannot be analysed."""
    analysed = table if is_steps_table(table) else check_table(table).table
    return figures.draw(analysed, analysis) + ((surge_at_checkpoints(surges),) if surges else ())


__all__ = ["drawn_figures", "write_report"]
