"""What a careful reviewer checks in a report: its numbers, its runs, its bounds, its words, its axes.

`review` holds a report against its run table: the analysis made anew, and counts, lowest losses and edges once more
from the bare losses. It reads the page as a reader does and shares no code with what writes it, but names.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis.review.conditions import check_conditions
from analysis.review.counted import check_counts, check_finished, check_provenance
from analysis.review.drawn import check_figures
from analysis.review.evidence import Evidence, gather
from analysis.review.findings import Finding, by_severity
from analysis.review.live import check_report, with_words
from analysis.review.published import fetch
from analysis.review.quoted_sentences import check_sentences
from analysis.review.quoted_tables import check_tables
from analysis.review.recomputed import check_best, check_cells, check_laws
from analysis.review.stated import check_stated

CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    check_laws,
    check_cells,
    check_best,
    check_finished,
    check_conditions,
    check_sentences,
    check_tables,
    check_counts,
    check_provenance,
    check_figures,
    check_stated,
)


def review(report: Path, table: Path | None = None) -> tuple[Finding, ...]:
    """Everything that is wrong with a local report, the worst first; nothing, if nothing is.

    `report`: its directory, its index.html, or its study's directory. `table`: the run table, if it does not lie beside
    the page. Raises ConfigError if there is no report or no table.
    """
    return examine(gather(report, table))


def review_published(url: str) -> tuple[Finding, ...]:
    """The same for a Weights & Biases Report: words, panels, live runs, and the page that was logged with it.

    Raises ConfigError without the Report, its analysis run, a key or the network.
    """
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        published = fetch(url, folder)
        page = gather(folder)
        on_page = examine(page)
        said = examine(with_words(page, published))
        shared = [found for found in on_page if found not in said]  # of the page alone
        return by_severity(
            (
                *said,
                *(replace(found, where=f"logged page: {found.where}") for found in shared),
                *check_report(page, published, folder),
            )
        )


def examine(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings on a report that has been read."""
    return by_severity(finding for check in CHECKS for finding in check(evidence))


__all__ = ["CHECKS", "Finding", "examine", "review", "review_published"]
