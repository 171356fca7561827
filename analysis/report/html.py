"""Small pieces of HTML. Strings from outside (study names, warnings) are escaped before they come here."""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from analysis.notation import grid_count

MOST_ROWS = 100  # of a table on the page; the CSV has all


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], label: str) -> str:
    """A scrolling table of ready HTML cells."""
    header = "".join(f'<th scope="col">{cell}' for cell in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{header}</thead><tbody>{body}</tbody></table></div>"
    )


def frame_table(frame: pd.DataFrame, label: str) -> str:
    """The first rows of a frame, six significant digits; empty cells stay empty."""
    shown = frame.head(MOST_ROWS)
    columns = [[_cell(value) for value in shown[name]] for name in shown]
    more = len(frame) - len(shown)
    note = f'<p class="quiet">{more} more rows are in the CSV file.</p>' if more else ""
    return html_table([str(name) for name in frame], zip(*columns, strict=True), label) + note


def bullets(items: Iterable[str], kind: str = "") -> str:
    """An unordered list of ready HTML."""
    return f'<ul class="{kind}">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def facts(pairs: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """A list of terms and what is said about them."""
    return f'<dl class="{kind}">' + "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs) + "</dl>"


def prose(text: str) -> str:
    """A plain sentence as HTML: escaped, with `2^18` raised, `B_crit` lowered and `T=262144` written as a power."""
    text = re.sub(r"\^(-?[\d.]*\d)", r"<sup>\1</sup>", escape(text))
    text = re.sub(r"\b([TB])=(\d+)", lambda m: f"{m[1]} = {grid_count(int(m[2]))}", text)
    return re.sub(r"\b(B|eta|lr)_(crit|best|inf)\b", r"\1<sub>\2</sub>", text)


def script_json(value: object) -> str:
    """JSON that cannot close the script element it stands in."""
    return json.dumps(value).replace("</", "<\\/")


def _cell(value: object) -> str:
    if pd.isna(value):  # pyright: ignore[reportArgumentType, reportCallIssue]
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return str(value)
