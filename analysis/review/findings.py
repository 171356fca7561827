"""What a review finds: each finding has a severity, the rule it breaks, where it stands and what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
RULES = {
    "numbers": "every number quoted is the run table's",
    "finished": "every run that is counted has finished, or diverged",
    "edge": "no optimum at the edge of a grid is shown as an optimum",
    "seeds": "the seeds are stated",
    "intervals": "every value has its interval, every bound is said to be one",
    "conditions": "code, data, ZeRO stage, precision and schedule do not mix silently",
    "definitions": "each critical batch names its definition",
    "axes": "every axis has its title, unit and scale",
    "complete": "nothing that the analysis says is left out",
}


@dataclass(frozen=True)
class Finding:
    """`where` is a place a reader can find: a section, a table's row, a figure, a file."""

    severity: Severity
    rule: str  # one of RULES
    where: str
    message: str


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, errors first, then in the order of RULES; what is equal in both stays in the order it was found."""
    order = list(RULES)
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda found: (SEVERITIES.index(found.severity), order.index(found.rule))))


def has_errors(findings: Iterable[Finding]) -> bool:
    """Whether a report must not be used as it is."""
    return any(found.severity == "error" for found in findings)
