"""The plain-words summary: what to use at each T, what B_crit is, how it grows, and what the grid cannot tell.

A bound is always said to be a bound; nothing is rounded into a value that the analysis did not give.
"""

from collections import defaultdict
from html import escape

from analysis.definitions import DEFINITIONS, definition_name, form_name, quantity_name
from analysis.notation import Writer, compact, estimate_text, grid_count, nats, plain
from analysis.report.html import bullets, html_table, prose
from analysis.results import Analysis, BestBatch, Estimate, Growth, LrLawVerdict


def summary(analysis: Analysis) -> str:
    """The section on top of the page, as HTML."""
    return "\n".join(
        (
            '<section id="summary"><h2>In plain words</h2>',
            "<p>The learning rate lr is the peak rate at base width, B is in tokens per step, T is the number of "
            "training tokens. Brackets are 95 % intervals; ≥ and ≤ are bounds: the grid does not contain the value "
            "itself.</p>",
            bullets(_recommendations(analysis), "plain"),
            _critical_batch(analysis),
            "<h3>How they grow with T</h3>",
            bullets(growth_sentence(growth) for growth in analysis.growth)
            if analysis.growth
            else "<p>No growth law was fitted.</p>",
            "<h3>Which form η*(B) has</h3>",
            bullets(_verdicts(analysis.lr_verdicts)) if analysis.lr_verdicts else "<p>No form was fitted.</p>",
            _warnings(analysis.warnings),
            "</section>",
        )
    )


def _recommendations(analysis: Analysis) -> list[str]:
    """One item for each T, with the pooled answer where there is one, else one sentence per width."""
    by_tokens: dict[int, list[BestBatch]] = defaultdict(list)
    for best in analysis.best_batch:
        by_tokens[best.tokens].append(best)
    items = []
    for tokens in sorted({cell.tokens for cell in analysis.cells} | set(by_tokens)):
        bests = by_tokens[tokens]
        pooled = [best for best in bests if best.width is None]
        open_points = _not_identified(analysis, tokens, pooled or bests)
        rest = f"not identified: {'; '.join(open_points)}" if open_points else "nothing is left open"
        items.append(
            f"<strong>At T = {grid_count(tokens)}</strong> ({compact(tokens)} tokens), {_advice(pooled or bests)} "
            f'<span class="{"open" if open_points else "quiet"}">{rest[0].upper()}{rest[1:]}.</span>'
        )
    return items


def _advice(bests: list[BestBatch]) -> str:
    """`use lr = ..., B = ...`: one sentence for one answer, a list where every width has its own."""
    if not bests:
        return "no learning rate and batch can be advised: the best batch is not identified."
    if len(bests) == 1:
        return f"use {_use(bests[0])}."
    return "use" + bullets(_use(best) for best in bests)


def _use(best: BestBatch) -> str:
    width = "" if best.width is None else f"at N = {best.width}: "
    loss = f", which gives a loss of {estimate_text(best.loss, nats)} nats" if best.loss.status == "ok" else ""
    return f"{width}{_quantity('lr', best.lr, plain)}, {_quantity('B', best.batch, compact)}{loss}"


def _quantity(symbol: str, estimate: Estimate, write: Writer) -> str:
    text = estimate_text(estimate, write)
    match estimate.status:
        case "ok":
            value, interval = text.split(" ", 1)
            return f'<strong class="num">{symbol} = {value}</strong> <span class="num">{interval}</span>'
        case "lower_bound" | "upper_bound":
            return f'<strong class="num">{symbol} {text}</strong> (a bound)'
        case _:
            return f"{symbol} not identified"


def _not_identified(analysis: Analysis, tokens: int, bests: list[BestBatch]) -> list[str]:
    """Everything at this T that is a bound or unknown, each said as what it is."""
    named: list[tuple[str, Estimate, Writer]] = []
    for best in bests:
        where = "" if best.width is None else f" at N = {best.width}"
        named += [(f"B*{where}", best.batch, compact), (f"lr{where}", best.lr, plain)]
    named += [
        (definition_name(crit.definition), crit.batch, compact)
        for crit in analysis.critical_batch
        if crit.tokens == tokens
    ]
    return [_open_point(*entry) for entry in named if entry[1].status != "ok"]


def _open_point(name: str, estimate: Estimate, write: Writer) -> str:
    kind = {"lower_bound": "only a lower bound", "upper_bound": "only an upper bound"}.get(estimate.status)
    return f'{name} (<span class="num">{estimate_text(estimate, write)}</span>, {kind})' if kind else name


def _critical_batch(analysis: Analysis) -> str:
    """B_crit(T): one row per T, one column per definition, and the definitions in words."""
    definitions = list(dict.fromkeys(crit.definition for crit in analysis.critical_batch))
    if not definitions:
        return "<h3>Critical batch B<sub>crit</sub>(T)</h3><p>Not identified at any T.</p>"
    found = {(crit.tokens, crit.definition): crit.batch for crit in analysis.critical_batch}
    rows = [
        [f"{grid_count(tokens)} ({compact(tokens)})"]
        + [estimate_text(found[tokens, name], compact) if (tokens, name) in found else "" for name in definitions]
        for tokens in sorted({crit.tokens for crit in analysis.critical_batch})
    ]
    meanings = bullets(
        f"<strong>{definition_name(name)}</strong>: {DEFINITIONS[name][1]}."
        for name in definitions
        if name in DEFINITIONS
    )
    return (
        "<h3>Critical batch B<sub>crit</sub>(T), in tokens</h3>"
        "<p>Several different quantities carry this name, so each column names its definition; they need not agree.</p>"
        + html_table(
            ["T", *(definition_name(name) for name in definitions)], rows, "Critical batch by budget and definition"
        )
        + meanings
    )


def growth_sentence(growth: Growth) -> str:
    """The growth exponent with its interval, or what can be said instead."""
    name, exponent = quantity_name(growth.quantity), growth.exponent
    points = f"from {growth.n_points} points"
    match exponent.status:
        case "ok":
            text = f"{name} ∝ T<sup>α</sup> with α = <span class='num'>{estimate_text(exponent)}</span> ({points})"
        case "lower_bound" | "upper_bound":
            text = (
                f"{name} ∝ T<sup>α</sup> with α <span class='num'>{estimate_text(exponent)}</span>, a bound ({points})"
            )
        case _:
            text = f"{name}: the growth exponent is not identified ({points})"
    width = growth.exponent_width
    return text + (f"; exponent of the width: <span class='num'>{estimate_text(width)}</span>" if width else "")


def _verdicts(verdicts: tuple[LrLawVerdict, ...]) -> list[str]:
    """The verdict over all T with its reason, then budgets with the same verdict together."""
    items = [f"Over all T: {_verdict(v)} ({prose(v.explanation)})." for v in verdicts if v.tokens is None]
    together: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.tokens is not None:
            together[_verdict(verdict)].append(grid_count(verdict.tokens))
    return items + [f"At T = {', '.join(tokens)} alone: {text}." for text, tokens in together.items()]


def _verdict(verdict: LrLawVerdict) -> str:
    if verdict.verdict == "ambiguous":
        return f"<strong>ambiguous</strong> between {', '.join(map(form_name, verdict.candidates))}"
    return f"<strong>{escape(form_name(verdict.verdict))}</strong>"


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    return "<aside><h3>What this grid cannot tell</h3>" + bullets(map(prose, warnings)) + "</aside>"
