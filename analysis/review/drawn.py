"""The figures: their numbers against the run table and the analysis, their marks against their numbers, their axes."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.check import ANALYSED, check_table
from analysis.review.document import Section, plain_text
from analysis.review.evidence import Evidence, is_steps
from analysis.review.findings import Finding
from configs.errors import ConfigError

KEY = ["width", "tokens", "batch_tokens"]
SCALES = {"learning rate": "log", "tokens": "log", "loss": "linear"}  # what an axis title holds -> how it is scaled
UNITS = ("tokens", "nats", "at base width", "width N", "RMS", "agreement of signs", "best η of one step")
BOUNDS = {
    "up": "low",
    "right": "low",
    "down": "high",
    "left": "high",
}  # an open triangle's direction -> the bound's end
_SHIFT = 0.16  # octaves that marks may be moved sideways


def check_figures(evidence: Evidence) -> Iterator[Finding]:
    """Every figure that the page shows, and that none has lost its numbers."""
    for section in evidence.document.sections.values():
        if section.plot is None:
            continue
        where = f"figure {section.name}"
        yield from _axes(section, where)
        yield from _title(section, evidence, where)
        if section.name not in evidence.data:
            yield Finding("error", "complete", where, f"data/{section.name}.csv is missing")
        else:
            yield from _marks(section, evidence.data[section.name], where)
    yield from _runs(evidence)
    yield from _estimates(evidence)


def _axes(section: Section, where: str) -> Iterator[Finding]:
    """Titles with units; learning rates and tokens on logarithmic axes, losses on linear ones."""
    layout = (section.plot or {})["layout"]
    titles_of = layout.get("meta", {}).get("titles", {})  # a panel's own are taken from here wherever it is put
    for letter, titles in (("x", [titles_of.get("x", "")]), ("y", titles_of.get("y", [""]))):
        said = [plain_text(title) for title in titles if title]
        scales = {_wanted_scale(title) for title in said}
        scale = scales.pop() if len(scales) == 1 else None
        axes = [axis for name, axis in layout.items() if name.startswith(f"{letter}axis")]
        if len(said) < len(titles):
            yield Finding("error", "axes", where, f"an {letter} axis has no title")
        elif bare := [title for title in said if not any(unit in title for unit in UNITS)]:
            yield Finding("error", "axes", where, f"the {letter} axis {bare[0]!r} has no unit")
        elif scale and any(axis.get("type", "linear") != scale for axis in axes):
            yield Finding("error", "axes", where, f"the {letter} axis {min(said)!r} is not {scale}")


def _wanted_scale(title: str) -> str | None:
    return next((scale for words, scale in SCALES.items() if words in title), None)


def _title(section: Section, evidence: Evidence, where: str) -> Iterator[Finding]:
    """The optimum depends on the schedule: it stands in every title but that of single steps from a checkpoint."""
    if (
        section.name == "surge-checkpoint"
        or is_steps(evidence)
        or "schedule" not in evidence.table
        or evidence.table["schedule"].isna().all()
    ):
        return
    schedules = sorted(evidence.table["schedule"].dropna().unique())
    heading = next((text for kind, text in section.blocks if kind == "h3"), "")
    if f"({' and '.join(schedules)} schedule)" not in heading:
        yield Finding("error", "conditions", where, f"its title does not say the schedule: {heading}")


def _marks(section: Section, data: pd.DataFrame, where: str) -> Iterator[Finding]:
    """A filled mark stands at a value of the figure's numbers, an open triangle at a bound."""
    values = _numbers(data, lambda column: not column.endswith(("_low", "_high")))
    ends = {end: _numbers(data, lambda column, end=end: column.endswith(f"_{end}")) for end in ("low", "high")}
    places = np.sort(np.concatenate([values, *ends.values()]))
    allowed = {side: np.sort(np.concatenate([values, ends[end]])) for side, end in BOUNDS.items()} | {"": values}
    for trace in (section.plot or {})["data"]:
        if "markers" not in trace.get("mode", "") or not trace.get("hovertemplate"):
            continue
        x, y = (np.array(trace.get(axis) or [], float) for axis in "xy")
        sides = np.array([_side(symbol) for symbol in _each(trace.get("marker", {}).get("symbol", "circle"), x.size)])
        wrong = np.zeros(x.size, bool)
        for side in set(sides) - {"off"}:
            here = sides == side
            wrong[here] = (_distance(allowed[side], y[here]) > 1e-9) | (_distance(places, x[here]) > _SHIFT)
        if wrong.any():
            i, name = int(np.argmax(wrong)), plain_text(str(trace.get("name") or "a mark"))
            yield Finding(
                "error", "numbers", where, f"{name}: a mark at ({x[i]:.6g}, {y[i]:.6g}) is not among its numbers"
            )
            return


def _side(symbol: str) -> str:
    """Where an open triangle points; "off" for runs that lie beyond the panel and are drawn on its edge."""
    if symbol in ("x-thin-open", "arrow-up"):
        return "off"
    return symbol.split("-")[1] if symbol.startswith("triangle-") and symbol.endswith("-open") else ""


def _numbers(data: pd.DataFrame, use: Callable[[str], bool]) -> np.ndarray:
    """All finite numbers of some columns, ascending."""
    columns = [column for column in data.select_dtypes("number") if use(str(column))]
    found = data[columns].to_numpy(float).ravel()
    return np.sort(found[np.isfinite(found)])


def _each(value: Any, n: int) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)] * n


def _distance(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far each number is from the nearest of `values` (ascending), in octaves; 0 where it is one of them."""
    if not values.size:
        return np.full(wanted.size, np.inf)
    after = np.searchsorted(values, wanted).clip(1, max(values.size - 1, 1))
    near = np.stack([values[after - 1], values[after.clip(max=values.size - 1)]])
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.abs(np.log2(near / wanted))
    return np.where(np.isclose(near, wanted, rtol=1e-9, atol=1e-12), 0.0, np.nan_to_num(octaves, nan=np.inf)).min(
        axis=0
    )


def _runs(evidence: Evidence) -> Iterator[Finding]:
    """The losses behind the U-curves are the run table's, all of them and no others."""
    data = evidence.data.get("loss-against-lr")
    if data is None or is_steps(evidence):
        return
    where, key = "data/loss-against-lr.csv", [*KEY, "lr", "seed"]
    drawn = data[data["kind"] == "run"]
    table = evidence.table if "seed" in evidence.table else evidence.table.assign(seed=0)
    if "status" in table and len(unended := drawn[~drawn["status"].isin(ANALYSED)]):
        yield Finding("error", "finished", where, f"{len(unended)} runs are drawn that have not ended")
    try:
        runs = check_table(table).table
    except ConfigError:
        return  # said with the laws
    both = runs[[*key, "loss"]].merge(
        drawn[[*key, "loss"]], on=key, how="outer", suffixes=("", "_drawn"), indicator=True
    )
    for side, rule, text in (("left_only", "complete", "rows are not drawn"), ("right_only", "numbers", "are no rows")):
        if count := int((both["_merge"] == side).sum()):
            yield Finding("error", rule, where, f"{count} {text} of the run table")
    same = np.isclose(both["loss"], both["loss_drawn"], rtol=1e-9, equal_nan=True) | (both["_merge"] != "both")
    if (~same).any():
        row = both[~same].iloc[0]
        place = ", ".join(f"{name} {row[name]:g}" for name in key)
        text = f"loss {row['loss_drawn']:.6g} at {place}; the run table has {row['loss']:.6g}"
        yield Finding("error", "numbers", where, text)


def _estimates(evidence: Evidence) -> Iterator[Finding]:
    """Optima and batches behind the figures are the analysis'."""
    said = evidence.said
    cells = {tuple(cell[name] for name in KEY): cell["lr"] for cell in said["cells"]}
    crits = {(c["definition"], c["tokens"]): [] for c in said["critical_batch"]}
    for crit in said["critical_batch"]:
        crits[crit["definition"], crit["tokens"]].append(crit["batch"])
    best = {(b["width"], b["tokens"]): b["batch"] for b in said["best_batch"]}
    for row in _rows(evidence, "lr-against-tokens"):
        yield from _same(
            row, "lr", [cells.get((row["width"], row["tokens"], row["batch_tokens"]))], "lr-against-tokens"
        )
    for row in _rows(evidence, "lr-against-batch", "cell"):
        yield from _same(row, "lr", [cells.get((row["width"], row["tokens"], row["batch_tokens"]))], "lr-against-batch")
    for row in _rows(evidence, "critical-batch", "batch_crit"):
        if (row["series"], row["tokens"]) not in crits:
            text = f"{row['series']} at T={row['tokens']:g} is no definition and budget of the analysis"
            yield Finding("error", "definitions", "data/critical-batch.csv", text)
        else:
            yield from _same(row, "batch", crits[row["series"], row["tokens"]], "critical-batch")
    for row in _rows(evidence, "critical-batch", "batch_best"):
        width = None if np.isnan(row["width"]) else row["width"]
        yield from _same(row, "batch", [best.get((width, row["tokens"]))], "critical-batch")


def _rows(evidence: Evidence, figure: str, kind: str | None = None) -> Iterator[Any]:
    data = evidence.data.get(figure)
    if data is not None:
        for _, row in (data if kind is None else data[data["kind"] == kind]).iterrows():
            yield row


def _same(row: Any, name: str, true: list[dict[str, Any] | None], figure: str) -> Iterator[Finding]:
    where = f"data/{figure}.csv"
    place = ", ".join(f"{column} {row[column]:g}" for column in KEY if column in row and not pd.isna(row[column]))
    known = [estimate for estimate in true if estimate is not None]
    if not known:
        yield Finding("error", "numbers", where, f"{place}: the run table gives no such estimate")
        return
    status = row[f"{name}_status"]
    if status == "ok" and all(estimate["status"] != "ok" for estimate in known):
        yield Finding("error", "edge", where, f"{place}: {name} is given as a value; it is {known[0]['status']}")
        return
    ends = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
    for estimate in known:
        wanted = [np.nan if estimate[end] is None else estimate[end] for end in ("value", "low", "high")]
        if status == estimate["status"] and np.allclose(ends, wanted, rtol=1e-6, equal_nan=True):
            return
    yield Finding(
        "error", "numbers", where, f"{place}: {name} {ends[0]:.6g} [{ends[1]:.6g}, {ends[2]:.6g}] is not the analysis'"
    )
