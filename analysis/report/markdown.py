"""The report's HTML as Markdown, for places that show no HTML: the same words and numbers, written once."""

import re
from html.parser import HTMLParser

_BLOCKS = {"p", "li", "dt", "dd", "summary", "h2", "h3"}
_MARKS = {"strong": "**", "em": "*"}
_SPECIAL = re.compile(r"([\\`*|])")  # what Markdown would take for its own; _ inside a word it leaves alone


def markdown(html: str) -> str:
    """Headings, paragraphs, lists, terms, tables and emphasis of a section; `2<sup>18</sup>` becomes `2^18`.

    Links keep their address if it leads somewhere from anywhere, else only their text. What is folded is shown.
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return re.sub(r"\n{3,}", "\n\n", "".join(reader.out)).strip() + "\n"


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.out: list[str] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.link = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS | {"table", "ul", "dl", "section", "div"}:
            self._close_cell()
            self._block("")
        if tag == "tr":
            self._close_cell()
            self.rows.append([])
        elif tag in ("td", "th"):  # cells are not closed
            self._close_cell()
            self.rows[-1].append("")
        elif tag in ("sup", "sub"):
            self.text.append("^" if tag == "sup" else "_")
        elif tag in _MARKS:
            self.text.append(_MARKS[tag])
        elif tag == "a":
            address = dict(attrs).get("href") or ""
            self.link = address if address.startswith("http") else ""
            self.text.append("[" if self.link else "")

    def handle_endtag(self, tag: str) -> None:
        if tag in _MARKS:
            self.text.append(_MARKS[tag])
        elif tag == "a":
            self.text.append(f"]({self.link})" if self.link else "")
        elif tag == "table":
            self._close_cell()
            self.out.append(_table(self.rows))
            self.rows = []
        elif tag in _BLOCKS | {"section", "div"}:
            self._block(tag)
        elif tag in ("ul", "dl"):
            self.out.append("\n")

    def handle_data(self, data: str) -> None:
        escaped = _SPECIAL.sub(r"\\\1", data).replace("<", "&lt;")
        self.text.append(re.sub(r"\s+", " ", escaped))

    def _taken(self) -> str:
        text, self.text = "".join(self.text).strip(), []
        return text

    def _close_cell(self) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += self._taken()

    def _block(self, tag: str) -> None:
        text = self._taken()
        if not text:
            return
        match tag:
            case "h2" | "h3":
                self.out.append(f"\n{'#' * int(tag[1])} {text}\n\n")
            case "li":
                self.out.append(f"- {text}\n")
            case "dt":
                self.out.append(f"- **{text}**: ")
            case "dd":
                self.out.append(f"{text}\n")
            case "summary":
                self.out.append(f"\n**{text}**\n\n")
            case _:
                self.out.append(f"\n{text}\n\n")


def _table(rows: list[list[str]]) -> str:
    """The first row is the head."""
    rows = [row for row in rows if row]
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n" + "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n\n"
