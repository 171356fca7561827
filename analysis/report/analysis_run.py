"""The analysis run in Weights & Biases: estimates as curves, figures as in the page, and the page's files.

Panels there cannot draw fits, so what was fitted is logged by a run of its own.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analysis.figures import Figure
from analysis.results import Analysis, Estimate

Row = dict[str, float]
FILES = ("index.html", "laws.json", "table.csv", "data/*.csv")  # of the local report: what `bcrit review` reads

KINDS = {  # of keys of the analysis run: title of the panel, its x-axis, unit of its y-axis
    "batch_crit": ("Critical batch against T, by definition", "tokens", "B_crit, tokens"),
    "batch_best": ("Best batch against T", "tokens", "B*, tokens"),
    "lr_opt": ("Tuned learning rate against T", "tokens", "lr at base width"),
    "by_batch": ("Tuned learning rate against B", "batch_tokens", "lr at base width"),
    "sensitivity": ("Sensitivity to the learning rate against T", "tokens", "S_c, nats per octave²"),
}


def log_analysis(directory: Path, analysis: Analysis, figures: Sequence[Figure], entity: str, project: str) -> str:
    """Log estimates, figures and the page's files as the analysis run; returns its id, a hash of the numbers."""
    content = (directory / "laws.json").read_bytes() + (directory / "table.csv").read_bytes()
    identity = f"analysis-{hashlib.sha256(content).hexdigest()[:12]}"
    with _run(identity, entity, project, analysis) as run:
        if run.summary.get("complete"):
            return identity
        for pattern in FILES:
            run.save(str(directory / pattern), base_path=str(directory), policy="now")
        for row in estimates(analysis):
            run.log(row)
        import wandb

        run.log({f"figures/{figure.id}": wandb.Plotly(figure.plot) for figure in figures if figure.plot is not None})
        run.summary.update({"cells": len(analysis.cells), "warnings": len(analysis.warnings), "complete": True})
    return identity


@contextmanager
def _run(identity: str, entity: str, project: str, analysis: Analysis) -> Iterator[Any]:
    import wandb

    with tempfile.TemporaryDirectory() as scratch:
        run = wandb.init(
            dir=scratch,
            id=identity,
            resume="allow",
            entity=entity,
            project=project,
            name=identity,
            job_type="analysis",
            config={"meta": analysis.meta},
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=30),
        )
        for axis, pattern in (("tokens", "*"), ("batch_tokens", "by_batch/*")):
            run.define_metric(pattern, step_metric=axis)
        try:
            yield run
        finally:
            run.finish()


def estimates(analysis: Analysis) -> list[Row]:
    """Curves of the analysis run: every value that the grid identifies, at its T, or at its B under `by_batch/`.

    A bound is no point of a curve; it is in the words, the tables and the figures.
    """
    by_tokens: dict[int, Row] = {}
    by_batch: dict[int, Row] = {}
    for cell in analysis.cells:
        at = f"N{cell.width}_B{cell.batch_tokens}"
        put = by_tokens.setdefault(cell.tokens, {})
        put |= _value(f"lr_opt/{at}", cell.lr) | _value(f"sensitivity/{at}", cell.curvature)
        by_batch.setdefault(cell.batch_tokens, {}).update(
            _value(f"by_batch/lr_opt_N{cell.width}_T{cell.tokens}", cell.lr)
        )
    for best in analysis.best_batch:
        if best.width is not None:
            by_tokens.setdefault(best.tokens, {}).update(_interval(f"batch_best/N{best.width}", best.batch))
    for crit in analysis.critical_batch:
        key = f"batch_crit/{crit.definition}" + (f"_{crit.model}" if crit.model else "")
        by_tokens.setdefault(crit.tokens, {}).update(_interval(key, crit.batch))
    return [
        {axis: at, **row}
        for axis, rows in (("tokens", by_tokens), ("batch_tokens", by_batch))
        for at, row in sorted(rows.items())
        if row
    ]


def _value(key: str, estimate: Estimate) -> Row:
    return {key: estimate.value} if estimate.status == "ok" and estimate.value is not None else {}


def _interval(key: str, estimate: Estimate) -> Row:
    ends = {f"{key}_low": estimate.low, f"{key}_high": estimate.high} if estimate.status == "ok" else {}
    return _value(key, estimate) | {name: end for name, end in ends.items() if end is not None}
