"""The tables on the page against the analysis of the run table, row by row."""

from collections.abc import Callable, Iterator
from typing import Any

from analysis.definitions import definition_name, form_name, quantity_name
from analysis.review.document import Table, plain_text
from analysis.review.evidence import Evidence
from analysis.review.findings import Finding
from analysis.review.quoted_numbers import estimate, number, written

Record = dict[str, Any]
ALL = ("all", "")  # how a pooled width or budget is written


def check_tables(evidence: Evidence) -> Iterator[Finding]:
    """Every row is the analysis' record, and every record of it has its row."""
    found: set[str] = set()
    for section, table in evidence.document.tables():
        for kind, (holds, check) in _KINDS.items():
            if holds(table.head):
                found.add(kind)
                yield from check(table, evidence.said, f"{section.name}, table of {kind}")
    for kind in _KINDS:
        if kind not in found and evidence.said[_RECORDS[kind]]:
            yield Finding("error", "complete", "page", f"no table of {kind}, though the run table gives them")


def compare(where: str, text: str, true: Record | None, *, tuned: bool = False) -> Iterator[Finding]:
    """One estimate as text against the analysis'; `tuned`: a bound is an optimum at the edge of a grid."""
    said = None if text in ("", "†") else estimate(text)
    if true is None or said is None:
        if true is None and text in ("", "†"):
            return
        wanted = "nothing" if true is None else written(true)
        yield Finding("error", "numbers", where, f"says {text or 'nothing'}; the run table gives {wanted}")
    elif said.status == "ok" and true["status"] != "ok":
        text = f"says {text}, a value; it is only {_as_bound(true)}"
        yield Finding("error", "edge" if tuned else "intervals", where, text)
    elif said.lacks_interval and true["low"] is not None:
        yield Finding("error", "intervals", where, f"{text} has no interval; it is {written(true)}")
    elif not said.agrees(true):
        yield Finding("error", "numbers", where, f"says {text}; the run table gives {written(true)}")


def matching(records: list[Record], **keys: str) -> list[Record]:
    """The records whose keys are written so: several where rounding hides a difference."""
    return [record for record in records if all(_is_key(record[name], text) for name, text in keys.items())]


def _is_key(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return value == text
    if value is None or text in ALL:
        return value is None and text in ALL
    quoted = number(text.partition(" (")[0])
    return quoted is not None and quoted.stands_for(value)


def _as_bound(true: Record) -> str:
    return {"lower_bound": "bounded from below", "upper_bound": "bounded from above"}.get(
        true["status"], "not identified"
    ) + (f" ({written(true)})" if true["status"] != "not_identified" else "")


def _rows(
    table: Table,
    records: list[Record],
    where: str,
    keys: dict[str, str],
    check: Callable[[dict[str, str], Record, str], Iterator[Finding]],
    place: Callable[[Record], str],
) -> Iterator[Finding]:
    """Pair rows with records by `keys` (name of the record's field -> column) and check each pair."""
    seen: set[int] = set()
    for row in table.records():
        here = f"{where}, " + ", ".join(f"{column} {row.get(column, '')}" for column in keys.values())
        fitting = matching(records, **{name: row.get(column, "") for name, column in keys.items()})
        if not fitting:
            yield Finding("error", "numbers", here, "the run table has no such record")
            continue
        checked = [(record, list(check(row, record, here))) for record in fitting]
        record, findings = min(checked, key=lambda pair: (len(pair[1]), id(pair[0]) in seen))
        seen.add(id(record))
        yield from findings
    for record in records:
        if id(record) not in seen:
            yield Finding("error", "complete", where, f"left out: {place(record)}")


def _cells(table: Table, said: Record, where: str) -> Iterator[Finding]:
    def check(row: dict[str, str], cell: Record, here: str) -> Iterator[Finding]:
        state = row["state"].replace(", ", "_").replace(" ", "_")
        if state != cell["state"]:
            rule = "edge" if state == "interior" else "numbers"
            yield Finding("error", rule, here, f"says {row['state']}; the cell is {cell['state'].replace('_', ' ')}")
        yield from compare(f"{here}, η*", row["η*"], cell["lr"], tuned=True)
        yield from compare(f"{here}, loss", row["loss at η*, nats"], cell["loss"], tuned=True)
        yield from compare(f"{here}, S_c", row["S_c, nats/octave²"], cell["curvature"], tuned=True)
        yield from _plain(here, row, cell, {"lowest tried": "argmin_lr", "by window, octaves": "window_octaves"})
        yield from _plain(here, row, cell, {"learning rates": "n_lrs", "diverged": "n_diverged"})
        yield from _plain(here, row, cell, {"seeds": "n_seeds"}, rule="seeds")

    keys = {"width": "N", "tokens": "T", "batch_tokens": "B"}
    yield from _rows(table, said["cells"], where, keys, check, lambda c: _key(c, "width", "tokens", "batch_tokens"))


def _best(table: Table, said: Record, where: str) -> Iterator[Finding]:
    def check(row: dict[str, str], best: Record, here: str) -> Iterator[Finding]:
        yield from compare(f"{here}, B*", row["B*, tokens"], best["batch"], tuned=True)
        yield from compare(f"{here}, η* at B*", row["η* at B*"], best["lr"], tuned=True)
        yield from compare(f"{here}, loss", row["loss, nats"], best["loss"], tuned=True)
        ends = [number(end) for end in row["bracket of the grid"].split(" to ")]
        if not all(end and end.stands_for(true) for end, true in zip(ends, best["bracket"], strict=False)):
            text = f"says the bracket {row['bracket of the grid']}; it is {best['bracket']}"
            yield Finding("error", "numbers", here, text)

    keys = {"width": "N", "tokens": "T"}
    yield from _rows(table, said["best_batch"], where, keys, check, lambda b: _key(b, "width", "tokens"))


def _critical(table: Table, said: Record, where: str) -> Iterator[Finding]:
    """Rows are budgets (or models), columns definitions."""
    names = {plain_text(definition_name(c["definition"])): c["definition"] for c in said["critical_batch"]}
    for column in table.head[1:]:
        if column not in names:
            text = f"the column {column!r} names no definition of B_crit"
            yield Finding("error", "definitions", where, text)
    if missing := [name for name in names if name not in table.head]:
        yield Finding("error", "complete", where, f"left out: {', '.join(missing)}")
    shown: set[int] = set()
    for row in table.records():
        if row[table.head[0]] == "factor":
            continue
        tokens, _, rest = row[table.head[0]].partition(" (")
        here = [
            c for c in matching(said["critical_batch"], tokens=tokens) if c["model"] in ("", rest.removesuffix(")"))
        ]
        if not here:
            yield Finding("error", "numbers", f"{where}, T = {tokens}", "the run table has no such budget")
        for name, definition in names.items():
            crits = [c for c in here if c["definition"] == definition]
            if name in row and (crits or row[name]):
                tries = [list(compare(f"{where}, T = {tokens}, {name}", row[name], c["batch"])) for c in crits]
                tries = tries or [list(compare(f"{where}, T = {tokens}, {name}", row[name], None))]
                yield from min(tries, key=len)
                shown |= {id(c) for c in crits}
    for crit in said["critical_batch"]:
        name = plain_text(definition_name(crit["definition"]))
        if id(crit) not in shown and name in table.head:
            yield Finding("error", "complete", where, f"left out: {name} at T={crit['model'] or crit['tokens']}")


_EXPONENTS = {
    "exponent (of T unless said)": "exponent",
    "by resampling": "bootstrap",
    "by choice of window and form": "choices",
    "bend": "bend",
    "a level per N": "exponent_within",
    "exponent of N": "exponent_width",
    "log_2 of the quantity at the reference": "coefficient",
}


def _growth(table: Table, said: Record, where: str) -> Iterator[Finding]:
    def check(row: dict[str, str], law: Record, here: str) -> Iterator[Finding]:
        for column, name in _EXPONENTS.items():
            yield from compare(f"{here}, {column}", row[column], law[name])
        yield from _plain(here, row, law, {"reference": "reference_tokens", "points": "n_points"})

    laws = [law | {"name": growth_name(law)} for law in said["growth"]]
    yield from _named(table, laws, where, "quantity", check)


def growth_name(law: Record) -> str:
    """How the page calls what a growth law is about."""
    return plain_text(quantity_name(law["quantity"])) + ("" if law["variable"] == "tokens" else ", against parameters")


def _sensitivity(table: Table, said: Record, where: str) -> Iterator[Finding]:
    def check(row: dict[str, str], law: Record, here: str) -> Iterator[Finding]:
        for column, name in {"T": "exponent_tokens", "B": "exponent_batch", "N": "exponent_width"}.items():
            yield from compare(f"{here}, exponent of {column}", row[f"exponent of {column}"], law[name])
        yield from _plain(here, row, law, {"points": "n_points"})

    def name(law: Record) -> str:
        measure = law["measure"]
        return plain_text(quantity_name(measure if measure == "curvature" else f"sensitivity:{measure}"))

    laws = [law | {"name": name(law)} for law in said["sensitivity_laws"]]
    yield from _named(table, laws, where, "measure", check)


def _forms(table: Table, said: Record, where: str) -> Iterator[Finding]:
    def check(row: dict[str, str], law: Record, here: str) -> Iterator[Finding]:
        names = sorted(law["parameters"], key=len, reverse=True)  # batch crit tokens exponent before batch crit
        columns = {"weight": "weight", "AICc": "aicc", "rms, octaves": "rms_octaves", "χ²": "chi2"}
        yield from _plain(here, row, law, columns)
        for part in filter(None, row["parameters [95 %]"].split("; ")):
            name = next((n for n in names if part.startswith(n.replace("_", " ") + " ")), None)
            if name is None:
                yield Finding("error", "numbers", here, f"{part}: no such parameter of {row['form']}")
            else:
                text = part.removeprefix(name.replace("_", " ")).strip()
                yield from compare(f"{here}, {name}", text, law["parameters"][name])

    laws = [law | {"name": form_name(law["form"])} for law in said["lr_laws"]]
    keys = {"tokens": "T", "name": "form"}
    yield from _rows(table, laws, where, keys, check, lambda law: f"{law['name']} at {_key(law, 'tokens')}")


def _named(
    table: Table,
    laws: list[Record],
    where: str,
    column: str,
    check: Callable[[dict[str, str], Record, str], Iterator[Finding]],
) -> Iterator[Finding]:
    by_name = {law["name"]: law for law in laws}
    rows = {row[column]: row for row in table.records()}
    for name, row in rows.items():
        if name in by_name:
            yield from check(row, by_name[name], f"{where}, {name}")
        else:
            yield Finding("error", "numbers", f"{where}, {name}", "the run table gives no such law")
    for name in by_name.keys() - rows.keys():
        yield Finding("error", "complete", where, f"left out: {name}")


def _plain(
    where: str, row: dict[str, str], record: Record, columns: dict[str, str], rule: str = "numbers"
) -> Iterator[Finding]:
    """Bare numbers of a row; an empty cell is None."""
    for column, name in columns.items():
        quoted, true = number(row[column]), record[name]
        if (quoted is None) != (true is None) or (quoted is not None and not quoted.stands_for(true)):
            text = f"{column} is {row[column] or 'empty'}; the run table gives {true}"
            yield Finding("error", rule, where, text)


def _key(record: Record, *names: str) -> str:
    short = {"width": "N", "tokens": "T", "batch_tokens": "B"}
    return ", ".join(f"{short[name]}={'all' if record[name] is None else record[name]}" for name in names)


_Check = Callable[[Table, Record, str], Iterator[Finding]]
_KINDS: dict[str, tuple[Callable[[list[str]], bool], _Check]] = {
    "critical batches": (lambda head: head[:1] == ["T"] and "form" not in head, _critical),
    "best batches": (lambda head: "B*, tokens" in head, _best),
    "cells": (lambda head: "lowest tried" in head, _cells),
    "growth laws": (lambda head: "by resampling" in head, _growth),
    "sensitivity laws": (lambda head: head[:1] == ["measure"] and "exponent of T" in head, _sensitivity),
    "forms": (lambda head: "AICc" in head, _forms),
}
_RECORDS = {
    "critical batches": "critical_batch",
    "best batches": "best_batch",
    "cells": "cells",
    "growth laws": "growth",
    "sensitivity laws": "sensitivity_laws",
    "forms": "lr_laws",
}
