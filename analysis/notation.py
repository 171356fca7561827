"""How numbers and estimates are written, the same in figures, tables and sentences: short HTML (only `<sup>`)."""

from collections.abc import Callable
from math import isfinite, log2

from analysis.results import Estimate

Writer = Callable[[float], str]

_MINUS = "\N{MINUS SIGN}"


def power_of_two(exponent: float) -> str:
    """`2<sup>−7</sup>`, `2<sup>−7.25</sup>`: at most two decimals."""
    return f"2<sup>{round(exponent, 2):g}</sup>".replace("-", _MINUS)


def plain(value: float) -> str:
    """Three significant digits with a real minus sign; 2.50e−5 below a thousandth, whole numbers from 1000 on."""
    if not isfinite(value):
        return "not a number"
    if 0 < abs(value) < 1e-3:
        text = f"{value:.2e}".replace("e-0", "e-")
    else:
        text = f"{value:.0f}" if value == 0 or abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", _MINUS)


def hundredths(value: float) -> str:
    """An exponent: two decimals."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", _MINUS)


def nats(value: float) -> str:
    """A loss in nats: four decimals, because differences near the best batch are a few thousandths."""
    return f"{value:.4f}".replace("-", _MINUS)


def compact(count: float) -> str:
    """A count with a metric letter: 512, 2.05k, 1.31M, 16.4B."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= scale * 0.9995:
            return f"{count / scale:#.3g}".rstrip(".") + letter
    return f"{count:.3g}"


def grid_count(tokens: float) -> str:
    """A count of tokens: an exact power of two where it is one, else compact."""
    exponent = log2(tokens)
    return power_of_two(exponent) if exponent == round(exponent) and tokens >= 64 else compact(tokens)


def estimate_text(estimate: Estimate, write: Writer = plain) -> str:
    """Value and interval, or the bound as a bound; never a value that the grid does not identify."""
    match estimate:
        case Estimate(status="ok", value=float() | int() as value, low=None, high=None):
            return f"{write(value)} [no interval]"
        case Estimate(status="ok", value=float() | int() as value, low=low, high=high):
            return f"{write(value)} [{_end(low, write)}, {_end(high, write)}]"
        case Estimate(status="lower_bound", low=float() | int() as low):
            return f"≥ {write(low)}"
        case Estimate(status="upper_bound", high=float() | int() as high):
            return f"≤ {write(high)}"
        case _:
            return "not identified"


def _end(value: float | None, write: Writer) -> str:
    return "?" if value is None else write(value)
