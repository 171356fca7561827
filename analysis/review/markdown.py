"""The Markdown of a Weights & Biases Report as the same plain text that a page gives (`document`)."""

import re

from analysis.review.document import Document, Section, Table

SECTIONS = {  # by their heading
    "In plain words": "summary",
    "Where the numbers come from": "provenance",
    "Tables": "tables",
    "Definitions": "definitions",
}
FACTS = ("provenance", "definitions")  # sections in which a list has terms and what is said about them
_HEADING = re.compile(r"^(#{1,6}) +(.*)$")
_ITEM = re.compile(r"^\s*[-*+] +(.*)$")
_TERM = re.compile(r"^\*\*(.+?)\*\*: ?(.*)$")
_RULE = re.compile(r"^\|[\s:|-]+\|$")


def read_markdown(text: str) -> Document:
    """The document in some Markdown: a section a heading of the first two levels, headings below are its blocks.

    A section that is not one of SECTIONS has its heading as name.
    """
    document = Document("", {})
    section, table = Section(""), None
    for line in text.splitlines():
        if not line.startswith("|"):
            table = None
        if heading := _HEADING.match(line):
            name = plain(heading[2])
            if len(heading[1]) <= 2:
                section = document.sections.setdefault(SECTIONS.get(name, name), Section(SECTIONS.get(name, name)))
            section.blocks.append((f"h{len(heading[1])}", name))
        elif line.startswith("|"):
            cells = [plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if table is None:
                table = Table(section.blocks[-1][1] if section.blocks else "", head=cells)
                section.tables.append(table)
            elif not _RULE.match(line):
                table.rows.append(cells)
        elif item := _ITEM.match(line):
            term = _TERM.match(item[1])
            if term and section.name in FACTS:
                section.facts[plain(term[1])] = plain(term[2])
            else:
                section.blocks.append(("li", plain(item[1])))
        elif line.strip():
            section.blocks.append(("p", plain(line)))
    return document


def plain(text: str) -> str:
    """Without emphasis, links' addresses and escapes."""
    text = re.sub(r"\[([^\]]*)\]\(https?://[^)]*\)", r"\1", text)
    text = re.sub(r"(?<!\\)\*+", "", text)
    text = re.sub(r"\\([\\`*|_])", r"\1", text)
    return " ".join(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").split())
