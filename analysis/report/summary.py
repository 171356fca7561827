"""The plain-words summary: what to use at each T, what B_crit is, how it grows, and what the grid cannot tell.

A bound is always said to be a bound; nothing is rounded into a value that the analysis did not give.
"""

from collections import defaultdict
from html import escape
from math import exp, log
from statistics import fmean

from analysis.definitions import DEFINITIONS, definition_name, definitions_of, form_name, quantity_name
from analysis.notation import compact, estimate_text, grid_count, hundredths, plain
from analysis.report.advice import advice
from analysis.report.html import bullets, html_table, prose
from analysis.results import Analysis, Collapse, CriticalBatch, Growth, LrLawVerdict, ScalingRule

SIGNIFICANT = 0.05
_MARK = "†"
_FIRST = 10  # warnings that are shown before one asks for more
HEADLINES = ("batch_crit:time_transfer_surge", "lr_crit", "batch_best", "lr_best")


def summary(analysis: Analysis) -> str:
    """The section on top of the page, as HTML."""
    if not analysis.cells:  # steps to targets: no learning rate was tuned
        return "\n".join(
            (
                '<section id="summary"><h2>In plain words</h2>',
                "<p>B is in tokens per step, T is the tokens in which the cheapest batch reaches the target loss. "
                "Brackets are 95 % intervals from the scatter about the laws; ≥ and ≤ are bounds.</p>",
                _critical_batch(analysis),
                "<h3>How they grow</h3>",
                _growth(analysis.growth),
                _warnings(analysis.warnings),
                "</section>",
            )
        )
    return "\n".join(
        (
            '<section id="summary"><h2>In plain words</h2>',
            "<p>The learning rate lr is the peak rate at base width, B is in tokens per step, T is the number of "
            "training tokens. Brackets are 95 % intervals; ≥ and ≤ are bounds: the grid does not contain the value "
            "itself.</p>",
            bullets(advice(analysis), "plain"),
            _critical_batch(analysis),
            "<h3>How they grow with T</h3>",
            _growth(analysis.growth),
            _collapse(analysis.collapse),
            "<h3>Which form η*(B) has</h3>",
            bullets(_verdicts(analysis.lr_verdicts)) if analysis.lr_verdicts else "<p>No form was fitted.</p>",
            _rules(analysis.scaling_rules),
            _warnings(analysis.warnings),
            "</section>",
        )
    )


def _critical_batch(analysis: Analysis) -> str:
    """B_crit(T): one row per T, one column per definition, and the definitions in words."""
    definitions = definitions_of(analysis)
    if not definitions:
        return "<h3>Critical batch B<sub>crit</sub>(T)</h3><p>Not identified at any T.</p>"
    found = {(crit.tokens, crit.model, crit.definition): crit for crit in analysis.critical_batch}
    rows = [
        [f"{grid_count(tokens)} ({escape(model) or compact(tokens)})"]
        + [_noted(found[tokens, model, name]) if (tokens, model, name) in found else "" for name in definitions]
        for tokens, model in sorted({(crit.tokens, crit.model) for crit in analysis.critical_batch})
    ]
    noted = any(crit.note for crit in analysis.critical_batch)
    factors = [[c.factor for c in analysis.critical_batch if c.definition == name and c.factor] for name in definitions]
    means = [f"× {plain(exp(fmean(map(log, of))))}" if of else "" for of in factors]
    meanings = bullets(
        f"<strong>{definition_name(name)}</strong>: {DEFINITIONS[name][1]}."
        for name in definitions
        if name in DEFINITIONS
    )
    return (
        "<h3>Critical batch B<sub>crit</sub>(T), in tokens</h3>"
        "<p>Several different quantities carry this name, so each column names its definition; they need not agree. "
        "The last row is their geometric mean factor to the hyperbola's at the same T (to the surge form's where there "
        "is no hyperbola).</p>"
        + html_table(
            ["T", *(definition_name(name) for name in definitions)],
            [*rows, ["factor", *means]],
            "Critical batch by budget and definition",
        )
        + (f"<p>{_MARK} has a caveat under <em>What this grid cannot tell</em>.</p>" if noted else "")
        + meanings
    )


def _noted(crit: CriticalBatch) -> str:
    return estimate_text(crit.batch, grid_count) + (f" {_MARK}" if crit.note else "")


def _growth(laws: tuple[Growth, ...]) -> str:
    """The laws that matter most; the others are in the tables."""
    shown = [law for law in laws if law.quantity in HEADLINES]
    shown = shown or [law for law in laws if law.quantity.startswith("batch_crit:")]
    if not shown:
        return "<p>Not identified: growth needs tuned learning rates at two budgets or more.</p>"
    return bullets(map(_growth_sentence, shown)) + '<p>All growth laws are among the <a href="#tables">tables</a>.</p>'


def _growth_sentence(growth: Growth) -> str:
    """The growth exponent with its interval, or what can be said instead."""
    name, points = quantity_name(growth.quantity), f"from {growth.n_points} points"
    variable = "T" if growth.variable == "tokens" else "(parameters)"
    alpha = f'<span class="num">{estimate_text(growth.exponent, hundredths)}</span>'
    match growth.exponent.status:
        case "ok":
            text = f"{name} ∝ {variable}<sup>α</sup> with α = {alpha} ({points})"
        case "lower_bound" | "upper_bound":
            text = f"{name} ∝ T<sup>α</sup> with α {alpha}, a bound ({points})"
        case _:
            text = f"{name}: the growth exponent is not identified ({points})"
    width = growth.exponent_width
    return f"{text}; exponent of N: {estimate_text(width, hundredths)}" if width else text


_COLLAPSED = {"lr": "η* at the same T and B", "curvature": "sensitivity S<sub>c</sub> at the same T and B"}


def _collapse(tests: tuple[Collapse, ...]) -> str:
    """Whether the widths differ beyond their errors once T is fixed, one sentence a quantity."""
    if not tests:
        return ""
    items = [
        f"{_COLLAPSED.get(test.quantity) or quantity_name(test.quantity)}: "
        + ("the widths differ" if test.p_value < SIGNIFICANT else "no difference between widths above the errors")
        + f" (p = {plain(test.p_value)}), as N<sup>e</sup> with e = "
        + f'<span class="num">{estimate_text(test.exponent_width, hundredths)}</span>.'
        for test in tests
    ]
    return "<h3>Does N matter once T is fixed?</h3>" + bullets(items)


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


_RULES = {
    "sqrt": "consistent with the square-root rule (1/2)",
    "linear": "consistent with the linear rule (1)",
    "neither": "neither the square-root rule (1/2) nor the linear rule (1)",
    "cannot tell": "the grid cannot tell which rule holds",
}


def _rules(rules: tuple[ScalingRule, ...]) -> str:
    """The square-root and the linear rule on either side of B*: over all T where there are several, else at the one."""
    several = any(rule.tokens is None for rule in rules)
    shown = [rule for rule in rules if rule.tokens is None or not several]
    items = [
        f"For B {rule.side} B*, η* ∝ B<sup>s</sup> with s = "
        f'<span class="num">{estimate_text(rule.slope, hundredths)}</span> (from {rule.n_points} points): '
        f"<strong>{_RULES[rule.verdict]}</strong>."
        for rule in shown
    ]
    return "<h3>Does η* follow √B or B?</h3>" + bullets(items) if items else ""


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    sentences = [prose(text) for text in warnings]
    rest = sentences[_FIRST:]
    more = f"<details><summary>{len(rest)} more</summary>{bullets(rest)}</details>" if rest else ""
    return f"<aside><h3>What this grid cannot tell</h3>{bullets(sentences[:_FIRST])}{more}</aside>"
