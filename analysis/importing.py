"""Somebody else's table -> a run table (or a table of steps to targets), with every row that was left out and why."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.check import KEY
from analysis.columns import column, numbers
from configs.errors import ConfigError
from configs.mapping import POSITIVE, TEXT, Mapping

DIVERGED_BY = 0.5  # nats above the lowest loss of the cell, at a learning rate above the lowest's
MIN_LRS = 3
NEAR = 1.02  # budgets that differ by less are probably meant to be one
WIDE = 1e6  # of the largest to the smallest value of a column, beyond which the units are probably mixed
WHOLE = ("width", "n_params", "tokens", "batch_tokens", "steps", "depth", "seq_len", "branch_tokens", "budget_tokens")


@dataclass(frozen=True)
class Imported:
    """The rows that can be used, those that cannot (`row` in the source from 1, `reason`, source columns), and notes.

    `table` has the columns of a run table, and `group` where the mapping has groups.
    """

    table: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...]


@dataclass
class _Rows:
    """Which rows are left out, and the first reason for each."""

    reason: pd.Series

    def drop(self, bad: pd.Series, why: str) -> None:
        self.reason = self.reason.mask(bad & self.reason.eq(""), why)

    @property
    def kept(self) -> pd.Series:
        return self.reason.eq("")


def read_raw(path: Path) -> pd.DataFrame:
    """A CSV (every value as text, as written), Parquet or JSON Lines file. Raises ConfigError if it is none."""
    readers = {
        ".csv": lambda: pd.read_csv(path, dtype=str, keep_default_na=False),
        ".parquet": lambda: pd.read_parquet(path),
        ".jsonl": lambda: pd.DataFrame([json.loads(line) for line in path.read_text().splitlines() if line.strip()]),
    }
    if path.suffix not in readers:
        raise ConfigError(f"{path}: give a file that ends in {', '.join(readers)}")
    try:
        raw = readers[path.suffix]()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # of pandas, pyarrow and json alike
        raise ConfigError(f"{path}: no {path.suffix[1:]} table: {str(error).splitlines()[0]}") from error
    if raw.empty:
        raise ConfigError(f"{path}: the table has no rows")
    return raw.reset_index(drop=True).rename(columns=str)


def import_table(raw: pd.DataFrame, mapping: Mapping) -> Imported:
    """The mapping applied to a raw table.

    Left out, by reason: what `where` does not select; an empty, textual or impossible value; less than one step; a row
    that repeats another. A run diverged if its loss is NaN or infinite (an empty one, where a file tells it from NaN,
    is left out), or above `diverged_above`; without that, if it lies DIVERGED_BY above the lowest loss of its cell at a
    higher learning rate. Raises ConfigError if no row is left or two rows contradict each other.
    """
    rows = _Rows(pd.Series("", index=raw.index))
    if mapping.where:
        rows.drop(~column(raw, mapping.where).astype(bool), f"not selected by where: {mapping.where}")
    table = _mapped(raw, mapping, rows)
    if mapping.kind == "runs":
        _judge_runs(table, rows)
    if mapping.group:
        labels = pd.DataFrame({name: name + "=" + column(raw, name).astype(str) for name in mapping.group})
        table["group"] = labels.agg(", ".join, axis="columns")
    if not rows.kept.any():
        raise ConfigError(f"no row can be used: {counted(rows.reason)}")
    key = _key(table, mapping)
    _drop_duplicates(table[rows.kept], raw, key, "loss" if mapping.kind == "runs" else "steps", rows)
    left_out = raw[~rows.kept]
    left_out.insert(0, "reason", rows.reason[~rows.kept])
    left_out.insert(0, "row", left_out.index + 1)
    kept = table[rows.kept].copy()
    if mapping.kind == "runs":
        kept = _with_divergence(kept, mapping.diverged_above)
    kept[[name for name in WHOLE if name in kept]] = (
        kept[[name for name in WHOLE if name in kept]].round().astype("int64")
    )
    return Imported(kept.reset_index(drop=True), left_out, tuple(_notes(kept, raw, mapping)))


def counted(reasons: pd.Series) -> str:
    """`3 loss is empty, 1 lr is not a number`."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons[reasons != ""].value_counts().items()) or "none"


def _mapped(raw: pd.DataFrame, mapping: Mapping, rows: _Rows) -> pd.DataFrame:
    """The columns of the mapping as numbers or text; rows whose needed numbers are none are dropped."""
    kind, found = mapping.kind, {}
    for name, expression in mapping.columns.items():
        values = column(raw, str(expression))
        if name in TEXT[kind]:
            found[name] = values.astype(str)
            continue
        number = numbers(values)
        if name == "seed" and number.isna().any():  # labels, not numbers
            number = pd.Series(pd.factorize(values)[0], index=raw.index)
        found[name] = number
        if name in POSITIVE[kind] or name == "loss":
            absent = values.isna()
            written = values.astype(str).where(~absent, "").str.strip().str.lower()
            nan = written.str.fullmatch(r"[+-]?(nan|inf|infinity)")
            if pd.api.types.is_float_dtype(values):  # where an absent number and NaN are one
                nan |= absent
            rows.drop(written.isin(["", "none"]) & ~nan, f"{name} is empty")
            rows.drop(number.isna() & ~nan, f"{name} is not a number")
        if name in POSITIVE[kind]:
            rows.drop(number.isna() | np.isinf(number), f"{name} is not finite")
            rows.drop(number <= 0, f"{name} is not above 0")
    table = pd.DataFrame(found, index=raw.index)
    if kind == "runs" and "width" not in table:
        table["width"] = table["n_params"]
    return table


def _judge_runs(table: pd.DataFrame, rows: _Rows) -> None:
    short = table["tokens"] < table["batch_tokens"]
    rows.drop(short, "tokens is less than one batch_tokens: are both in tokens?")
    if "seed" not in table:
        table["seed"] = 0
    if "status" in table:
        table["status"] = table["status"].str.strip().str.lower()


def _key(table: pd.DataFrame, mapping: Mapping) -> list[str]:
    names = KEY if mapping.kind == "runs" else ["model", "target_loss", "batch_tokens"]
    return [name for name in (*names, "group") if name in table]


def _drop_duplicates(kept: pd.DataFrame, raw: pd.DataFrame, key: list[str], value: str, rows: _Rows) -> None:
    """A row that repeats another reading is left out; two different readings at the same place are an error."""
    for _, same in kept[kept.duplicated(key, keep=False)].groupby(key, sort=False):
        first, values = same.index[0], same[value]
        contradicts = values[(values != values.iloc[0]) & ~(values.isna() & pd.isna(values.iloc[0]))]
        if len(contradicts):
            other = contradicts.index[0]
            one, two = (raw.loc[row].astype(str) for row in (first, other))
            differ = [str(name) for name in raw if one[name] != two[name]]
            raise ConfigError(
                f"rows {first + 1} and {other + 1} have the same {', '.join(key)} but {value} {values.iloc[0]:g} and "
                f"{contradicts.iloc[0]:g}; they differ in {', '.join(differ) or 'nothing else'}: --group one of "
                "these, --map seed=..., or select with --where"
            )
        repeats = rows.reason.index.isin(same.index[1:])
        rows.drop(pd.Series(repeats, index=rows.reason.index), "repeats another row's reading")


def _with_divergence(table: pd.DataFrame, above: float | None) -> pd.DataFrame:
    """Status and loss of the runs that diverged; `reported_loss` keeps what the source says."""
    loss = table["loss"]
    diverged = ~np.isfinite(loss)
    if "status" in table:
        diverged |= table["status"].eq("diverged")
    if above is not None:
        diverged |= loss > above
    else:
        cell = [name for name in ("width", "tokens", "batch_tokens", "group") if name in table]
        finite = table.assign(loss=loss.where(~diverged, np.inf))
        lowest = table.loc[finite.groupby(cell)["loss"].transform("idxmin")].set_index(table.index)
        diverged |= (loss > lowest["loss"] + DIVERGED_BY) & (table["lr"] > lowest["lr"])
    status = table["status"] if "status" in table else pd.Series("finished", index=table.index)
    return table.assign(reported_loss=loss, loss=loss.mask(diverged), status=status.mask(diverged, "diverged"))


def _notes(table: pd.DataFrame, raw: pd.DataFrame, mapping: Mapping) -> Iterator[str]:
    for name in ("tokens", "batch_tokens", "lr", "steps"):
        if name in table and table[name].max() > WIDE * table[name].min():
            yield f"{name} runs from {table[name].min():g} to {table[name].max():g}: are the units mixed?"
    if mapping.kind == "steps":
        return
    if (table["width"] == table.get("n_params")).all():
        yield "No width is mapped: N is the number of parameters."
    budgets = np.sort(table["tokens"].unique())
    near = int((budgets[1:] < NEAR * budgets[:-1]).sum())
    if near:
        yield (
            f"{near} of {budgets.size} budgets are within 2 % of the next: runs are compared at equal tokens only; "
            "perhaps map tokens='significant(..., 2)'."
        )
    count = int(table["status"].eq("diverged").sum())
    rule = (
        f"above {mapping.diverged_above:g} nats" if mapping.diverged_above else f"{DIVERGED_BY} nats above the lowest"
    )
    yield f"{count} of {len(table)} rows count as diverged (no finite loss, or {rule}" + (
        ")." if mapping.diverged_above else " of their cell at a higher learning rate)."
    )
    cell = [name for name in ("group", "width", "tokens", "batch_tokens") if name in table]
    finite = table[table["loss"].notna()].groupby(cell)["lr"].nunique()
    if (finite < MIN_LRS).any():
        few = int((finite < MIN_LRS).sum())
        yield f"{few} of {finite.size} cells (N, T, B) have fewer than {MIN_LRS} learning rates with a loss."
    text = " ".join(map(str, (*mapping.columns.values(), *mapping.group, mapping.where or "")))
    unused = [str(name) for name in raw if str(name) not in text and raw[name].astype(str).nunique() > 1]
    if unused:
        yield f"Columns that differ between rows and are not used: {', '.join(unused)}."
