"""What must not mix in one law, and what may mix only where the page says so."""

from collections.abc import Iterator

import pandas as pd

from analysis.check import ANALYSED, MAY_MIX, ONE_VALUE
from analysis.review.evidence import Evidence, is_steps
from analysis.review.findings import Finding

MUST_RECORD = ("schedule", "precision", "zero_stage", "data_fingerprint", "code_version")
_FACT = {
    "depth": "Depth, parameters",
    "zero_stage": "Precision, engine",
    "world_size": "Precision, engine",
    "code_version": "Code version",
}


def check_conditions(evidence: Evidence) -> Iterator[Finding]:
    """Conditions of the analysed runs: recorded, of one value, or of several that the page names."""
    if is_steps(evidence):
        return
    table = evidence.table
    runs = table[table["status"].isin(ANALYSED)] if "status" in table else table
    for name, why in ONE_VALUE.items():
        if len(values := _values(runs, name)) > 1:
            yield Finding("error", "conditions", "run table", f"{name} mixes {', '.join(values)}: {why}")
    for name in MAY_MIX:
        if len(values := _values(runs, name)) > 1:
            yield from _said(evidence, name, values)
    for name in MUST_RECORD:
        if not _values(runs, name):
            yield Finding("warning", "conditions", "run table", f"{name} is not recorded: runs may differ in it")
        elif runs[name].isna().any():
            count = int(runs[name].isna().sum())
            yield Finding(
                "warning", "conditions", "run table", f"{name} is not recorded in {count} of {len(runs)} rows"
            )
    changed = [version for version in _values(runs, "code_version") if version.endswith("+changes")]
    if changed:
        text = f"trained by code with changes that no commit has: {', '.join(changed)}"
        yield Finding("warning", "conditions", "run table", text)


def _said(evidence: Evidence, name: str, values: list[str]) -> Iterator[Finding]:
    """A mixture that the page names, with its values and as a caveat, is a note."""
    section = evidence.document.sections.get("provenance")
    fact = section.facts.get(_FACT[name], "") if section else ""
    summary = evidence.document.sections.get("summary")
    caveat = any("The runs differ in" in text and name in text for _, text in (summary.blocks if summary else []))
    mixes = f"{name} mixes {', '.join(values)}"
    if caveat and all(value in fact for value in values):
        yield Finding("note", "conditions", "run table", f"{mixes}; the page says so")
    else:
        yield Finding("error", "conditions", "page", f"{mixes}, and the page does not say so")


def _values(runs: pd.DataFrame, name: str) -> list[str]:
    return sorted(map(str, runs[name].dropna().unique())) if name in runs else []
