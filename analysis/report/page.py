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

from analysis.definitions import definition_name, definitions_of
from analysis.figures import Figure
from analysis.figures.colours import DARK
from analysis.notation import grid_count
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
        "double-click to return. Point at a mark, or go from mark to mark with the arrow keys, to see its numbers and "
        "its run. Learning-rate and token axes are logarithmic with ticks at powers of two.</p>"
        f"{chooser(analysis)}{drawn}</section>",
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
        js=_asset("interact.js") + _asset("page.js"),
        palette=script_json(DARK),
        plotly=_packed(get_plotlyjs()),
    )


def chooser(analysis: Analysis) -> str:
    """Selections of N, T and the definition of B_crit, of those that there are several of; hidden without scripts."""
    widths = sorted({cell.width for cell in analysis.cells})
    budgets = sorted({cell.tokens for cell in analysis.cells})
    choices = {
        "N": [(width, str(width), str(width)) for width in widths],
        "T": [(tokens, _superscript(grid_count(tokens)), _without_tags(grid_count(tokens))) for tokens in budgets],
        "definition": [(name, _without_tags(definition_name(name)), "") for name in definitions_of(analysis)],
    }
    labels = {"N": "Width N", "T": "Budget T", "definition": "B<sub>crit</sub> by"}
    selections = [
        f'<label>{labels[name]} <select name="{name}"><option value="">all</option>'
        + "".join(f'<option value="{value}" data-text="{text}">{said}</option>' for value, said, text in options)
        + "</select></label>"
        for name, options in choices.items()
        if len(options) > 1
    ]
    if not selections:
        return ""
    button = '<button type="reset">Show all</button>'
    return f'<form class="choose" hidden>{" ".join(selections)} {button} <output></output></form>'


def _superscript(html: str) -> str:
    """`2<sup>18</sup>` for where no markup is allowed."""
    digits = str.maketrans("0123456789\N{MINUS SIGN}.", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻·")
    return re.sub("<sup>(.*?)</sup>", lambda found: found[1].translate(digits), html)


def _without_tags(html: str) -> str:
    return re.sub("<[^>]*>", "", html)


def figure_html(number: int, figure: Figure) -> str:
    """Title, plot or reason, caption with the link to the CSV, and the table behind it."""
    file = f"{figure.id}.csv"
    csv = f'<a href="data/{file}" download data-csv="{file}">{file}</a>'
    packed = f'<script type="text/plain" data-csv>{_packed(figure.data.to_csv(index=False))}</script>'
    numbers = frame_table(figure.data, f"Data of figure {number}")
    details = f"<details><summary>The numbers behind this figure</summary>{numbers}</details>"
    if figure.plot is None:
        drawing, caption, attribute = f'<p class="undrawn">{figure.reason}</p>', "", ""
    else:
        label = escape(_without_tags(f"{figure.title}. {figure.caption}"), quote=True)
        caption = f"<figcaption>{figure.caption}</figcaption>"
        csv = f'<button type="button" data-svg hidden>{figure.id}.svg</button> {csv}'
        spec = _packed(str(to_json(figure.plot)))
        drawing = (
            '<div class="legend" role="group" aria-label="Legend"></div>'
            f'<div class="plot" tabindex="0" role="application" aria-roledescription="chart" aria-label="{label}">'
            "</div>"
            '<p class="said" aria-live="polite"></p><p class="undrawn missing">Nothing here of what is chosen.</p>'
            f'<script type="text/plain" data-plot>{spec}</script>'
        )
        kinds = {"tall": figure.plot.layout.height > _TALL, "single": "xaxis2" not in figure.plot.layout}
        attribute = f' data-drawn class="{" ".join(kind for kind, holds in kinds.items() if holds)}"'
    return (
        f'<figure id="{figure.id}"{attribute}><h3>{number}. {figure.title}</h3>{drawing}'
        f'{caption}<p class="save">Save {csv}</p>{details}{packed}</figure>'
    )


def _packed(text: str) -> str:
    """gzip and base64: a third of plotly.js, a twentieth of a figure; the page unpacks it without a library."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")
