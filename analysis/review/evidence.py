"""What a report is held against: its run table, analysed anew, and the files beside it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.analyse import analyse, to_json
from analysis.growth import Bootstrap
from analysis.review.document import Document, read_page
from analysis.steps import is_steps_table
from configs.errors import ConfigError

TABLE = "table.csv"  # the run table beside a report
TEXT = ("run_id", "study", "status", "parent", "schedule", "parametrization", "setting", "precision")
TEXT = (*TEXT, "data_fingerprint", "code_version")  # an id such as 12345e678901 is no number


@dataclass(frozen=True)
class Evidence:
    """`laws`: as the report has them; `truth`: as the run table gives them now, in the same form; None if it cannot be
    analysed, and then `refusal` says why. `data`: the numbers of each figure. `study`: the study's own directory."""

    document: Document
    table: pd.DataFrame
    laws: dict[str, Any]
    truth: dict[str, Any] | None
    refusal: str
    data: dict[str, pd.DataFrame]
    study: Path | None

    @property
    def said(self) -> dict[str, Any]:
        """What the page is held against."""
        return self.laws if self.truth is None else self.truth


def gather(report: Path, table: Path | None = None) -> Evidence:
    """The report in a directory (or its index.html, or the study's directory), with its table unless one is given.

    Raises ConfigError if it is no report of `bcrit report`, or has no run table.
    """
    folder = _folder(report)
    document = read_page((folder / "index.html").read_text(encoding="utf-8"))
    if "summary" not in document.sections:
        raise ConfigError(f"{folder / 'index.html'}: not a page of `bcrit report`")
    laws = _laws(folder / "laws.json")
    path = table or folder / TABLE
    if not path.exists():
        raise ConfigError(f"{folder}: no {TABLE} beside the page; give the run table with --table")
    runs = read_table(path)
    data = {csv.stem: pd.read_csv(csv) for csv in sorted((folder / "data").glob("*.csv"))}
    study = folder.parent if (folder.parent / "manifest.jsonl").exists() else None
    return with_truth(Evidence(document, runs, laws, None, "", data, study))


def with_truth(evidence: Evidence) -> Evidence:
    """The evidence with the run table analysed as the report says it was."""
    meta = evidence.laws.get("meta", {})
    window, bootstrap = meta.get("window") or 5, meta.get("bootstrap")
    try:
        found = analyse(evidence.table, window=window, bootstrap=Bootstrap(**bootstrap) if bootstrap else Bootstrap())
    except ConfigError as error:
        return replace(evidence, refusal=str(error))
    return replace(evidence, truth=to_json(found))


def read_table(path: Path) -> pd.DataFrame:
    """A run table. Raises ConfigError if it is no table."""
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=dict.fromkeys(TEXT, str))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def is_steps(evidence: Evidence) -> bool:
    """Whether the report is one of steps to target losses, in which no learning rate was tuned."""
    return is_steps_table(evidence.table)


def _folder(report: Path) -> Path:
    for folder in (report.parent if report.name == "index.html" else report, report / "report"):
        if (folder / "index.html").is_file():
            return folder
    raise ConfigError(f"{report}: no index.html there: give the directory of a report, or write it with `bcrit report`")


def _laws(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; a report has it beside its page: write the report anew") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: {error}; write the report anew") from error
