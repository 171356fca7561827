"""What a page must say in words: level of the intervals, seeds, definitions, and where its numbers lie."""

from collections.abc import Iterator

from analysis.definitions import DEFINITIONS, definition_name
from analysis.review.document import plain_text
from analysis.review.evidence import Evidence
from analysis.review.findings import Finding

_EXPLAINED = ("Interval", "η*(N, T, B)", "B*(T)")


def check_stated(evidence: Evidence) -> Iterator[Finding]:
    """The level of the intervals, each definition of B_crit, and the units of the summary."""
    summary = evidence.document.sections.get("summary")
    text = summary.text if summary else ""
    if "95 % intervals" not in text:
        yield Finding("error", "intervals", "summary", "it does not say that the brackets are 95 % intervals")
    if "bounds" not in text:
        yield Finding("error", "intervals", "summary", "it does not say that ≥ and ≤ are bounds")
    if "B is in tokens" not in text:
        yield Finding("error", "axes", "summary", "it does not say that B is in tokens")
    used = dict.fromkeys(crit["definition"] for crit in evidence.said["critical_batch"])
    for definition in used:
        name = plain_text(definition_name(definition))
        if definition in DEFINITIONS and not any(block.startswith(f"{name}: ") for block in text.splitlines()):
            yield Finding("error", "definitions", "summary", f"{name} is used, but not defined")
    if evidence.said["cells"]:
        terms = evidence.document.sections.get("definitions")
        for name in _EXPLAINED:
            if terms is None or name not in terms.facts:
                yield Finding("error", "definitions", "definitions", f"{name} is not defined")
