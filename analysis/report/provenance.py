"""Where the numbers come from: the study, its runs, tokens, data and code, read off the run table."""

from collections.abc import Iterable
from html import escape

import pandas as pd

from analysis.check import ANALYSED
from analysis.notation import compact, grid_count, plain
from analysis.report.html import facts
from analysis.results import Analysis


def provenance(table: pd.DataFrame, analysis: Analysis) -> str:
    """The section on provenance, as HTML; what the table does not record is said to be so."""
    runs = one_row_a_run(table)
    pairs = [
        ("Study", _values(table, "study")),
        ("Runs", run_counts(runs)),
        ("Tokens trained", _tokens_trained(runs)),
        ("Token budgets T", _grid(table, "tokens")),
        ("Batches B, tokens", _grid(table, "batch_tokens")),
        ("Learning rates", f"{table['lr'].nunique()} from {plain(table['lr'].min())} to {plain(table['lr'].max())}"),
        ("Widths N", ", ".join(str(width) for width in sorted(table["width"].unique()))),
        ("Depth, parameters", f"{_values(table, 'depth')} blocks; {_span(table, 'n_params')} parameters"),
        ("Seeds", _values(table, "seed")),
        ("Schedule", _values(table, "schedule")),
        ("Parametrization", _values(table, "parametrization")),
        (
            "Precision, engine",
            f"{_values(table, 'precision')}; ZeRO {_values(table, 'zero_stage')}; ranks {_values(table, 'world_size')}",
        ),
        ("Data fingerprint", _values(table, "data_fingerprint")),
        ("Code version", _values(table, "code_version")),
        ("Analysed", _analysis(analysis.meta)),
    ]
    return f'<section id="provenance"><h2>Where the numbers come from</h2>{facts(pairs)}</section>'


def one_row_a_run(table: pd.DataFrame) -> pd.DataFrame:
    """The last row of each run; every row is a run of its own where the table has no run ids."""
    if "run_id" not in table or table["run_id"].isna().any():
        return table
    return table.sort_values("tokens").groupby("run_id", as_index=False).tail(1)


def run_counts(runs: pd.DataFrame) -> str:
    """`96 finished, 4 diverged, 2 running (not analysed)`."""
    counts = runs["status"].value_counts()
    known = [f"{counts.get(status, 0)} {status}" for status in ANALYSED]
    others = [
        f"{count} {escape(str(status))} (not analysed)" for status, count in counts.items() if status not in ANALYSED
    ]
    return ", ".join(known + others)


def _tokens_trained(runs: pd.DataFrame) -> str:
    """Tokens of the finished runs, those of a trunk once for all the runs that branch off it."""
    finished = runs[runs["status"] == "finished"]
    tokens = finished["tokens"].sum()
    if not {"parent", "branch_tokens"} <= set(runs):
        return f"{compact(tokens)} in finished runs"
    trunks = finished.groupby("parent")["branch_tokens"].max().sum()
    whose = " and their trunks" if trunks else ""
    return f"{compact(tokens - finished['branch_tokens'].sum() + trunks)} in finished runs{whose}"


def _values(table: pd.DataFrame, column: str) -> str:
    found: Iterable[object] = table[column].dropna().unique() if column in table else ()
    return escape(", ".join(str(value) for value in sorted(found, key=str))) or "not recorded"


def _grid(table: pd.DataFrame, column: str) -> str:
    return ", ".join(grid_count(value) for value in sorted(table[column].unique()))


def _span(table: pd.DataFrame, column: str) -> str:
    if column not in table or table[column].isna().all():
        return "not recorded"
    low, high = table[column].min(), table[column].max()
    return compact(low) if low == high else f"{compact(low)} to {compact(high)}"


def _analysis(meta: dict[str, object]) -> str:
    """How the numbers were made from the rows: window, noise, version."""
    noise = meta.get("noise")
    sigma = noise.get("sigma") if isinstance(noise, dict) else None
    said = [f"{meta['rows_analysed']} rows"] if "rows_analysed" in meta else []
    said += [f"parabolas through up to {meta['window']} learning rates"] if "window" in meta else []
    if isinstance(noise, dict) and sigma:
        at = ", ".join(f"{plain(value)} at T = {grid_count(tokens)}" for tokens, value in sigma.items())
        said += [f"noise of one run's loss, nats: {at} ({noise.get('dof')} degrees of freedom)"]
    said += [f"bcrit {escape(str(meta['version']))}"] if "version" in meta else []
    return "; ".join(said) or "not recorded"
