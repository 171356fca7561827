"""laws.json against the run table: the whole analysis made anew, and its cells once more from the bare losses."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.check import check_table
from analysis.review.evidence import Evidence, is_steps
from analysis.review.findings import Finding
from configs.errors import ConfigError

KEYS: dict[str, tuple[str, ...]] = {  # what tells the records of laws.json apart
    "cells": ("width", "tokens", "batch_tokens"),
    "sensitivity": ("width", "tokens", "batch_tokens"),
    "lr_laws": ("form", "tokens"),
    "lr_verdicts": ("tokens",),
    "critical_batch": ("definition", "tokens", "model"),
    "best_batch": ("width", "tokens"),
    "growth": ("quantity", "variable"),
    "sensitivity_laws": ("measure",),
    "scaling_rules": ("side", "tokens"),
    "collapse": ("quantity",),
}
_RELATIVE = 1e-6  # of a value, between machines
_OF_INTERVAL = 1e-3
_LAWS = "laws.json"


def check_laws(evidence: Evidence) -> Iterator[Finding]:
    """Every record of laws.json is what the analysis of the run table gives."""
    if evidence.truth is None:
        yield Finding("error", "conditions", "run table", f"it cannot be analysed: {evidence.refusal}")
        return
    for kind, names in KEYS.items():
        said, true = _keyed(evidence.laws.get(kind, []), names), _keyed(evidence.truth[kind], names)
        for key in true:
            where = f"{_LAWS}, {kind} {_place(names, key)}"
            if key not in said:
                yield Finding("error", "complete", where, "missing, though the run table gives it")
            elif paths := list(_differences(said[key], true[key])):
                yield Finding("error", "numbers", where, _listed(paths))
        for key in said.keys() - true.keys():
            yield Finding("error", "numbers", f"{_LAWS}, {kind} {_place(names, key)}", "the run table does not give it")
    for name in ("rows_by_status", "rows_analysed", "cells_by_state", "noise"):
        said, true = evidence.laws.get("meta", {}).get(name), evidence.truth["meta"].get(name)
        if paths := list(_differences(said, true)):
            yield Finding("error", "numbers", f"{_LAWS}, meta {name}", _listed(paths))
    for text in set(evidence.truth["warnings"]) - set(evidence.laws.get("warnings", [])):
        yield Finding("error", "complete", f"{_LAWS}, warnings", f"left out: {text}")


def check_cells(evidence: Evidence) -> Iterator[Finding]:
    """Counts, lowest loss and edges of every cell, from the table alone, without the code of the analysis.

    Where the seeds of a cell do not share all learning rates, means over seeds do not compare, and the lowest loss is
    not checked here.
    """
    if is_steps(evidence):
        return
    try:
        runs = check_table(evidence.table).table
    except ConfigError:
        return  # said by check_laws
    cells = {key: part for key, part in runs.groupby(["width", "tokens", "batch_tokens"])}
    for cell in evidence.laws.get("cells", []):
        key = (cell["width"], cell["tokens"], cell["batch_tokens"])
        where = f"{_LAWS}, cell N={key[0]}, T={key[1]}, B={key[2]}"
        if key not in cells:
            yield Finding("error", "numbers", where, "the run table has no such runs")
            continue
        part = cells[key]
        counts = {
            "n_lrs": part["lr"].nunique(),
            "n_seeds": part["seed"].nunique(),
            "n_diverged": int(part["loss"].isna().sum()),
        }
        for name, count in counts.items():
            if cell[name] != count:
                rule = "seeds" if name == "n_seeds" else "numbers"
                yield Finding("error", rule, where, f"{name} is {cell[name]}; the run table has {count}")
        yield from _lowest(cell, part, where)


def _lowest(cell: dict[str, Any], part: pd.DataFrame, where: str) -> Iterator[Finding]:
    """The learning rate of the lowest mean loss, and whether it lies at the edge of those tried."""
    by_lr = part.groupby("lr")["loss"]
    whole = by_lr.size().nunique() == 1 and part["seed"].nunique() == by_lr.size().iloc[0]
    mean = by_lr.agg(lambda loss: np.inf if loss.isna().any() else loss.mean())
    if not whole or not np.isfinite(mean.min()):
        return
    lr, loss = float(mean.idxmin()), float(mean.min())  # pyright: ignore[reportArgumentType]
    if not np.isclose(cell["argmin_lr"], lr, rtol=1e-9) or abs(cell["argmin_loss"] - loss) > 1e-6:
        said = f"lowest loss {cell['argmin_loss']:.6g} at lr {cell['argmin_lr']:.6g}"
        yield Finding("error", "numbers", where, f"{said}; the run table has {loss:.6g} at {lr:.6g}")
    at_edge = lr in (mean.index[0], mean.index[-1])
    if at_edge and (cell["state"] == "interior" or cell["lr"]["status"] == "ok"):
        text = f"an optimum is given, but the lowest loss is at lr {lr:.6g}, the edge of those tried"
        yield Finding("error", "edge", where, text)


def check_best(evidence: Evidence) -> Iterator[Finding]:
    """B* of laws.json lies inside the batches that were tried."""
    cells = evidence.laws.get("cells", [])
    for best in evidence.laws.get("best_batch", []):
        here = [c for c in cells if c["tokens"] == best["tokens"] and best["width"] in (None, c["width"])]
        batches = sorted({c["batch_tokens"] for c in here})
        loss = {b: [_tuned(c) for c in here if c["batch_tokens"] == b] for b in batches}
        widths = max((len(found) for found in loss.values()), default=0)
        mean = {b: float(np.mean(found)) for b, found in loss.items() if len(found) == widths}
        if not mean or best["batch"]["status"] != "ok":
            continue
        lowest = min(mean, key=lambda b: mean[b])
        if lowest in (min(mean), max(mean)):
            where = f"{_LAWS}, best batch N={best['width'] or 'all'}, T={best['tokens']}"
            yield Finding("error", "edge", where, f"B* is given, but the lowest loss is at B={lowest}, the edge")


def _tuned(cell: dict[str, Any]) -> float:
    return cell["argmin_loss"] if cell["loss"]["value"] is None else cell["loss"]["value"]


def _keyed(records: list[dict[str, Any]], names: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(record.get(name) for name in names): record for record in records}


def _place(names: tuple[str, ...], key: tuple[Any, ...]) -> str:
    short = {"width": "N", "tokens": "T", "batch_tokens": "B"}
    parts = (
        f"{short.get(name, name)}={'all' if value is None else value}" for name, value in zip(names, key, strict=True)
    )
    return ", ".join(part for part in parts if not part.endswith("="))


def _differences(said: Any, true: Any, path: str = "", room: float = 0.0) -> Iterator[str]:
    """`path: said, the run table gives true` for everything that differs by more than rounding."""
    match said, true:
        case dict(), dict():
            if true.get("low") is not None and true.get("high") is not None:
                room = _OF_INTERVAL * abs(true["high"] - true["low"])
            for name in sorted(said.keys() | true.keys()):
                yield from _differences(said.get(name), true.get(name), f"{path}.{name}".lstrip("."), room)
        case list(), list() if len(said) == len(true):
            for i, (a, b) in enumerate(zip(said, true, strict=True)):
                yield from _differences(a, b, f"{path}[{i}]", room)
        case (int() | float(), int() | float()) if not isinstance(said, bool):
            if abs(said - true) > max(_RELATIVE * abs(true), room, 1e-12):
                yield f"{path} is {said:.6g}; the run table gives {true:.6g}"
        case _ if said != true:
            yield f"{path or 'it'} is {said}; the run table gives {true}"


def _listed(paths: list[str]) -> str:
    return "; ".join(paths[:3]) + (f"; and {len(paths) - 3} more" if len(paths) > 3 else "")
