"""The command that checks a report."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from configs.errors import ConfigError

if TYPE_CHECKING:
    from analysis.review.findings import Finding

MOST_OF_A_RULE = 8  # findings of one severity and rule that are printed
_COLOUR = {"error": "red", "warning": "yellow", "note": "cyan"}


def review_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.review import review, review_published
    from analysis.review.findings import has_errors

    if "://" in arguments.report:
        if arguments.table:
            raise ConfigError(f"--table {arguments.table}: a W&B Report has the run table that was logged with it")
        findings = review_published(arguments.report)
    else:
        findings = review(Path(arguments.report), arguments.table)
    _print(console, findings)
    return 1 if has_errors(findings) else 0


def _print(console: Console, findings: "tuple[Finding, ...]") -> None:
    """A heading a rule that is broken, a line a finding, and the counts; also which rules hold."""
    from analysis.review.findings import RULES, SEVERITIES

    printed: Counter[tuple[str, str]] = Counter()
    total = Counter((found.severity, found.rule) for found in findings)
    for found in findings:
        kind = (found.severity, found.rule)
        if not printed[kind]:
            console.print(f"[{_COLOUR[found.severity]}]{found.severity}[/]: not so: {RULES[found.rule]}")
        printed[kind] += 1
        if printed[kind] <= MOST_OF_A_RULE:
            console.print(f"  {escape(found.where)}: {escape(found.message)}", highlight=False, soft_wrap=True)
        elif printed[kind] == total[kind]:
            console.print(f"  and {total[kind] - MOST_OF_A_RULE} more", highlight=False)
    for rule, text in RULES.items():
        if not any(found.rule == rule for found in findings):
            console.print(f"[green]holds[/]: {text}")
    counts = Counter(found.severity for found in findings)
    console.print(", ".join(f"{counts[severity]} {severity}s" for severity in SEVERITIES))
