"""Which runs are counted: the page's counts and provenance against the run table, and the table against the runs."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.check import ANALYSED, with_status
from analysis.review.document import Table
from analysis.review.evidence import Evidence, is_steps
from analysis.review.findings import Finding
from analysis.review.quoted_numbers import NUMBER, number
from configs.rundir import Readout, Status, manifest_ids, read_status, run_dir_of

MOST_NAMED = 3


def check_finished(evidence: Evidence) -> Iterator[Finding]:
    """Every row that counts as finished has a loss at its tokens, and its run's own status says so."""
    if is_steps(evidence):
        return
    table = evidence.table
    if "status" in table:
        empty = table[(table["status"] == "finished") & ~np.isfinite(pd.to_numeric(table["loss"], errors="coerce"))]
        if len(empty):
            yield Finding("error", "finished", "run table", f"finished without a finite loss: {_named(empty)}")
    if {"tokens", "budget_tokens"} <= set(table):
        beyond = table[table["tokens"] > table["budget_tokens"]]
        if len(beyond):
            yield Finding("error", "finished", "run table", f"read out beyond their budget: {_named(beyond)}")
    yield from _against_runs(evidence)


def _against_runs(evidence: Evidence) -> Iterator[Finding]:
    """The rows against the status files of the study that the report lies in."""
    table, study = evidence.table, evidence.study
    if study is None or "run_id" not in table:
        return
    trunks = set(table["parent"].dropna()) if "parent" in table else set()
    if missing := set(manifest_ids(study)) - set(table["run_id"].astype(str)) - trunks:
        text = f"{len(missing)} runs of the study are not in it: write the report anew"
        yield Finding("warning", "complete", "run table", text)
    for identity, rows in table.groupby("run_id"):
        status = read_status(run_dir_of(study, str(identity)))
        counted = str(rows["status"].iloc[0])
        if counted != status.state:
            severity = "error" if counted in ANALYSED else "warning"
            text = f"counted as {counted}, but its status is {status.state}"
            yield Finding(severity, "finished", f"run {identity}", text)
        elif (differs := _differs(rows, status)) is not None:
            tokens, said, true = differs
            text = f"loss {said:.6g} at T={tokens}; the run has {'none' if true is None else f'{true.loss:.6g}'}"
            yield Finding("error", "numbers", f"run {identity}", text)


def _differs(rows: pd.DataFrame, status: Status) -> tuple[int, float, Readout | None] | None:
    by_tokens = {readout.tokens: readout for readout in status.readouts}
    for tokens, loss in zip(rows["tokens"].astype(int), rows["loss"].astype(float), strict=True):
        true = by_tokens.get(tokens)
        if np.isfinite(loss) and (true is None or abs(true.loss - loss) > 1e-9 * abs(loss)):
            return tokens, loss, true
    return None


def check_counts(evidence: Evidence) -> Iterator[Finding]:
    """Runs and cells by width and budget."""
    for section, table in evidence.document.tables():
        if "finished" in table.head:
            yield from _counted(table, evidence.table, f"{section.name}, runs and cells")


def _counted(table: Table, runs: pd.DataFrame, where: str) -> Iterator[Finding]:
    runs = with_status(runs)
    seen = 0
    for row in table.records():
        width, tokens = number(row["N"]), number(row["T"])
        here = f"{where}, N {row['N']}, T {row['T']}"
        part = [_same(runs["width"], row["N"]), _same(runs["tokens"], row["T"])]
        rows = runs[part[0] & part[1]] if width and tokens else runs.iloc[:0]
        seen += len(rows)
        counts = {state: int((rows["status"] == state).sum()) for state in ANALYSED}
        counts["other, not analysed"] = len(rows) - sum(counts.values())
        for column, count in counts.items():
            if row[column] != str(count):
                rule = "finished" if column == "finished" else "numbers"
                yield Finding("error", rule, here, f"says {row[column]} {column}; the run table has {count}")
    if seen < len(runs):
        yield Finding("error", "complete", where, f"{len(runs) - seen} rows of the run table are in no row of it")


def check_provenance(evidence: Evidence) -> Iterator[Finding]:
    """The facts about the runs, each read off the run table here."""
    section = evidence.document.sections.get("provenance")
    if section is None:
        yield Finding("error", "complete", "page", "no section on where the numbers come from")
        return
    if is_steps(evidence):
        return
    for name, (rule, check) in _FACTS.items():
        text = section.facts.get(name)
        if text is None:
            yield Finding("error", rule, f"provenance, {name}", "not stated")
        elif (wanted := check(text, evidence.table)) is not None:
            yield Finding("error", rule, f"provenance, {name}", f"says {text}; the run table has {wanted}")


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The last readout of each run; every row where runs have no ids."""
    if "run_id" not in table or table["run_id"].isna().any():
        return table
    return table.loc[table.groupby("run_id")["tokens"].idxmax()]


_Fact = Callable[[str, pd.DataFrame], str | None]  # what the table has instead, None if the text is right


def _runs(text: str, table: pd.DataFrame) -> str | None:
    true = last_rows(with_status(table))["status"].value_counts().to_dict()
    said = {state: int(count) for count, state in re.findall(r"(\d+) (\w+)", text)}
    wanted = {state: true.get(state, 0) for state in {*true, *ANALYSED}}
    return None if said == wanted else ", ".join(f"{count} {state}" for state, count in sorted(wanted.items()))


def _tokens(text: str, table: pd.DataFrame) -> str | None:
    runs = last_rows(with_status(table))
    done = runs[runs["status"] == "finished"]
    total = float(done["tokens"].sum())
    if {"parent", "branch_tokens"} <= set(done):
        shared = done.groupby("parent")["branch_tokens"].max().sum()
        total += float(shared) - float(done["branch_tokens"].fillna(0).sum())
    quoted = number(text.partition(" ")[0])
    return None if quoted is not None and quoted.stands_for(total) else f"{total:.6g}"


def _grid(column: str) -> _Fact:
    def check(text: str, table: pd.DataFrame) -> str | None:
        true = sorted(table[column].dropna().unique())
        said = [number(part) for part in text.split(", ")]
        same = len(said) == len(true) and all(
            a is not None and a.stands_for(b) for a, b in zip(said, true, strict=True)
        )
        return None if same else ", ".join(f"{value:g}" for value in true)

    return check


def _values(column: str, prefix: str = "") -> _Fact:
    def check(text: str, table: pd.DataFrame) -> str | None:
        true = sorted({_text(value) for value in table[column].dropna()}) if column in table else []
        wanted = prefix + (", ".join(true) or "not recorded")
        return None if (text == wanted if not prefix else wanted in text) else wanted

    return check


def _engine(text: str, table: pd.DataFrame) -> str | None:
    parts = ((_values("precision"), text.partition(";")[0]), (_values("zero_stage", "ZeRO "), text))
    wrong = [
        wanted for check, part in (*parts, (_values("world_size", "ranks "), text)) if (wanted := check(part, table))
    ]
    return "; ".join(wrong) or None


def _rates(text: str, table: pd.DataFrame) -> str | None:
    lrs = table["lr"]
    found = re.match(rf"(\d+) from ({NUMBER}) to ({NUMBER})", text)
    wanted = f"{lrs.nunique()} from {lrs.min():.6g} to {lrs.max():.6g}"
    if found is None or int(found[1]) != lrs.nunique():
        return wanted
    ends = number(found[2]), number(found[3])
    right = all(
        end is not None and end.stands_for(true) for end, true in zip(ends, (lrs.min(), lrs.max()), strict=True)
    )
    return None if right else wanted


_FACTS: dict[str, tuple[str, _Fact]] = {
    "Study": ("numbers", _values("study")),
    "Runs": ("finished", _runs),
    "Tokens trained": ("numbers", _tokens),
    "Token budgets T": ("numbers", _grid("tokens")),
    "Batches B, tokens": ("numbers", _grid("batch_tokens")),
    "Learning rates": ("numbers", _rates),
    "Widths N": ("numbers", _grid("width")),
    "Seeds": ("seeds", _values("seed")),
    "Schedule": ("conditions", _values("schedule")),
    "Parametrization": ("conditions", _values("parametrization")),
    "Precision, engine": ("conditions", _engine),
    "Data fingerprint": ("conditions", _values("data_fingerprint")),
    "Code version": ("conditions", _values("code_version")),
}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _same(column: pd.Series, text: str) -> pd.Series:
    quoted = number(text)
    return pd.Series([quoted is not None and quoted.stands_for(value) for value in column.tolist()], column.index)


def _named(rows: pd.DataFrame) -> str:
    """A few rows by run id, or by their place in the grid."""
    names = [
        str(row["run_id"]) if "run_id" in rows else f"N={row['width']}, T={row['tokens']}, B={row['batch_tokens']}"
        for _, row in rows.head(MOST_NAMED).iterrows()
    ]
    return ", ".join(names) + (f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else "")
