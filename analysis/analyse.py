"""The whole analysis: run table in, everything that it says out. Only the bootstrap draws lots, from a given seed."""

from collections import Counter
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from analysis.best_batch import best_batches
from analysis.caveats import explain
from analysis.check import MAY_MIX, ONE_VALUE, check_table
from analysis.choices import with_choices
from analysis.collapse import collapse
from analysis.critical_batch import critical_batches
from analysis.growth import Bootstrap, growth_laws, sensitivity_laws
from analysis.laws import fit_lr_laws, points_of
from analysis.noise import Noise
from analysis.optimum import find_optima
from analysis.results import Analysis, Cell
from analysis.scaling_rules import scaling_rules
from analysis.steps import analyse_steps, is_steps_table

CHECK = Bootstrap()
FORMAT = 1  # of laws.json; a reader of 1 can read whatever only adds keys to it


def analyse(table: pd.DataFrame, *, window: int = 5, bootstrap: Bootstrap = CHECK) -> Analysis:
    """Optima, laws, critical and best batches and their growth, with what is not identified and why.

    `table`: a run table (see `bcrit table`), at least width, tokens, batch_tokens, lr, loss. `window`: learning rates
    per parabola. `bootstrap`: how many resamples check the growth laws, and their seed. Raises ConfigError if the table
    cannot be analysed (`analysis.check`). A table of steps to target losses has critical batches and their growth only
    (`analysis.steps`).
    """
    if is_steps_table(table):
        return analyse_steps(table, bootstrap)
    checked = check_table(table)
    optima = find_optima(checked.table, window=window)
    cells, noise, points = optima.cells, optima.noise, points_of(optima)
    budgets = sorted({c.tokens for c in cells})
    fitted = [fit_lr_laws(points, tokens=tokens) for tokens in [*budgets, *([None] if len(budgets) > 1 else [])]]
    laws = tuple(law for of_budget, _ in fitted for law in of_budget)
    verdicts = tuple(verdict for _, verdict in fitted)
    critical = critical_batches(points, laws, verdicts, cells, noise, checked.table)
    best = best_batches(cells, noise)
    growth = growth_laws(points, cells, critical, best, noise, bootstrap)
    growth = with_choices(growth, optima, points, verdicts[-1].candidates)
    return Analysis(
        meta=_meta(table, checked.table, cells, noise, window) | {"bootstrap": asdict(bootstrap)},
        cells=cells,
        lr_laws=laws,
        lr_verdicts=verdicts,
        critical_batch=critical,
        best_batch=best,
        growth=growth,
        scaling_rules=scaling_rules(points, best),
        collapse=collapse(points, cells, best, noise),
        sensitivity_laws=sensitivity_laws(cells, noise),
        warnings=(*checked.warnings, *explain(cells, noise, laws, verdicts, critical, best)),
    )


def to_json(analysis: Analysis) -> dict[str, Any]:
    """The content of laws.json: plain values, strictly valid JSON (a number that is not finite is null)."""
    cells = [asdict(cell) for cell in analysis.cells]
    where = ("width", "tokens", "batch_tokens")
    sensitivity = [{k: cell[k] for k in where} | cell.pop("sensitivity") for cell in cells]
    for row, cell in zip(sensitivity, cells, strict=True):
        row["curvature"] = cell["curvature"]
    return _plain(
        {
            "meta": analysis.meta,
            "cells": cells,
            "lr_laws": [asdict(law) for law in analysis.lr_laws],
            "lr_verdicts": [asdict(verdict) for verdict in analysis.lr_verdicts],
            "critical_batch": [asdict(crit) for crit in analysis.critical_batch],
            "best_batch": [asdict(best) for best in analysis.best_batch],
            "growth": [asdict(law) for law in analysis.growth],
            "sensitivity": sensitivity,
            "sensitivity_laws": [asdict(law) for law in analysis.sensitivity_laws],
            "scaling_rules": [asdict(rule) for rule in analysis.scaling_rules],
            "collapse": [asdict(test) for test in analysis.collapse],
            "warnings": list(analysis.warnings),
        }
    )


def _meta(
    table: pd.DataFrame, analysed: pd.DataFrame, cells: tuple[Cell, ...], noise: Noise, window: int
) -> dict[str, object]:
    """Where the numbers come from: conditions, counts and the noise that every interval rests on."""
    status = table["status"] if "status" in table else analysed["status"]
    try:
        package = version("bcrit")
    except PackageNotFoundError:
        package = "unknown"
    names = [name for name in ("study", *ONE_VALUE, *MAY_MIX) if name in analysed]
    return {
        **{name: sorted(map(str, analysed[name].dropna().unique())) for name in names},
        "format": FORMAT,
        "version": package,
        "rows_by_status": dict(Counter(map(str, status))),
        "rows_analysed": len(analysed),
        "cells_by_state": dict(Counter(cell.state for cell in cells)),
        "window": window,
        "noise": asdict(noise),
    }


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.generic():
            return _plain(value.item())
        case float():
            return value if isfinite(value) else None
        case _:
            return value
