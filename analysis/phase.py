"""Phase diagrams of warmup: which (peak rate, length) fail, how large a rate each length tolerates, what is best.

After Kalra & Barkeshli (arXiv 2406.09405), whose rule of failure is one of accuracy; for language models it is chosen
here: a run has failed if it diverged, or if its last loss is above FAILED_PART of the lesser of the loss before the
first step and log(vocab_size), that of uniform predictions: it has learned next to nothing, or has unlearned it.
"""

from dataclasses import dataclass
from math import isnan, log

import numpy as np
import pandas as pd

from analysis.results import Estimate
from configs.errors import ConfigError

FAILED_PART = 0.95
CELL = ["parametrization", "optimizer", "second_moment", "warmup", "warmup_tokens"]
NEEDED = [*CELL, "lr", "seed", "loss", "loss_init", "status", "vocab_size"]
DEGRADED = 0.1  # nats above the best loss of a row: within it a rate serves


@dataclass(frozen=True)
class Row:
    """One row of a phase diagram: a way and length of warmup, over peak rates."""

    parametrization: str
    optimizer: str
    second_moment: str
    warmup: str
    warmup_tokens: int
    tolerated: Estimate  # largest peak rate below every rate at which a seed failed; a bound at the grid's ends
    served: Estimate  # largest peak rate whose mean loss is within DEGRADED of the row's best
    best_lr: float
    best_loss: float  # mean over seeds, nats; nan if every rate failed
    spread: float  # over seeds at the best rate, standard deviation; nan with one seed
    n_failed: int
    n_runs: int


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The runs that have ended, at their largest T, with `failed`. Raises ConfigError if columns or runs are missing.

    What the diagrams do not tell apart must not differ: width, T, B.
    """
    if missing := [name for name in NEEDED if name not in table]:
        raise ConfigError(f"run table: no column {', '.join(missing)}: collect it anew with `bcrit table`")
    ended = table[table["status"].isin(["finished", "diverged"]) & (table["tokens"] == table["budget_tokens"])]
    if ended.empty:
        raise ConfigError("run table: no run has ended: run the study first")
    for name in ("width", "tokens", "batch_tokens", "depth", "schedule", "data_fingerprint"):
        if len(values := sorted(map(str, ended[name].dropna().unique()))) > 1:
            raise ConfigError(f"run table: {name} mixes {', '.join(values)}: a phase diagram is at one of them")
    limit = FAILED_PART * np.minimum(ended["loss_init"], np.log(ended["vocab_size"]))
    failed = (ended["status"] == "diverged") | ~(ended["loss"] <= limit)
    return ended.assign(failed=failed).reset_index(drop=True)


def phase_rows(runs: pd.DataFrame) -> tuple[Row, ...]:
    """A row for every way and length of warmup, in the order of CELL. `runs`: from `judged`."""
    groups = runs.sort_values([*CELL, "lr"]).groupby(CELL, sort=True)
    return tuple(_row(dict(zip(CELL, key, strict=True)), rows) for key, rows in groups)


def _row(key: dict[str, object], rows: pd.DataFrame) -> Row:
    lrs = sorted(float(lr) for lr in rows["lr"].unique())
    by_lr = [rows[rows["lr"] == lr] for lr in lrs]
    failed = [bool(part["failed"].any()) for part in by_lr]
    loss = [float("nan") if bad else float(part["loss"].mean()) for bad, part in zip(failed, by_lr, strict=True)]
    best = min((value for value in loss if not isnan(value)), default=float("nan"))
    best_lr = lrs[loss.index(best)] if not isnan(best) else float("nan")
    seeds = rows.loc[rows["lr"] == best_lr, "loss"]
    serves = [value <= best + DEGRADED for value in loss]
    last = max((i for i, ok in enumerate(serves) if ok), default=None)
    return Row(
        **key,  # pyright: ignore[reportArgumentType]
        tolerated=_edge(lrs, [not f for f in failed], f"below every rate at which a run failed ({len(rows)} runs)"),
        served=_edge(lrs, [last is not None and i <= last for i in range(len(lrs))], f"within {DEGRADED} nats of best"),
        best_lr=best_lr,
        best_loss=best,
        spread=float(seeds.std()) if len(seeds) > 1 else float("nan"),
        n_failed=int(rows["failed"].sum()),
        n_runs=len(rows),
    )


def _edge(lrs: list[float], passing: list[bool], method: str) -> Estimate:
    """Where a run of passing rates ends: between the last of them and the next; a bound where the grid ends."""
    n = next((i for i, ok in enumerate(passing) if not ok), len(lrs))
    if n == len(lrs):
        return Estimate(None, lrs[-1], None, "", "lower_bound", method)
    if n == 0:
        return Estimate(None, None, lrs[0], "", "upper_bound", method)
    return Estimate(lrs[n - 1], lrs[n - 1], lrs[n], "", "ok", method)


def octaves(low: Estimate, high: Estimate) -> float | None:
    """How many octaves `high` tolerates beyond `low`; None where either is a bound."""
    if low.value is None or high.value is None:
        return None
    return log(high.value / low.value, 2)
