"""A Weights & Biases Report against the report that was logged with it, and against the runs that it shows live."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.check import ANALYSED
from analysis.review.document import Document, Section
from analysis.review.drawn import UNITS
from analysis.review.evidence import TABLE, Evidence
from analysis.review.findings import Finding
from analysis.review.markdown import read_markdown
from analysis.review.published import Published

REPORT = "W&B Report"
_MOST = 3


def with_words(evidence: Evidence, published: Published) -> Evidence:
    """The evidence with the Report's words in place of the page's, and the page's plots under their titles there."""
    said = read_markdown(published.words)
    headings = _headings(said)
    figures = {
        name: Section(name, [("h3", heading)], plot=section.plot)
        for name, section in evidence.document.sections.items()
        if section.plot is not None and (heading := _same_number(section, headings))
    }
    return replace(evidence, document=Document(evidence.document.heading, said.sections | figures))


def _headings(document: Document) -> list[str]:
    return [text for section in document.sections.values() for kind, text in section.blocks if kind == "h3"]


def _same_number(section: Section, headings: list[str]) -> str:
    """The heading with the number of a figure of the page; nothing if there is none."""
    number = next((text.partition(" ")[0] for kind, text in section.blocks if kind == "h3"), "")
    return next((heading for heading in headings if number and heading.startswith(f"{number} ")), "")


def check_report(page: Evidence, published: Published, folder: Path) -> Iterator[Finding]:
    """Panels of the Report, files of its analysis run, and its runs."""
    content = (folder / "laws.json").read_bytes() + (folder / TABLE).read_bytes()
    if published.run != f"analysis-{hashlib.sha256(content).hexdigest()[:12]}":
        text = "its laws.json and table.csv are not those that its name is the hash of"
        yield Finding("error", "numbers", f"analysis run {published.run}", text)
    headings = _headings(read_markdown(published.words))
    for name, section in page.document.sections.items():
        if section.plot is not None:
            if f"figures/{name}" not in published.media:
                yield Finding("error", "complete", REPORT, f"no panel shows figure {name}")
            if not _same_number(section, headings):
                yield Finding("error", "complete", REPORT, f"figure {name} has no title")
    for panel in published.lines:
        if not panel.title_x or not panel.title_y:
            yield Finding("error", "axes", f"{REPORT}, panel {panel.title!r}", "an axis has no title")
        elif not any(unit in panel.title_y for unit in UNITS):
            text = f"the y axis {panel.title_y!r} has no unit"
            yield Finding("error", "axes", f"{REPORT}, panel {panel.title!r}", text)
    yield from _runs(page, published)


def _runs(page: Evidence, published: Published) -> Iterator[Finding]:
    """States and losses of the runs on the server are the run table's."""
    if "run_id" not in page.table or "status" not in page.table:
        return
    missing = []
    for identity, rows in page.table.groupby("run_id"):
        live, counted = published.runs.get(str(identity)), str(rows["status"].iloc[0])
        if live is None:
            missing += [str(identity)]
            continue
        states = set(rows["status"])
        if counted in ANALYSED and live.state not in states:
            text = f"counted as {counted}, but it is {live.state} on the server"
            yield Finding("error", "finished", f"run {identity}", text)
        for tokens, loss in zip(rows["tokens"].astype(int), rows["loss"].astype(float), strict=True):
            there = live.loss.get(tokens)
            if np.isfinite(loss) and there is not None and abs(there - loss) > 1e-6 * abs(loss):
                text = f"loss {loss:.6g} at T={tokens}; the server has {there:.6g}"
                yield Finding("error", "numbers", f"run {identity}", text)
    if missing:
        some = ", ".join(missing[:_MOST]) + (" ..." if len(missing) > _MOST else "")
        text = f"{len(missing)} runs that are counted are not in the project: `bcrit sync` sends them ({some})"
        yield Finding("warning", "complete", REPORT, text)
    more = published.runs.keys() - set(page.table["run_id"].astype(str)) - _trunks(page)
    if more:
        text = f"{len(more)} runs are shown in its panels that the report does not count: publish it anew"
        yield Finding("warning", "complete", REPORT, text)


def _trunks(page: Evidence) -> set[str]:
    return set(page.table["parent"].dropna().astype(str)) if "parent" in page.table else set()
