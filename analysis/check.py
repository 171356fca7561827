"""What a run table must be before laws are fitted to it; what may be mended is mended and said."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from configs.errors import ConfigError

REQUIRED = ("width", "tokens", "batch_tokens", "lr", "loss")
KEY = ["width", "tokens", "batch_tokens", "lr", "seed"]
ANALYSED = ("finished", "diverged")
ONE_VALUE = {  # columns in which one law cannot mix values
    "schedule": "the tuned learning rate depends on the schedule",
    "parametrization": "the learning rate means something else in another parametrization",
    "setting": "runs of different settings are no U-curve together",
    "data_fingerprint": "losses on different data do not compare",
    "precision": "losses in different precisions do not compare at a few thousandths of a nat",
}
MAY_MIX = ("depth", "zero_stage", "world_size", "code_version")


@dataclass(frozen=True)
class Checked:
    """The rows to analyse, and one plain sentence for everything that was left out or looks odd."""

    table: pd.DataFrame
    warnings: tuple[str, ...]


def check_table(table: pd.DataFrame) -> Checked:
    """The rows that laws may be fitted to; a table of five columns (REQUIRED) is enough.

    A missing status is `finished`, or `diverged` where the loss is not a finite number; a missing seed is 0.
    Raises ConfigError on missing columns, values that cannot be, contradicting duplicates, mixed conditions, or when
    nothing is left.
    """
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        raise ConfigError(f"run table: no column {', '.join(missing)}: it needs {', '.join(REQUIRED)}")
    table = _with_defaults(table)
    for name in ("width", "tokens", "batch_tokens", "lr"):
        bad = ~(pd.to_numeric(table[name], errors="coerce") > 0)
        if bad.any():
            raise ConfigError(
                f"run table: {name} is {table.loc[bad, name].iloc[0]} in row {bad.idxmax()}: it must be above 0"
            )
    table, warnings = _analysed(table)
    table, mid_schedule = _at_schedule_end(table)
    table, duplicates = _without_duplicates(table)
    for name, why in ONE_VALUE.items():
        values = sorted(map(str, table[name].dropna().unique())) if name in table else []
        if len(values) > 1:
            raise ConfigError(f"run table: {name} mixes {', '.join(values)}: {why}; keep one and analyse again")
    mixed = [name for name in MAY_MIX if name in table and table[name].nunique() > 1]
    if mixed:
        warnings.append(f"The runs differ in {', '.join(mixed)}; the laws take no account of it.")
    return Checked(table.reset_index(drop=True), (*warnings, *mid_schedule, *duplicates))


def _with_defaults(table: pd.DataFrame) -> pd.DataFrame:
    loss = pd.to_numeric(table["loss"], errors="coerce").astype(float)
    table = table.assign(loss=loss.where(np.isfinite(loss)))
    if "seed" not in table:
        table = table.assign(seed=0)
    return with_status(table)


def with_status(table: pd.DataFrame) -> pd.DataFrame:
    """A missing status is `finished`, or `diverged` where the loss is not a finite number."""
    if "status" in table:
        return table
    ended = np.isfinite(pd.to_numeric(table["loss"], errors="coerce").astype(float))
    return table.assign(status=np.where(ended, "finished", "diverged"))


def _analysed(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Finished and diverged runs."""
    use = table["status"].isin(ANALYSED)
    others = table.loc[~use, "status"].value_counts()
    counts = ", ".join(f"{count} {status}" for status, count in others.items())
    warnings = (
        [f"{int((~use).sum())} rows are of runs that have not ended and were left out ({counts})."] if counts else []
    )
    unread = use & (table["status"] == "finished") & table["loss"].isna()
    if unread.any():
        warnings.append(f"{int(unread.sum())} rows of finished runs have no finite loss; they count as diverged.")
    table = table[use]
    if "loss_init" in table:
        worse = table["loss"] >= table["loss_init"]
        table = table.assign(loss=table["loss"].mask(worse))
        if worse.any():
            warnings.append(f"{int(worse.sum())} losses are not below the untrained model's; they count as diverged.")
    if not table["loss"].notna().any():
        raise ConfigError("run table: no run has a finite loss: let the study finish, or lower its learning rates")
    return table, warnings


def _at_schedule_end(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Without the readouts in the middle of a decaying schedule: that loss is not the one of a budget of its own."""
    if not {"schedule", "budget_tokens"} <= set(table.columns):
        return table, []
    middle = (table["schedule"] != "constant") & table["schedule"].notna() & (table["tokens"] < table["budget_tokens"])
    if not middle.any():
        return table, []
    if middle.all():
        raise ConfigError("run table: no row is at the end of its schedule (tokens = budget_tokens): finish the runs")
    text = f"{int(middle.sum())} readouts before the end of a decaying schedule were left out: they are not budgets."
    return table[~middle], [text]


def _without_duplicates(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row per (width, tokens, batch, lr, seed); the same reading twice is one, two different readings an error."""
    twice = table.duplicated(KEY, keep=False)
    if not twice.any():
        return table, []
    losses = table[twice].groupby(KEY)["loss"].agg(lambda loss: loss.nunique(dropna=False))
    if (losses > 1).any():
        key = dict(zip(KEY, losses.index[int(np.argmax(losses.to_numpy() > 1))], strict=True))  # pyright: ignore
        where = ", ".join(f"{name} {value:g}" for name, value in key.items())
        raise ConfigError(f"run table: two rows with different loss at {where}: keep one, or give each its own seed")
    kept = table.drop_duplicates(KEY)
    return kept, [f"{len(table) - len(kept)} rows repeat another row's reading and were left out."]
