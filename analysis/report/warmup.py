"""The page of `bcrit warmup`: phase diagrams and trajectories, and what they say in plain sentences."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import isfinite, log2
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.phase import losses, reached, saved, way
from analysis.figures.trajectories import trajectories as trajectory_figure
from analysis.notation import compact, grid_count, hundredths, plain, power_of_two
from analysis.phase import CELL, Row, judged, phase_rows
from analysis.report.checks import write_page
from analysis.report.html import bullets, html_table
from analysis.results import Estimate
from analysis.stability import catapults
from analysis.trajectories import natural
from configs.rundir import write_atomic

_REGIMES = {
    "sharpening": "rose once below it",
    "constant": "stayed once below it",
    "reduction": "fell once below it",
    "brief": "was below it at one probe only",
    "driven": "was never below it",
}


def write_warmup(table: pd.DataFrame, probes: pd.DataFrame, heading: str, out_dir: Path) -> Path:
    """Write `out_dir`/index.html, warmup.json and data/; return the page.

    `table` is the run table of a study, `probes` its trajectories. Raises ConfigError if the runs are of several T, B
    or N, or none has ended.
    """
    runs = judged(table)
    rows, regimes = phase_rows(runs), _regimes(probes, runs)
    said = [*_tolerated(rows), *_compared(rows), *_savings(runs), *_sentences(regimes)]
    seeds = runs.groupby([*CELL, "lr"])["seed"].nunique()
    about = (
        f"{len(runs)} runs, {seeds.min()} seed{'s' if seeds.min() > 1 else ''} a cell, T = "
        f"{grid_count(runs['tokens'].iloc[0])} and B = {grid_count(runs['batch_tokens'].iloc[0])} tokens, N = "
        f"{runs['width'].iloc[0]}; {runs['failed'].sum()} failed"
    )
    body = bullets([about, *said]) + _table(rows) + _trajectory_table(regimes)
    figures = (losses(runs), reached(runs), saved(runs), trajectory_figure(probes, runs))
    content = {"rows": [_finite(asdict(row)) for row in rows], "trajectories": [_finite(r) for r in regimes]}
    lead = "How large a peak rate does each warmup tolerate, and what does the loss's sharpness do on the way?"
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / "warmup.json", json.dumps(content, indent=1, allow_nan=False))
    return write_page(out_dir, "bcrit warmup", heading, lead, figures, body, "warmup.json")


def _regimes(probes: pd.DataFrame, runs: pd.DataFrame) -> list[dict]:
    """A record a run with probes: its cell, natural regime, catapults."""
    records = []
    for run in runs.drop_duplicates("run_id").to_dict("records"):
        mine = probes[probes["run_id"] == run["run_id"]] if len(probes) else probes
        if mine.empty or mine["preconditioned"].isna().all():
            continue
        tokens, p, ratio, loss = (mine[name].tolist() for name in ("tokens", "preconditioned", "ratio", "loss"))
        flown = catapults(loss, ratio)
        records.append(
            {name: run[name] for name in (*CELL, "lr", "seed", "failed")}
            | asdict(natural(tokens, p, ratio))
            | {"first": p[0], "catapults": len(flown.starts), "spikes": flown.spikes, "height": flown.height}
        )
    return records


def _sentences(regimes: Sequence[dict]) -> list[str]:
    """Natural regimes by parametrization and start of the second moment, and catapults."""
    said = []
    for key in sorted({(r["parametrization"], r["optimizer"], r["second_moment"]) for r in regimes}):
        mine = [r for r in regimes if (r["parametrization"], r["optimizer"], r["second_moment"]) == key]
        parts = []
        for regime, words in _REGIMES.items():
            if these := [r["change"] for r in mine if r["regime"] == regime]:
                by = f" (× {_span(pd.Series(these))})" if isfinite(these[0]) else ""
                parts.append(f"in {len(these)} it {words}{by}")
        above = sum(r["from_tokens"] > 0 for r in mine)
        met, thrown = sum(r["met"] for r in mine), sum(r["catapults"] for r in mine)
        said.append(
            f"{_name(key)}: before the first step λ(P⁻¹H) is {compact(fmean(r['first'] for r in mine))}, above its "
            f"threshold in {above} of {len(mine)} runs; {'; '.join(parts)}. "
            f"It met the threshold (again) in {met} run{'s' * (met != 1)}, with {thrown} catapults in all."
        )
    return said


def _tokens(count: int) -> str:
    return compact(count) if count else "0"


def _tolerated(rows: Iterable[Row]) -> list[str]:
    """How tolerated and serving peak rates grow with the length of a linear warmup."""
    said = []
    by_way: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        by_way.setdefault((row.parametrization, row.optimizer, row.second_moment, row.warmup), []).append(row)
    for (parametrization, *how), of in by_way.items():
        steps = ", ".join(
            f"{'none' if not row.warmup_tokens else grid_count(row.warmup_tokens)}: {_rate(row.tolerated)} "
            f"(serves up to {_rate(row.served)})"
            for row in of
        )
        said.append(f"{parametrization}, {way(*how)}: largest peak rate without a failed run, by warmup: {steps}.")
    return said


def _compared(rows: Sequence[Row]) -> list[str]:
    """GI-Adam and critical starts against plain Adam with a linear warmup of the same length."""
    plain_rows = {(r.parametrization, r.optimizer, r.warmup_tokens): r for r in rows if _is_plain(r)}
    by_way: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
    for row in rows:
        base = plain_rows.get((row.parametrization, row.optimizer, row.warmup_tokens))
        if base and not _is_plain(row):
            by_way.setdefault((row.parametrization, row.optimizer, row.second_moment, row.warmup), []).append(
                (row, base)
            )
    said = []
    for (parametrization, *how), pairs in by_way.items():
        parts = []
        for row, base in pairs:
            length = "none" if not row.warmup_tokens else grid_count(row.warmup_tokens)
            noise = f" (seeds scatter by {base.spread:.3f})" if isfinite(base.spread) else ""
            parts.append(
                f"at warmup {length} it tolerates {_rate(row.tolerated)} where that does {_rate(base.tolerated)}, "
                f"serves up to {_rate(row.served)} where that does {_rate(base.served)}, and its best loss is "
                f"{_signed(row.best_loss - base.best_loss)} nats away{noise}"
            )
        said.append(f"{parametrization}, {way(*how)} against linear Adam: {'; '.join(parts)}.")
    return said


def _savings(runs: pd.DataFrame) -> list[str]:
    """What warmups that look at the loss reach and save, by length."""
    looking = runs[runs["warmup"] != "linear"]
    said = []
    for (parametrization, warmup, tokens), part in looking.groupby(["parametrization", "warmup", "warmup_tokens"]):
        length = int(str(tokens))
        share, there = part["saved_tokens"] / length, int(part["reached_tokens"].notna().sum())
        said.append(
            f"{parametrization}, {warmup}, warmup {grid_count(length)}: the rate before the first step is "
            f"{_span(part['lr_start'])}, found in {part['warmup_passes'].median():.0f} forward passes (median); the "
            f"peak is reached in {there} of {len(part)} runs, T<sub>save</sub> / T<sub>warmup</sub> = {_span(share)}."
        )
    return said


def _span(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "not known"
    low, high = plain(values.min()), plain(values.max())
    return low if low == high else f"{low} to {high}"


def _is_plain(row: Row) -> bool:
    return row.second_moment == "zero" and row.warmup == "linear"


def _name(key: tuple[str, str, str]) -> str:
    parametrization, optimizer, second_moment = key
    return f"{parametrization}, {way(optimizer, second_moment, '').rstrip(', ')}"


def _rate(estimate: Estimate) -> str:
    match estimate.status:
        case "ok":
            return power_of_two(log2(estimate.value or 1))
        case "lower_bound":
            return f"≥ {power_of_two(log2(estimate.low or 1))}"
        case _:
            return f"&lt; {power_of_two(log2(estimate.high or 1))}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if isfinite(value) else "not known"


def _table(rows: Iterable[Row]) -> str:
    head = ("parametrisation", "way", "warmup", "tolerates", "serves up to", "best η", "best loss", "failed")
    cells = [
        (
            row.parametrization,
            way(row.optimizer, row.second_moment, row.warmup),
            "none" if not row.warmup_tokens else grid_count(row.warmup_tokens),
            _rate(row.tolerated),
            _rate(row.served),
            power_of_two(log2(row.best_lr)) if isfinite(row.best_lr) else "",
            f"{row.best_loss:.3f}" if isfinite(row.best_loss) else "",
            f"{row.n_failed} of {row.n_runs}",
        )
        for row in rows
    ]
    return "<h3>Rows of the phase diagrams</h3>" + html_table(head, cells, "Rows")


def _trajectory_table(regimes: Sequence[dict]) -> str:
    if not regimes:
        return ""
    head = (
        "parametrisation",
        "way",
        "warmup",
        "peak η",
        "seed",
        "λ(P⁻¹H) at first",
        "regime",
        "×",
        "from",
        "to tokens",
    )
    head = (*head, "met", "catapults", "height")
    cells = [
        (
            r["parametrization"],
            way(r["optimizer"], r["second_moment"], r["warmup"]),
            "none" if not r["warmup_tokens"] else grid_count(r["warmup_tokens"]),
            power_of_two(log2(r["lr"])),
            str(r["seed"]),
            compact(r["first"]),
            r["regime"],
            hundredths(r["change"]) if isfinite(r["change"]) else "",
            _tokens(r["from_tokens"]),
            _tokens(r["until_tokens"]),
            "yes" if r["met"] else "no",
            str(r["catapults"]),
            plain(r["height"]),
        )
        for r in sorted(regimes, key=lambda r: tuple(r[name] for name in (*CELL, "lr", "seed")))
    ]
    return "<h3>Trajectories</h3>" + html_table(head, cells, "Trajectories")


def _finite(value: Any) -> Any:
    """Plain JSON values; what is not finite is null."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case np.generic():
            return _finite(value.item())
        case float():
            return value if isfinite(value) else None
        case _:
            return value
