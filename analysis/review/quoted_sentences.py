"""The sentences of the page's summary against the analysis of the run table."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from analysis.definitions import form_name
from analysis.review.evidence import Evidence
from analysis.review.findings import Finding
from analysis.review.quoted_numbers import ESTIMATE, NUMBER, estimate, number, written
from analysis.review.quoted_tables import Record, compare, growth_name, matching

_TRIPLE = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
HEADLINE = "time_transfer_surge"
_HEADLINES = ("batch_crit:time_transfer_surge", "lr_crit", "batch_best", "lr_best")
_WIDTH = re.compile(r"^at N = (\d+): ")
_BUDGET = re.compile(rf"^At T = ({NUMBER}) \(")


def check_sentences(evidence: Evidence) -> Iterator[Finding]:
    """Every sentence with a number says what the analysis says, and what must be said is there."""
    section = evidence.document.sections.get("summary")
    blocks = [text for kind, text in section.blocks if kind in ("li", "p")] if section else []
    yield from _advice(blocks, evidence.said)
    known = set()
    for pattern, check in _PATTERNS:
        for text in blocks:
            if found := pattern.match(text):
                known.add(text)
                yield from check(found, evidence.said)
    advised = {text for text in blocks if _BUDGET.match(text) or _WIDTH.match(text)}
    yield from _warnings(blocks, evidence.said)
    yield from _unknown([text for text in blocks if text not in known | advised], evidence.said)
    yield from _left_out(known, evidence.said)


def _advice(blocks: list[str], said: Record) -> Iterator[Finding]:
    """`At T = .., use lr = .., B = ..`: for all widths, or an item a width below it."""
    tokens, advised = "", set()
    for text in blocks:
        if budget := _BUDGET.match(text):
            tokens = budget[1]
        width = _WIDTH.match(text)
        yield from _open_points(text, tokens, said)
        if not tokens or not (budget or width) or " = " not in text.partition("use")[2] + text.partition(": ")[2]:
            continue
        bests = matching(said["best_batch"], tokens=tokens)
        cells = matching(said["cells"], tokens=tokens)
        if not cells:
            yield Finding("error", "numbers", f"summary, T = {tokens}", "the run table has no such budget")
            continue
        if "at every width" in text:
            of = [b for b in bests if b["width"] is None]
        else:
            n = int(width[1]) if width else cells[0]["width"]
            of, cells = ([r for r in records if r["width"] == n] for records in (bests, cells))
        if of or cells:
            advised |= {(c["tokens"], c["width"]) for c in cells}
            where = f"summary, T = {tokens}" + (f", N = {width[1]}" if width else "")
            yield from _use(text, of, cells, where)
    for place in sorted({(c["tokens"], c["width"]) for c in said["cells"]} - advised):
        yield Finding("error", "complete", "summary", f"no advice at T={place[0]}, N={place[1]}")


def _open_points(text: str, tokens: str, said: Record) -> Iterator[Finding]:
    """`Not identified: ...` at the end of an advice names B_crit where it is a bound or unknown."""
    _, said_so, points = text.partition("Not identified: ")
    crits = [c["batch"] for c in said["critical_batch"] if c["definition"] == HEADLINE]
    here = matching([c for c in said["critical_batch"] if c["definition"] == HEADLINE], tokens=tokens)
    if not said_so or not crits:
        return
    where = f"summary, T = {tokens}, not identified"
    for crit in here:
        true = crit["batch"]
        found = re.search(rf"B_crit, surge form(?: \(([≥≤] {NUMBER}), only an? (?:lower|upper) bound\))?", points)
        if true["status"] == "ok" and found:
            yield Finding("error", "numbers", where, f"names B_crit, which is {written(true)}")
        elif true["status"] != "ok" and not found:
            yield Finding("error", "intervals", where, f"does not name B_crit (surge form), which is {written(true)}")
        elif found and found[1]:
            yield from compare(where, found[1], true)


def _use(text: str, of: list[Record], cells: list[Record], where: str) -> Iterator[Finding]:
    """`lr = .., B = ..` at the best batch, or `lr .. with B = ..`, the lowest loss that was tried."""
    rate = re.search(rf"\blr (?:= )?\(?({ESTIMATE}|not identified)", text)
    batch = re.search(rf"(?:, |with )B (?:= )?({ESTIMATE})", text)
    if rate is None or batch is None:
        yield Finding("error", "numbers", where, f"unreadable advice: {text[:80]}")
        return
    if "lowest loss that was tried" in text:
        tried = matching(cells, batch_tokens=batch[1])
        if not tried:
            yield Finding("error", "numbers", where, f"no runs at B = {batch[1]}")
            return
        yield from compare(f"{where}, lr", rate[1], tried[0]["lr"], tuned=True)
        if bound := re.search(rf"B\* ([≥≤] {NUMBER}|= {ESTIMATE})", text):
            true = of[0]["batch"] if of else None
            yield from compare(f"{where}, B*", bound[1].removeprefix("= "), true, tuned=True)
        lowest = min(cells, key=lambda c: c["argmin_loss"] if c["loss"]["value"] is None else c["loss"]["value"])
        if lowest is not tried[0]:
            text = f"B = {batch[1]} is not that of the lowest loss, B={lowest['batch_tokens']}"
            yield Finding("error", "numbers", where, text)
        return
    if not of:
        yield Finding("error", "edge", where, f"advises B = {batch[1]}; the run table gives no best batch")
        return
    yield from compare(f"{where}, lr", rate[1], of[0]["lr"], tuned=True)
    yield from compare(f"{where}, B", batch[1], of[0]["batch"], tuned=True)
    if loss := re.search(rf"loss ({ESTIMATE}) nats", text):
        yield from compare(f"{where}, loss", loss[1], of[0]["loss"], tuned=True)


def _growth(found: re.Match[str], said: Record) -> Iterator[Finding]:
    where = f"summary, growth of {found['name']}"
    laws = [
        law for law in said["growth"] if growth_name(law) in (found["name"], f"{found['name']}, against parameters")
    ]
    if not laws:
        yield Finding("error", "numbers", where, "the run table gives no such law")
        return
    wants = "n_params" if "parameters" in found[0].partition("with α")[0] else "tokens"
    law = next((law for law in laws if law["variable"] == wants), laws[0])
    yield from compare(f"{where}, α", found["alpha"] or "not identified", law["exponent"])
    yield from _count(found, law, where)
    if found["width"]:
        yield from compare(f"{where}, exponent of N", found["width"], law["exponent_width"])


def _rule(found: re.Match[str], said: Record) -> Iterator[Finding]:
    where = f"summary, slope {found['side']} B*"
    rules = [r for r in said["scaling_rules"] if r["side"] == found["side"]]
    rule = next((r for r in rules if r["tokens"] is None), rules[0] if rules else None)
    if rule is None:
        yield Finding("error", "numbers", where, "the run table gives no such slope")
        return
    yield from compare(where, found["slope"], rule["slope"])
    yield from _count(found, rule, where)
    verdicts = {"sqrt": "consistent with the square-root", "linear": "consistent with the linear"}
    wanted = verdicts.get(rule["verdict"]) or rule["verdict"].replace("cannot tell", "the grid cannot tell")
    if wanted not in found.string:
        yield Finding("error", "numbers", where, f"says {found['verdict']}; the verdict is {rule['verdict']}")


def _collapse(found: re.Match[str], said: Record) -> Iterator[Finding]:
    where = f"summary, does N matter for {found['name']}"
    names = {"η* at the same T and B": "lr", "sensitivity S_c at the same T and B": "curvature"}
    tests = [
        test
        for test in said["collapse"]
        if test["quantity"] == names.get(found["name"]) or growth_name(test | {"variable": "tokens"}) == found["name"]
    ]
    if not tests:
        yield Finding("error", "numbers", where, "the run table gives no such test")
        return
    p = number(found["p"])
    if p is None or not p.stands_for(tests[0]["p_value"]):
        yield Finding("error", "numbers", where, f"says p = {found['p']}; it is {tests[0]['p_value']:.4g}")
    if ("the widths differ" in found[0]) != (tests[0]["p_value"] < 0.05):
        yield Finding("error", "numbers", where, f"its words contradict p = {tests[0]['p_value']:.4g}")
    yield from compare(f"{where}, exponent", found["exponent"], tests[0]["exponent_width"])


def _verdict(found: re.Match[str], said: Record) -> Iterator[Finding]:
    all_budgets = found["tokens"] is None
    where = "summary, form of η*(B) " + ("over all T" if all_budgets else f"at T = {found['tokens']}")
    asked = [None] if all_budgets else found["tokens"].split(", ")
    for tokens in asked:
        verdicts = [v for v in said["lr_verdicts"] if v["tokens"] is None] if tokens is None else [
            v for v in matching([v for v in said["lr_verdicts"] if v["tokens"]], tokens=tokens)
        ]  # fmt: skip
        if not verdicts:
            yield Finding("error", "numbers", where, "the run table gives no verdict there")
            continue
        true = verdicts[0]["verdict"]
        wanted = f"ambiguous between {', '.join(map(form_name, verdicts[0]['candidates']))}"
        wanted = wanted if true == "ambiguous" else form_name(true)
        if not re.match(re.escape(wanted) + r"(\.| \(|$)", found["said"]):
            yield Finding("error", "numbers", where, f"says {found['said'][:60]}; the verdict is {wanted}")


def _count(found: re.Match[str], record: Record, where: str) -> Iterator[Finding]:
    if int(found["n"]) != record["n_points"]:
        yield Finding("error", "numbers", where, f"says from {found['n']} points; they are {record['n_points']}")


_PATTERNS: list[tuple[re.Pattern[str], Callable[[re.Match[str], Record], Iterator[Finding]]]] = [
    (
        re.compile(
            rf"^(?P<name>.+?)(?: ∝ (?:T|\(parameters\))\^α with α (?:= )?(?P<alpha>{ESTIMATE})(?:, a bound)?"
            rf"|: the growth exponent is not identified) \(from (?P<n>\d+) points\)"
            rf"(?:; exponent of N: (?P<width>{ESTIMATE}))?"
        ),
        _growth,
    ),
    (
        re.compile(
            rf"^For B (?P<side>below|above) B\*, η\* ∝ B\^s with s (?:= )?(?P<slope>{ESTIMATE}) "
            r"\(from (?P<n>\d+) points\): (?P<verdict>.*)"
        ),
        _rule,
    ),
    (
        re.compile(
            rf"^(?P<name>.+?): (?:the widths differ|no difference between widths above the errors) "
            rf"\(p = (?P<p>{NUMBER})\), as N\^e with e (?:= )?(?P<exponent>{ESTIMATE})"
        ),
        _collapse,
    ),
    (re.compile(r"^(?:Over all T|At T = (?P<tokens>.+?) alone): (?P<said>.+)$"), _verdict),
]


def _left_out(known: set[str], said: Record) -> Iterator[Finding]:
    """Growth laws, slopes and verdicts that the summary must give."""
    for law in said["growth"]:
        if law["quantity"] in _HEADLINES and not any(
            re.match(re.escape(growth_name(law)) + "( ∝|:)", t) for t in known
        ):
            yield Finding("error", "complete", "summary", f"left out: the growth of {growth_name(law)}")
    if any(v["tokens"] is None for v in said["lr_verdicts"]) and not any(t.startswith("Over all T") for t in known):
        yield Finding("error", "complete", "summary", "left out: which form η*(B) has over all T")
    for side in sorted({rule["side"] for rule in said["scaling_rules"]}):
        if not any(t.startswith(f"For B {side}") for t in known):
            yield Finding("error", "complete", "summary", f"left out: the slope of η*(B) {side} B*")


def _warnings(blocks: list[str], said: Record) -> Iterator[Finding]:
    """What the grid cannot tell stands on the page, with its numbers."""
    pieces = [_pieces(text) for text in blocks]
    for warning in said["warnings"]:
        words, numbers = _pieces(warning)
        same = [there for there_words, there in pieces if there_words == words and len(there) == len(numbers)]
        if not same:
            yield Finding("error", "complete", "summary", f"a caveat is left out: {warning}")
        elif not any(_all_stand_for(there, numbers) for there in same):
            yield Finding("error", "numbers", "summary, caveats", f"its numbers are not those of: {warning}")


def _pieces(text: str) -> tuple[str, list[str]]:
    """The words of a sentence without spaces or markup, and its numbers."""
    words = re.sub(rf"(?<![\w.]){NUMBER}", "#", text)
    return re.sub(r"[\s^_]+", "", words), re.findall(rf"(?<![\w.]){NUMBER}", text)


def _all_stand_for(said: list[str], true: list[str]) -> bool:
    pairs = [(number(a), number(b)) for a, b in zip(said, true, strict=True)]
    return all(a is not None and b is not None and a.stands_for(b.value) for a, b in pairs)


def _unknown(blocks: list[str], said: Record) -> Iterator[Finding]:
    """Estimates in sentences that this review does not know: they must be some estimate of the analysis."""
    every = list(_estimates(said))
    for text in blocks:
        for quoted in _TRIPLE.findall(text):
            parsed = estimate(quoted)
            if parsed is not None and not any(parsed.agrees(true) for true in every):
                yield Finding("error", "numbers", f"summary: {text[:60]}", f"{quoted} is no estimate of the run table")
        if naked := re.search(rf"(?:B_crit|B\*|η\*|\blr\b|α) = {NUMBER}(?! \[)", text):
            yield Finding("error", "intervals", f"summary: {text[:60]}", f"{naked[0]} stands without an interval")


def _estimates(value: Any) -> Iterator[Record]:
    match value:
        case {"value": _, "low": _, "high": _, "status": _}:
            yield value
        case dict():
            for item in value.values():
                yield from _estimates(item)
        case list():
            for item in value:
                yield from _estimates(item)
