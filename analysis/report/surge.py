"""The page of `bcrit surge`: the figure, and the numbers behind it."""

from html import escape
from pathlib import Path

from analysis.figures.surge import surge_at_checkpoints
from analysis.notation import grid_count
from analysis.report.checks import write_page
from analysis.report.html import bullets
from analysis.surge_measured import Surge, lines, sentence


def write_surge_page(surge: Surge, out_dir: Path) -> Path:
    """Write `out_dir`/index.html and data/; return the page. `surge_measured.write_surge` writes surge.json."""
    about = surge.about
    heading = f"run {about['run_id']} at {grid_count(about['tokens'])} tokens"
    said = bullets(map(escape, (*surge.prediction.notes, *surge.measured.notes, *lines(surge))))
    figures = (surge_at_checkpoints([surge]),)
    return write_page(out_dir, "bcrit surge", heading, escape(sentence(surge)) + ".", figures, said, "surge.json")
