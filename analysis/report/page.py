"""The page: text, figures and plotly.js in one file from which no request leaves."""

import base64
import gzip
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

import pandas as pd
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from analysis.figures import Figure
from analysis.figures.colours import DARK
from analysis.report.html import frame_table, script_json
from analysis.report.provenance import provenance
from analysis.report.steps import steps_provenance, steps_tables
from analysis.report.summary import summary
from analysis.report.tables import tables
from analysis.results import Analysis
from analysis.steps import is_steps_table

_TALL = 900  # px: such a figure may break over printed pages


def render(table: pd.DataFrame, analysis: Analysis, figures: Sequence[Figure]) -> str:
    """The whole page as HTML. `table` is the full run table, with the rows that are not analysed."""
    study = ", ".join(sorted(map(str, table["study"].dropna().unique()))) if "study" in table else "unnamed study"
    origin, numbers = (steps_provenance, steps_tables) if is_steps_table(table) else (provenance, tables)
    drawn = "\n".join(figure_html(number, figure) for number, figure in enumerate(figures, start=1))
    body = (
        summary(analysis),
        origin(table, analysis),
        '<section id="figures"><h2>Figures</h2><p>Click a name in a legend to hide or show it; drag in a plot to zoom, '
        "double-click to return. Learning-rate and token axes are logarithmic with ticks at powers of "
        "two.</p></section>",
        drawn,
        numbers(table, analysis),
    )
    anchors = {
        "summary": "Summary",
        "provenance": "Provenance",
        "figures": "Figures",
        "tables": "Tables",
        "definitions": "Definitions",
    }
    return page(
        "bcrit report",
        study,
        "How should learning rate and batch size grow with token budget and width, and how sure are we?",
        {anchor: label for anchor, label in anchors.items() if f'id="{anchor}"' in "".join(body)},
        "\n".join(body),
        '<a href="laws.json">laws.json</a> (every estimate with its interval and status), '
        '<a href="table.csv">table.csv</a> (the run table)',
    )


def page(kicker: str, heading: str, lead: str, links: dict[str, str], body: str, numbers: str) -> str:
    """A page around `body`, ready HTML as `numbers` is; `links` maps the anchors in it to their names."""
    return Template(_asset("page.html")).substitute(
        title=f"{kicker}: {escape(heading)}",
        kicker=kicker,
        heading=escape(heading),
        lead=lead,
        numbers=numbers,
        contents=" ".join(f'<a href="#{anchor}">{label}</a>' for anchor, label in links.items()),
        body=body,
        css=_asset("page.css"),
        js=_asset("page.js"),
        palette=script_json(DARK),
        plotly=_packed(get_plotlyjs()),
    )


def figure_html(number: int, figure: Figure) -> str:
    """Title, plot or reason, caption with the link to the CSV, and the table behind it."""
    csv = f'Data: <a href="data/{figure.id}.csv" download>{figure.id}.csv</a>.'
    numbers = frame_table(figure.data, f"Data of figure {number}")
    details = f"<details><summary>The numbers behind this figure</summary>{numbers}</details>"
    if figure.plot is None:
        drawing, caption, attribute = f'<p class="undrawn">{figure.reason}</p>', csv, ""
    else:
        label = escape(re.sub("<[^>]*>", "", f"{figure.title}. {figure.caption}"), quote=True)
        caption = f"{figure.caption} {csv}"
        spec = _packed(str(to_json(figure.plot)))
        drawing = (
            '<div class="legend" role="group" aria-label="Legend"></div>'
            f'<div class="plot" role="img" aria-label="{label}"></div><script type="text/plain">{spec}</script>'
        )
        kinds = {"tall": figure.plot.layout.height > _TALL, "single": "xaxis2" not in figure.plot.layout}
        attribute = f' data-drawn class="{" ".join(kind for kind, holds in kinds.items() if holds)}"'
    return (
        f'<figure id="{figure.id}"{attribute}><h3>{number}. {figure.title}</h3>{drawing}'
        f"<figcaption>{caption}</figcaption>{details}</figure>"
    )


def _packed(text: str) -> str:
    """gzip and base64: a third of plotly.js, a twentieth of a figure; the page unpacks it without a library."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")
