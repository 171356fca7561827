"""What `bcrit coordcheck` and `bcrit transfer` print."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from analysis.coordinates import CoordinateSlope, passes
from analysis.results import Estimate
from analysis.transfer import Transfer, TransferStudy
from configs.expressions import number_text


def print_slopes(console: Console, parametrization: str, slopes: Sequence[CoordinateSlope]) -> None:
    """One row a slope and the verdict of all."""
    table = Table(title=f"{parametrization}: exponent of width in the RMS of activations, and of their updates")
    for name in ("activation", "what", "after step", "exponent", "allowed", "verdict"):
        table.add_column(name, justify="left" if name in ("activation", "what", "verdict") else "right")
    for slope in slopes:
        low, high = slope.allowed
        style = None if slope.passed else "red"
        exponent = written(slope.exponent, "{:+.3f}")
        allowed = f"{low:g} .. {high:g}"
        table.add_row(slope.kind, slope.quantity, str(slope.step), exponent, allowed, slope.verdict, style=style)
    console.print(table)
    failed = sum(not slope.passed for slope in slopes)
    text = f"{failed} of {len(slopes)} slopes are not" if failed else f"all {len(slopes)} slopes are"
    console.print(f"{parametrization}: {'passed' if passes(slopes) else 'FAILED'}, {text} where they should be")


def print_transfer(console: Console, study: TransferStudy) -> None:
    """A table a setting: optimum, shift, loss lost, difference from the first setting, by width; then the verdicts."""
    first = study.transfers[0].setting
    console.print(f"T = {number_text(study.tokens)}, B = {number_text(study.batch_tokens)} tokens; 95 % intervals")
    for transfer, behind in zip(study.transfers, study.behind, strict=True):
        table = Table(title=transfer.setting, title_justify="left")
        table.add_column("N", justify="right")
        table.add_column("state")
        for name in ("log2 lr*", "shift, octaves", "loss*", "lost with the proxy's lr*"):
            table.add_column(name, justify="right")
        if transfer.setting != first:
            table.add_column("loss* - first's", justify="right")
        for cell, shift, lost, later in zip(transfer.cells, transfer.shift, transfer.lost, behind, strict=True):
            row = [str(cell.width), cell.state, written(cell.lr, "{:.2f}", log2=True), written(shift, "{:+.2f}")]
            row += [written(cell.loss, "{:.4f}"), written(lost, "{:.4f}")]
            table.add_row(*row, *([written(later, "{:+.4f}")] if transfer.setting != first else []))
        console.print(table)
    for transfer in study.transfers:
        if transfer.steps:
            console.print(verdict(transfer))
        for warning in transfer.warnings:
            console.print(f"[yellow]note[/yellow] {transfer.setting}: {warning}")


def verdict(transfer: Transfer) -> str:
    """One sentence on a setting: how far its optima are apart, and whether wider is better."""
    steps = "; ".join(
        f"{s.narrow} -> {s.wide} {s.verdict} (worst of {s.rates} rates {written(s.worst, '{:+.4f}')} nats)"
        for s in transfer.steps
    )
    return (
        f"{transfer.setting}: log2 lr* spreads over {written(transfer.spread, '{:.2f}')} octaves; wider up to the "
        f"optimum: {steps}"
    )


def written(estimate: Estimate, form: str, *, log2: bool = False) -> str:
    """Plain text of an estimate with its interval, or its bound."""
    value, low, high = (
        None if x is None else form.format(math.log2(x) if log2 else x)
        for x in (estimate.value, estimate.low, estimate.high)
    )
    match estimate.status:
        case "ok":
            return f"{value} [{low}, {high}]" if low is not None and high is not None else f"{value}"
        case "lower_bound":
            return f">= {low}"
        case "upper_bound":
            return f"<= {high}"
    return "not identified"
