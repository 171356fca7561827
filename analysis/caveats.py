"""What the table does not identify and why, in plain sentences, each with a remedy where there is one."""

from collections.abc import Iterable, Iterator, Sequence

from analysis.noise import Noise
from analysis.results import BestBatch, Cell, CellState, CriticalBatch, LrLaw, LrLawVerdict

MOST_NAMED = 4
REMEDY: dict[CellState, str] = {
    "edge_low": "their optimum lies at or below the lowest learning rates: add lower ones",
    "edge_high": "their optimum lies at or above the highest learning rates: add higher ones",
    "too_few": "fewer than three learning rates around the lowest loss did not diverge: refine the grid there",
    "not_convex": "the loss hardly reacts to the learning rate above its noise: widen the grid or add seeds",
}


def explain(
    cells: Sequence[Cell],
    noise: Noise,
    laws: Iterable[LrLaw],
    verdicts: Iterable[LrLawVerdict],
    critical: Sequence[CriticalBatch],
    best: Iterable[BestBatch],
) -> Iterator[str]:
    """One sentence per matter, the most basic first."""
    yield from _cells(cells)
    yield from _diverged(cells)
    yield from _holes(cells)
    yield from _noise(cells, noise)
    yield from _forms(verdicts)
    yield from _critical(cells, critical)
    yield from noted(critical)
    yield from _widths(laws)
    yield from _best(best)


def _cells(cells: Sequence[Cell]) -> Iterator[str]:
    for state, remedy in REMEDY.items():
        those = [c for c in cells if c.state == state]
        if those:
            yield f"{len(those)} of {len(cells)} cells have no tuned learning rate, {remedy}. Cells: {_some(those)}."


def _diverged(cells: Sequence[Cell]) -> Iterator[str]:
    those = [c for c in cells if c.n_diverged]
    if those:
        runs = sum(c.n_diverged for c in those)
        yield (
            f"{runs} run{'s' * (runs > 1)} diverged, in {len(those)} of {len(cells)} cells: a learning rate too high "
            f"there, not a loss; no parabola passes through {'them' if runs > 1 else 'it'}. Cells: {_some(those)}."
        )


def _holes(cells: Sequence[Cell]) -> Iterator[str]:
    """Batches that lie between those of their N and T, and that another N or T has."""
    present = {(c.width, c.tokens, c.batch_tokens) for c in cells}
    batches = sorted({b for _, _, b in present})
    holes = []
    for width, tokens in sorted({(n, t) for n, t, _ in present}):
        here = [b for n, t, b in present if (n, t) == (width, tokens)]
        holes += [(width, tokens, b) for b in batches if min(here) < b < max(here) and b not in here]
    if holes:
        some = ", ".join(f"(N={n}, T={t}, B={b})" for n, t, b in holes[:MOST_NAMED]) + " ..." * (
            len(holes) > MOST_NAMED
        )
        yield f"The grid has holes, batches missing between others: {some}. Nothing is interpolated there: run them."


def _some(cells: Sequence[Cell]) -> str:
    those = [f"(N={c.width}, T={c.tokens}, B={c.batch_tokens})" for c in cells]
    return ", ".join(those[:MOST_NAMED]) + (" ..." if len(those) > MOST_NAMED else "")


def noted(critical: Iterable[CriticalBatch]) -> Iterator[str]:
    """What to know about critical batches, the definitions and budgets of one matter together."""
    together: dict[str, dict[str, list[str]]] = {}
    for c in critical:
        if c.note:
            together.setdefault(c.note, {}).setdefault(c.model or f"T={c.tokens}", []).append(c.definition)
    for note, places in together.items():
        names = sorted({name for names in places.values() for name in names})
        yield f"B_crit by {', '.join(names)} at {', '.join(places)}: {note}."


def _noise(cells: Sequence[Cell], noise: Noise) -> Iterator[str]:
    if noise.dof == 0:
        yield (
            "The noise of the loss cannot be measured: every parabola passes through all its runs. Intervals "
            "are those of the grid; use at least four learning rates or a second seed."
        )
    elif all(c.n_seeds == 1 for c in cells):
        yield (
            f"Every run has one seed: the noise of the loss is taken from how far runs lie off the parabolas of their "
            f"cells ({noise.dof} degrees of freedom), and differences between seeds are not in the intervals."
        )


def _forms(verdicts: Iterable[LrLawVerdict]) -> Iterator[str]:
    for verdict in verdicts:
        if verdict.tokens is None and verdict.verdict in ("ambiguous", "too few points"):
            yield f"The form of lr*(B) over all budgets is undecided: {verdict.explanation}."


def _critical(cells: Sequence[Cell], critical: Sequence[CriticalBatch]) -> Iterator[str]:
    batches = [c.batch_tokens for c in cells if c.state == "interior"] or [c.batch_tokens for c in cells]
    low, high = min(batches), max(batches)
    surge = [c for c in critical if c.definition == "time_transfer_surge"]
    if not surge:
        yield "B_crit is not fitted at any T: it needs tuned learning rates at three batches or more of one budget."
    for c in surge:
        match c.batch.status:
            case "lower_bound":
                yield f"B_crit (surge) at T={c.tokens} is only bounded from below: add batches above {high} tokens."
            case "upper_bound":
                yield f"B_crit (surge) at T={c.tokens} is only bounded from above: add batches below {low} tokens."
            case "not_identified":
                yield f"B_crit (surge) at T={c.tokens} is not identified: within its errors lr*(B) has no bend."
            case "ok" if c.batch.value is not None and not 2 * low <= c.batch.value <= high / 2:
                yield (
                    f"B_crit (surge) at T={c.tokens} is less than a factor of two inside the tuned batches "
                    f"({low} to {high} tokens): it rests on few of them."
                )


def _widths(laws: Iterable[LrLaw]) -> Iterator[str]:
    for law in laws:
        if law.tokens is not None or law.form != "surge":
            continue
        for name, what in (("lr_width_exponent", "The tuned learning rate"), ("batch_crit_width_exponent", "B_crit")):
            e = law.parameters.get(name)
            if e is not None and e.low is not None and e.high is not None and (e.low > 0 or e.high < 0):
                yield (
                    f"{what} changes with width as N^{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]: each T pools the "
                    "widths, so read the values per T with care."
                )


def _best(best: Iterable[BestBatch]) -> Iterator[str]:
    for b in best:
        where = f"T={b.tokens}, " + ("all widths" if b.width is None else f"N={b.width}")
        match b.batch.status:
            case "upper_bound":
                yield f"The best batch at {where} is at most {b.batch.high:.0f} tokens: add smaller batches."
            case "lower_bound":
                yield f"The best batch at {where} is at least {b.batch.low:.0f} tokens: add larger batches."
            case "not_identified":
                yield f"The best batch at {where} is not identified: {b.batch.method}."
