"""What `bcrit analyse` prints: the optima of a small table, critical batches and growth, as lines of plain text."""

from collections.abc import Iterator

from analysis.results import Analysis, CriticalBatch, Estimate, Growth

MOST_CELLS = 24
QUIET = ("curvature", "sensitivity")  # growth laws that only laws.json and the report have


def lines(analysis: Analysis) -> Iterator[str]:
    """One line a cell (of a small table), critical batch and growth law; all of them are in laws.json."""
    states = ", ".join(f"{sum(c.state == s for c in analysis.cells)} {s}" for s in {c.state: 0 for c in analysis.cells})
    if states:
        yield f"{len(analysis.cells)} cells (N, T, B): {states}"
    if len(analysis.cells) <= MOST_CELLS:
        for c in analysis.cells:
            yield f"  N={c.width} T={c.tokens:.4g} B={c.batch_tokens}: {c.state}, lr* {_text(c.lr)}"
    seq_len = analysis.meta.get("seq_len")
    for c in sorted(analysis.critical_batch, key=lambda c: c.definition):
        yield _critical(c, seq_len if isinstance(seq_len, int) else None)
    for law in analysis.growth:
        if not law.quantity.startswith(QUIET):
            yield _growth(law)


def _critical(c: CriticalBatch, seq_len: int | None) -> str:
    where = f"T={c.tokens:.4g}" + (f" ({c.model}, loss {c.target_loss:g})" if c.target_loss else "")
    seqs = f" = {c.batch.value / seq_len:.2f} sequences" if seq_len and c.batch.value else ""
    factor = "" if c.factor is None else f", x{c.factor:.3g}"
    return f"B_crit {c.definition} at {where}: {_text(c.batch)} tokens{seqs}{factor}"


def _growth(law: Growth) -> str:
    symbol = "T" if law.variable == "tokens" else law.variable
    return f"{law.quantity} ~ {symbol}^a, a = {_text(law.exponent, '.3f')} from {law.n_points} points"


def _text(e: Estimate, form: str = ".4g") -> str:
    """`1.2 [1, 1.5]`, `>= 1`, `<= 1.5` or `not identified`."""
    match e.status:
        case "ok":
            ends = ["?" if end is None else format(end, form) for end in (e.low, e.high)]
            return f"{e.value:{form}} [{', '.join(ends)}]"
        case "lower_bound":
            return f">= {e.low:{form}}"
        case "upper_bound":
            return f"<= {e.high:{form}}"
        case _:
            return "not identified"
