"""A report's page as plain text: sections with their sentences, facts, tables and plots, whoever wrote it.

`2<sup>18</sup>` becomes `2^18` and `B<sub>crit</sub>` becomes `B_crit`. Nothing here knows what a report says.
"""

import base64
import gzip
import json
from collections import defaultdict
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np

_BLOCKS = {"p", "li", "h1", "h2", "h3", "dt", "dd", "figcaption", "summary", "th", "td"}
_CELLS = {"th", "td"}


@dataclass
class Table:
    """Cells as plain text; `head` is the first row."""

    label: str
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def records(self) -> list[dict[str, str]]:
        """One dict a row, by column name; a column that is not there is empty."""
        return [defaultdict(str, zip(self.head, row, strict=False)) for row in self.rows]


@dataclass
class Section:
    """`blocks`: (kind, text) of headings, paragraphs, list items and captions in reading order."""

    name: str
    blocks: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plot: dict[str, Any] | None = None  # as plotly has it, numbers as arrays

    @property
    def text(self) -> str:
        """All sentences."""
        return "\n".join(text for _, text in self.blocks)


@dataclass
class Document:
    """The sections and figures of a page by their anchor; `heading` is the study."""

    heading: str
    sections: dict[str, Section]

    @property
    def text(self) -> str:
        """All sentences and facts of the page."""
        parts = [s.text + "\n" + "\n".join(f"{k}: {v}" for k, v in s.facts.items()) for s in self.sections.values()]
        return "\n".join(parts)

    def tables(self) -> list[tuple[Section, Table]]:
        """Every table with its section."""
        return [(section, table) for section in self.sections.values() for table in section.tables]


def read_page(html: str) -> Document:
    """The document in a page of `bcrit report`."""
    parser = _Page()
    parser.feed(html)
    return Document(parser.heading, parser.sections)


def read_spec(packed: str) -> dict[str, Any]:
    """A plot from base64 of gzip of its JSON; arrays that plotly stores in binary are lists of floats."""
    return _plain(json.loads(gzip.decompress(base64.b64decode(packed))))


def _plain(value: Any) -> Any:
    match value:
        case {"dtype": str(dtype), "bdata": str(data)}:
            return np.frombuffer(base64.b64decode(data), dtype).astype(float).tolist()
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
    return value


class _Page(HTMLParser):
    """Text by block; a list item inside another is a block of its own, after the words before it."""

    def __init__(self) -> None:
        super().__init__()
        self.heading = ""
        self.sections: dict[str, Section] = {}
        self._section = Section("")
        self._open: list[tuple[str, list[str]]] = []  # blocks that have begun, innermost last
        self._term = ""
        self._row: list[str] | None = None
        self._script: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("section", "figure") and given.get("id"):
            name = str(given["id"])
            self._section = self.sections.setdefault(name, Section(name))
        elif tag == "script":
            self._script = given
        elif tag == "table":
            self._section.tables.append(Table(self._label))
        elif tag == "tr":
            self._end_row()
            self._row = []
        elif tag == "div" and given.get("role") == "region":
            self._label = str(given.get("aria-label", ""))
        elif tag in _BLOCKS:
            if tag in _CELLS:
                self._end_cell()
            elif tag == "li":
                self._pause()
            self._open.append((tag, []))
        elif tag in ("sup", "sub"):
            self.handle_data("^" if tag == "sup" else "_")
        elif tag == "br":
            self.handle_data(" ")

    _label = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None
        elif tag in ("tr", "thead", "tbody", "table"):
            self._end_row()
        elif tag in _BLOCKS - _CELLS and self._open and self._open[-1][0] == tag:
            self._end_block()
        elif tag == "figure":
            self._section = Section("")

    def handle_data(self, data: str) -> None:
        if self._script is None:
            if self._open:
                self._open[-1][1].append(data)
        elif self._section.name and "data-plot" in self._script:
            self._section.plot = read_spec(data)

    def _pause(self) -> None:
        """Words of an item before the list inside it are a block of their own."""
        if self._open and self._open[-1][0] == "li":
            self._keep("li", self._taken())

    def _taken(self) -> str:
        words = " ".join("".join(self._open[-1][1]).split())
        self._open[-1][1].clear()
        return words

    def _end_block(self) -> None:
        tag, text = self._open[-1][0], self._taken()
        self._open.pop()
        self._keep(tag, text)

    def _keep(self, tag: str, text: str) -> None:
        if tag == "h1":
            self.heading = text
        elif tag == "dt":
            self._term = text
        elif tag == "dd":
            self._section.facts[self._term] = text
        elif text:
            self._section.blocks.append((tag, text))

    def _end_cell(self) -> None:
        if self._open and self._open[-1][0] in _CELLS:
            text = self._taken()
            self._open.pop()
            if self._row is not None:
                self._row.append(text)

    def _end_row(self) -> None:
        self._end_cell()
        if self._row:
            table = self._section.tables[-1]
            if not table.head:
                table.head = self._row
            else:
                table.rows.append(self._row)
        self._row = None


def plain_text(html: str) -> str:
    """A short piece of HTML in the same plain text."""
    return read_blocks(f"<p>{html}</p>")[0][1]


def read_blocks(html: str) -> list[tuple[str, str]]:
    """The blocks of a piece of HTML."""
    parser = _Page()
    parser.feed(f'<section id="part">{html}</section>')
    return parser.sections["part"].blocks
