"""The analysis as tidy frames: one row per cell, best batch or law, estimates spread over four columns."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analysis.notation import Writer, estimate_text, plain
from analysis.results import Analysis, Estimate

KEY = ["width", "tokens", "batch_tokens"]


def spread(name: str, estimate: Estimate) -> dict[str, Any]:
    """`name`, `name_low`, `name_high`, `name_status` of one estimate."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_status": estimate.status,
    }


def numeric(records: Iterable[dict[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    """Records as a frame with these columns even when there are none; absent numbers are NaN, never None."""
    frame = pd.DataFrame(list(records), columns=pd.Index(list(columns)))
    measured = [c for c in frame if f"{c}_status" in frame or str(c).endswith(("_low", "_high"))]
    return frame.astype(dict.fromkeys(measured, float))


def estimate_columns(*names: str) -> list[str]:
    """Columns that `spread` makes for these names."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high", "_status")]


def cells(analysis: Analysis) -> pd.DataFrame:
    """One row per cell: key, state, lr, loss and curvature with intervals, raw argmin, counts."""
    plain = ["state", "argmin_lr", "argmin_loss", "n_lrs", "n_seeds", "n_diverged"]
    records = (
        {name: getattr(cell, name) for name in KEY + plain}
        | spread("lr", cell.lr)
        | spread("loss", cell.loss)
        | spread("curvature", cell.curvature)
        for cell in analysis.cells
    )
    columns = KEY + plain + estimate_columns("lr", "loss", "curvature")
    return numeric(records, columns).sort_values(KEY, ignore_index=True)


def lowest_runs(table: pd.DataFrame) -> dict[tuple[int, int, int], str]:
    """For each (N, T, B) a line for the mouse: which run has its lowest loss; none where runs have no ids."""
    if "run_id" not in table:
        return {}
    best = table.loc[table.dropna(subset=["loss", "run_id"]).groupby(KEY)["loss"].idxmin()]
    return {
        (row.width, row.tokens, row.batch_tokens): f"<br>lowest loss: run {row.run_id}, η = {plain(row.lr)}"
        for row in rows(best)
    }


def levels(frame: pd.DataFrame, column: str) -> list[int]:
    """The distinct whole numbers of a column, ascending."""
    return sorted(int(value) for value in frame[column].dropna().unique())


def known(frame: pd.DataFrame, name: str) -> list[float]:
    """Every finite value of an estimate column, with the bounds that are drawn."""
    bounds = frame[f"{name}_low"].where(frame[f"{name}_status"] == "lower_bound")
    bounds = bounds.fillna(frame[f"{name}_high"].where(frame[f"{name}_status"] == "upper_bound"))
    return frame[name].fillna(bounds).dropna().tolist()


def extent(frame: pd.DataFrame, name: str) -> list[float]:
    """`known` and the ends of the intervals: what a logarithmic axis covers.

    A bar that reaches more than a factor of four beyond every value is cut by the edge, or it would flatten the rest.
    """
    values, ok = known(frame, name), frame[frame[f"{name}_status"] == "ok"]
    ends = pd.concat([ok[f"{name}_low"], ok[f"{name}_high"]]).dropna()
    return [*values, *ends.clip(min(values) / 4, max(values) * 4)] if values else []


def rows(frame: pd.DataFrame) -> Iterator[Any]:
    """`itertuples`, whose columns only the reader of the code knows: untyped."""
    return iter(frame.itertuples())


def words(row: Any, name: str, write: Writer = plain) -> str:
    """An estimate of a row, as text."""
    value, low, high = (
        None if pd.isna(number := getattr(row, column)) else float(number)
        for column in (name, f"{name}_low", f"{name}_high")
    )
    return estimate_text(Estimate(value, low, high, "", getattr(row, f"{name}_status"), ""), write)
