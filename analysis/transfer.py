"""Does a learning rate tuned at the narrowest width serve the wider ones, and what does it cost where it does not?"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.check import check_table
from analysis.optimum import find_optima
from analysis.results import Cell, Estimate, bounded
from configs.errors import ConfigError

NO_SETTING = "all runs"


@dataclass(frozen=True)
class Step:
    """From one width to the next: is wider better at every learning rate up to the optimum?"""

    narrow: int
    wide: int
    rates: int  # learning rates compared: those up to the wide one's lowest loss
    worst: Estimate  # largest loss(wide) - loss(narrow) over them, nats; negative: better at every one

    @property
    def verdict(self) -> str:
        """`better` or `worse` if the interval of the worst rate says so, `as good` if it holds zero, else `unsure`."""
        if self.worst.low is None or self.worst.high is None:
            return "unsure"
        return "better" if self.worst.high < 0 else "worse" if self.worst.low > 0 else "as good"


@dataclass(frozen=True)
class Transfer:
    """How the learning rate transfers over width in one setting; `cells` and what is aligned with them by width."""

    setting: str
    cells: tuple[Cell, ...]  # the proxy, the narrowest, first
    shift: tuple[Estimate, ...]  # log2 lr*(N) - log2 lr*(proxy), octaves
    spread: Estimate  # largest difference of log2 lr* between two widths, octaves
    lost: tuple[Estimate, ...]  # loss at N with the proxy's lr* - loss at its own, nats
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]  # what was left out of its table, and why


@dataclass(frozen=True)
class TransferStudy:
    """All settings at one (T, B) by name, and the differences of their tuned losses from the first one's by width."""

    tokens: int
    batch_tokens: int
    transfers: tuple[Transfer, ...]
    behind: tuple[tuple[Estimate, ...], ...]  # [setting][width]: loss* - loss* of the first setting, nats


def transfer_study(table: pd.DataFrame) -> TransferStudy:
    """The transfer over width in every setting of a run table, at its largest T and, there, its largest B.

    `table`: a run table with a column `setting` (see `bcrit table`); without it, or where it is empty, there is one.
    Raises ConfigError if no setting has two widths, or the table cannot be analysed.
    """
    labels = table["setting"].fillna("") if "setting" in table else pd.Series("", index=table.index)
    tokens = int(table["tokens"].max())
    batch = int(table.loc[table["tokens"] == tokens, "batch_tokens"].max())
    here = (table["tokens"] == tokens) & (table["batch_tokens"] == batch)
    transfers = [
        _transfer(str(label) or NO_SETTING, table[here & (labels == label)]) for label in sorted(labels.unique())
    ]
    if all(len(transfer.cells) < 2 for transfer in transfers):
        raise ConfigError("transfer: every setting has losses of one width only; sweep at least two widths")
    first = transfers[0]
    losses = {cell.width: cell.loss for cell in first.cells}
    behind = tuple(tuple(_difference(cell.loss, losses.get(cell.width), "nats") for cell in t.cells) for t in transfers)
    return TransferStudy(tokens, batch, tuple(transfers), behind)


def to_json(study: TransferStudy) -> dict[str, Any]:
    """The content of transfer.json, verdicts included."""
    data = asdict(study)
    for transfer, described in zip(study.transfers, data["transfers"], strict=True):
        for step, row in zip(transfer.steps, described["steps"], strict=True):
            row["verdict"] = step.verdict
    return data


def _transfer(setting: str, table: pd.DataFrame) -> Transfer:
    """One setting; of one width it has no steps and no spread. Raises ConfigError."""
    alone = table.drop(columns=[c for c in ("setting",) if c in table])
    checked = check_table(alone)
    cells = find_optima(checked.table).cells
    proxy = cells[0]
    return Transfer(
        setting=setting,
        cells=cells,
        shift=tuple(_octaves(cell, proxy) for cell in cells),
        spread=_spread(cells),
        lost=tuple(_lost(cell, proxy) for cell in cells),
        steps=tuple(_step(checked.table, narrow, wide) for narrow, wide in pairwise(cells)),
        warnings=checked.warnings,
    )


def _octaves(cell: Cell, proxy: Cell) -> Estimate:
    """log2 lr*(cell) - log2 lr*(proxy); a bound where one of the two is a bound, nothing where they oppose."""
    method = "difference of log2 lr*, intervals in quadrature"
    if cell is proxy:
        return Estimate(0.0, 0.0, 0.0, "octaves", "ok", "the proxy itself")
    a, b = cell.lr, proxy.lr
    if a.value and b.value and a.low and a.high and b.low and b.high:
        value = float(np.log2(a.value / b.value))
        low = value - float(np.hypot(np.log2(a.value / a.low), np.log2(b.high / b.value)))
        high = value + float(np.hypot(np.log2(a.high / a.value), np.log2(b.value / b.low)))
        return Estimate(value, low, high, "octaves", "ok", method)
    low = float(np.log2(a.low / b.high)) if a.low and b.high else None
    high = float(np.log2(a.high / b.low)) if a.high and b.low else None
    found = bounded(None, low, high, "octaves", "from a bound on lr*")
    return found if found.status != "ok" else Estimate(None, None, None, "octaves", "not_identified", method)


def _spread(cells: tuple[Cell, ...]) -> Estimate:
    """Largest distance between two widths' log2 lr*: of the estimates, so noise makes it larger, never smaller."""
    pairs = [_octaves(a, b) for i, a in enumerate(cells) for b in cells[:i]]
    if not pairs:
        return Estimate(None, None, None, "octaves", "not_identified", "one width")
    if all(pair.status == "ok" for pair in pairs):
        widest = max(pairs, key=lambda pair: abs(pair.value or 0.0))
        value, low, high = (abs(x or 0.0) for x in (widest.value, widest.low, widest.high))
        same_sign = (widest.low or 0.0) * (widest.high or 0.0) > 0
        ends = (min(low, high) if same_sign else 0.0, max(low, high))
        return Estimate(value, *ends, "octaves", "ok", "of the two widths furthest apart")
    least = [max(pair.low or 0.0, -(pair.high or 0.0), 0.0) for pair in pairs]
    return Estimate(None, max(least), None, "octaves", "lower_bound", "some lr* lies outside the sweep")


def _lost(cell: Cell, proxy: Cell) -> Estimate:
    """Curvature at the target x (shift)^2, over the interval of the shift: 0 is its least where that holds 0."""
    shift, curvature = _octaves(cell, proxy), cell.curvature.value
    if curvature is None or shift.value is None or shift.low is None or shift.high is None:
        return Estimate(None, None, None, "nats", "not_identified", "an optimum outside the sweep")
    ends = sorted((shift.low**2, shift.high**2))
    low = 0.0 if shift.low <= 0 <= shift.high else ends[0]
    return Estimate(
        curvature * shift.value**2, curvature * low, curvature * ends[1], "nats", "ok", "curvature x shift^2"
    )


def _step(table: pd.DataFrame, narrow: Cell, wide: Cell) -> Step:
    """Losses at equal rate and seed, up to the rate of the wide one's lowest loss; the interval is for the worst one.

    The noise of a difference is the scatter of all paired differences about their means by rate, Student's with
    Bonferroni over the rates, since the worst of several is looked at. One seed gives no interval, and so no verdict.
    """
    rates = table[(table["lr"] <= wide.argmin_lr) & table["width"].isin((narrow.width, wide.width))]
    losses = rates.pivot_table(index=["lr", "seed"], columns="width", values="loss", aggfunc="mean")
    pairs = (losses[wide.width] - losses[narrow.width]).dropna()
    by_rate = pairs.groupby("lr")
    mean, count = by_rate.mean(), by_rate.size()
    dof = int(len(pairs) - len(mean))
    worst = float(mean.max())
    if dof < 1:
        return Step(narrow.width, wide.width, len(mean), Estimate(worst, None, None, "nats", "ok", "one seed"))
    scatter = float(np.sqrt(((pairs - by_rate.transform("mean")) ** 2).sum() / dof))
    quantile = float(special.stdtrit(dof, 1 - 0.025 / len(mean)))
    half = quantile * scatter / float(np.sqrt(count.to_numpy()[mean.to_numpy().argmax()]))
    method = f"paired by seed, worst of {len(mean)} learning rates"
    return Step(narrow.width, wide.width, len(mean), Estimate(worst, worst - half, worst + half, "nats", "ok", method))


def _difference(a: Estimate, b: Estimate | None, unit: str) -> Estimate:
    """a - b; a bound where one of them is an upper bound, nothing where both are or b is missing."""
    if b is None or (a.value is None and b.value is None):
        return Estimate(None, None, None, unit, "not_identified", "no tuned loss to compare")
    if a.value is None or b.value is None:
        low = a.low - b.high if b.value is None and a.low is not None and b.high is not None else None
        high = a.high - b.low if a.value is None and a.high is not None and b.low is not None else None
        return bounded(None, low, high, unit, "one of the losses is an upper bound: its optimum is outside the sweep")
    value = a.value - b.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(value, None, None, unit, "ok", "no interval")
    low = value - float(np.hypot(a.value - a.low, b.high - b.value))
    high = value + float(np.hypot(a.high - a.value, b.value - b.low))
    return Estimate(value, low, high, unit, "ok", "intervals in quadrature")
