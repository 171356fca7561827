"""Predictions on the terminal: a row for every quantity, a column for every budget."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from analysis.notation import compact, estimate_text, plain
from analysis.predict import Prediction

PUBLISHED_NAMES = {"lr_best": "lr* at B*", "batch_best": "B*", "batch_crit": "B_crit"}


def print_predictions(console: Console, predictions: Sequence[Prediction]) -> None:
    """The laws of this table with 95 % intervals, then the published ones, then their conventions."""
    table = Table(title=f"N = {predictions[0].width:g}; B in tokens, lr at base width, 95 % intervals of the laws")
    table.add_column("")
    for p in predictions:
        table.add_column(f"T = {compact(p.tokens)}")
    table.add_row("octaves beyond the tuned T", *(f"{p.octaves_tokens:.1f}" for p in predictions))
    table.add_row("octaves beyond the tuned N", *(f"{p.octaves_width:.1f}" for p in predictions), end_section=True)
    for quantity in dict.fromkeys(name for p in predictions for name in p.laws):
        write = compact if quantity.startswith("batch") else plain
        cells = [estimate_text(p.laws[quantity], write) if quantity in p.laws else "" for p in predictions]
        table.add_row(_name(quantity), *cells)
    table.add_section()
    for i, (law, _) in enumerate(predictions[0].published):
        values = [p.published[i][1] for p in predictions]
        write = plain if law.quantity == "lr_best" else compact
        cells = ["needs N without embeddings" if v is None else write(v) for v in values]
        if law.name == "Bjorck et al." and None in values:
            cells = ["needs lr* at B*"] * len(values)
        table.add_row(f"{PUBLISHED_NAMES[law.quantity]}, {law.name}", *cells)
    console.print(table)
    console.print("Published laws, fitted under other conditions; a rate in them is the model's own, without mup:")
    for law, _ in predictions[0].published:
        console.print(f"  {law.name}: {law.formula}. {law.conventions}.", highlight=False)


def _name(quantity: str) -> str:
    kind, _, detail = quantity.partition(":")
    match kind:
        case "lr_at_batch":
            batch, _, form = detail.partition(":")
            return f"lr* at B = {batch}, {form.replace('_', ' ')}"
        case "batch_crit":
            return f"B_crit, {detail.replace('_', ' ')}"
        case _:
            return PUBLISHED_NAMES[kind]
