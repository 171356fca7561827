"""`At T = ..., use lr = ... [low, high], B = ... [low, high]; not identified: ...`, one item for every token budget.

A bound is always said to be a bound. Where the best batch is one, the advice is the best that was tried, and says so.
"""

from analysis.definitions import definition_name
from analysis.notation import Writer, compact, estimate_text, grid_count, nats, plain
from analysis.report.html import bullets
from analysis.results import Analysis, BestBatch, Cell, Estimate

HEADLINE = "time_transfer_surge"  # the definition of B_crit that the sentences speak of


def advice(analysis: Analysis) -> list[str]:
    """One item of ready HTML for each T, ascending."""
    return [_at_budget(analysis, tokens) for tokens in sorted({cell.tokens for cell in analysis.cells})]


def _at_budget(analysis: Analysis, tokens: int) -> str:
    """What holds for all widths together where that is identified, else what holds for each width."""
    found = {best.width: best for best in analysis.best_batch if best.tokens == tokens}
    cells = [cell for cell in analysis.cells if cell.tokens == tokens]
    head = f"<strong>At T = {grid_count(tokens)}</strong> ({compact(tokens)} tokens)"
    pooled = found.get(None)
    if pooled is not None and pooled.batch.status == "ok":
        asked, text = [pooled], f"{head}, use {_quantities(pooled)}, at every width."
    else:
        widths = sorted({cell.width for cell in cells})
        asked = [found[width] for width in widths if width in found]
        each = [_at_width([cell for cell in cells if cell.width == width], found.get(width)) for width in widths]
        text = f"{head}, use {each[0]}." if len(widths) == 1 else f"{head}, use" + _by_width(widths, each)
    crits = [c.batch for c in analysis.critical_batch if (c.tokens, c.definition) == (tokens, HEADLINE)]
    return f"{text} {_not_identified(asked, crits)}"


def _at_width(cells: list[Cell], best: BestBatch | None) -> str:
    """B* and the rate there; where B* is not identified, the best cell that was tried."""
    if best is not None and best.batch.status == "ok":
        return f"{_quantities(best)}; loss {estimate_text(best.loss, nats)} nats"
    tried = min(cells, key=lambda cell: cell.argmin_loss if cell.loss.value is None else cell.loss.value)
    where = f'{_quantity("lr", tried.lr, plain)} with <strong class="num">B = {grid_count(tried.batch_tokens)}</strong>'
    if best is None or best.batch.status == "not_identified":
        return f"{where}, the lowest loss that was tried; the best batch itself is not identified"
    bound = _quantity("B*", best.batch, grid_count)
    return f"{where}, the lowest loss that was tried; the best batch is only bounded: {bound}"


def _quantities(best: BestBatch) -> str:
    return f"{_quantity('lr', best.lr, plain)}, {_quantity('B', best.batch, grid_count)}"


def _quantity(symbol: str, estimate: Estimate, write: Writer) -> str:
    text = estimate_text(estimate, write)
    match estimate.status:
        case "ok":
            value, interval = text.split(" ", 1)
            return f'<strong class="num">{symbol} = {value}</strong> <span class="num">{interval}</span>'
        case "lower_bound" | "upper_bound":
            return f'<strong class="num">{symbol} {text}</strong>'
        case _:
            return f"{symbol} (not identified)"


def _not_identified(asked: list[BestBatch], crits: list[Estimate]) -> str:
    """Everything at this T that is a bound or unknown, each said as what it is, once for the widths it holds for."""
    said: dict[str, list[int | None]] = {}
    for best in asked:
        symbol, estimate, write = (
            ("B*", best.batch, grid_count) if best.batch.status != "ok" else ("lr", best.lr, plain)
        )
        if estimate.status != "ok":
            said.setdefault(_open_point(symbol, estimate, write), []).append(best.width)
    points = [text if len(ns) == len(asked) else f"{text} at N = {_list(ns)}" for text, ns in said.items()]
    points += [] if asked else ["B*"]
    points += [_open_point(definition_name(HEADLINE), crit, grid_count) for crit in crits if crit.status != "ok"]
    points += [] if crits else [definition_name(HEADLINE)]
    if not points:
        return '<span class="quiet">Not identified: nothing; lr, B and B<sub>crit</sub> have intervals.</span>'
    return f'<span class="open">Not identified: {"; ".join(points)}.</span>'


def _list(widths: list[int | None]) -> str:
    return ", ".join(map(str, widths))


def _by_width(widths: list[int], sentences: list[str]) -> str:
    return bullets(f"at N = {width}: {sentence}" for width, sentence in zip(widths, sentences, strict=True))


def _open_point(name: str, estimate: Estimate, write: Writer) -> str:
    kind = {"lower_bound": "a lower bound", "upper_bound": "an upper bound"}.get(estimate.status)
    return f'{name} (<span class="num">{estimate_text(estimate, write)}</span>, only {kind})' if kind else name
