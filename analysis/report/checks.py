"""The pages of `bcrit coordcheck` and `bcrit transfer`: figures, the table, and the numbers as JSON and CSV."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import pandas as pd

from analysis import transfer
from analysis.console import verdict, written
from analysis.coordinates import CoordinateSlope, passes
from analysis.figures import Figure
from analysis.figures.coordinate_check import coordinate_figures
from analysis.figures.transfer import transfer_figure
from analysis.report.html import bullets, html_table
from analysis.report.page import figure_html, page
from configs.rundir import write_atomic


def write_coordinates(
    measured: pd.DataFrame, slopes: Mapping[str, Sequence[CoordinateSlope]], heading: str, how: str, out_dir: Path
) -> Path:
    """Write `out_dir`/index.html, coordinates.json and data/; return the page. See `coordinate_figures`.

    `how` says in a few words what was trained.
    """
    rows = [
        (name, s.kind.replace("_", " "), s.quantity, str(s.step), written(s.exponent, "{:+.3f}"), s.verdict)
        for name, found in slopes.items()
        for s in found
    ]
    outcome = "; ".join(f"{name}: {'passed' if passes(found) else 'failed'}" for name, found in slopes.items())
    table = html_table(
        ("parametrisation", "activation", "what", "after step", "exponent of N", "verdict"), rows, "Slopes"
    )
    content = {name: [asdict(s) | {"passed": s.passed} for s in found] for name, found in slopes.items()}
    lead = f"Does any activation, or any change of one, grow or vanish with width? {outcome} ({escape(how)})."
    figures = coordinate_figures(measured, slopes)
    return _write(out_dir, "bcrit coordinate check", heading, lead, figures, table, "coordinates.json", content)


def write_transfer(table: pd.DataFrame, study: transfer.TransferStudy, heading: str, out_dir: Path) -> Path:
    """Write `out_dir`/index.html, transfer.json and data/; return the page."""
    rows = [
        (
            escape(t.setting),
            str(cell.width),
            cell.state.replace("_", " "),
            written(cell.lr, "{:.2f}", log2=True),
            written(shift, "{:+.2f}"),
            written(cell.loss, "{:.4f}"),
            written(lost, "{:.4f}"),
            written(behind, "{:+.4f}"),
        )
        for t, later in zip(study.transfers, study.behind, strict=True)
        for cell, shift, lost, behind in zip(t.cells, t.shift, t.lost, later, strict=True)
    ]
    head = (
        "setting",
        "N",
        "optimum",
        "log2 η*",
        "shift, octaves",
        "loss*",
        "lost with η* of the first N",
        "loss* − first setting's",
    )
    said = [verdict(t) for t in study.transfers if t.steps]
    said += [f"{t.setting}: {warning}" for t in study.transfers for warning in t.warnings]
    body = bullets(map(escape, said)) + html_table(head, rows, "Optima")
    lead = "Does a learning rate tuned at the narrowest width serve the wider ones?"
    content = transfer.to_json(study)
    figures = (transfer_figure(table, study),)
    return _write(out_dir, "bcrit transfer", heading, lead, figures, body, "transfer.json", content)


def write_page(
    out_dir: Path, kicker: str, heading: str, lead: str, figures: Sequence[Figure], numbers: str, file: str
) -> Path:
    """Write `out_dir`/data/ and then index.html; `numbers` is ready HTML, `file` the JSON beside the page."""
    (out_dir / "data").mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write_atomic(out_dir / "data" / f"{figure.id}.csv", figure.data.to_csv(index=False))
    drawn = "\n".join(figure_html(number, figure) for number, figure in enumerate(figures, start=1))
    body = f'<section id="figures"></section>{drawn}<section id="tables"><h2>Numbers</h2>{numbers}</section>'
    links = {"figures": "Figures", "tables": "Numbers"}
    path = out_dir / "index.html"
    write_atomic(path, page(kicker, heading, lead, links, body, f'<a href="{file}">{file}</a>'))
    return path


def _write(
    out_dir: Path,
    kicker: str,
    heading: str,
    lead: str,
    figures: Sequence[Figure],
    table: str,
    numbers: str,
    content: object,
) -> Path:
    """Each file atomically, the page last."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / numbers, json.dumps(content, indent=1, allow_nan=False))
    return write_page(out_dir, kicker, heading, lead, figures, table, numbers)
