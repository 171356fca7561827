"""Colours that mean something: cool for token budgets, warm for batches, ink for widths.

Every colour is written as its light-page hex; `DARK` says what it becomes on a dark page. The sequential scales change
lightness monotonically, so order survives colour blindness and grey print; the categorical colours are
Okabe and Ito's and a purple.
"""

from collections.abc import Hashable, Iterable
from itertools import pairwise
from typing import Literal, TypeVar

Scale = Literal["tokens", "batch", "width"]
Key = TypeVar("Key", bound=Hashable)

_STEPS = 25
_LIGHT = {
    "tokens": ("#35a58c", "#1c8aa6", "#2464ab", "#313f96", "#27145c"),
    "batch": ("#d89000", "#d4661a", "#c2343f", "#8c1b5e", "#481047"),
    "width": ("#8a8a93", "#5d5d68", "#33333d", "#0e0e14"),
}
_DARK = {
    "tokens": ("#5b80cf", "#3a96cf", "#41b8ba", "#86dba9", "#e2f8c6"),
    "batch": ("#b04a94", "#da5a70", "#f08650", "#f8b94c", "#fdea94"),
    "width": ("#77777f", "#9d9da6", "#cacad1", "#fafafc"),
}

INK = "#1f2328"
MUTED = "#6b7079"
GRID = "#e7e8eb"
PAPER = "#fdfdfc"
BLUE, ORANGE, GREEN, PINK, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6a3d9a"
_FIXED = {
    INK: "#e8e9ec",
    MUTED: "#9aa0aa",
    GRID: "#2b2f36",
    PAPER: "#14161a",
    BLUE: "#56b4e9",
    ORANGE: "#f0883e",
    GREEN: "#2fc79a",
    PINK: "#e39ac4",
    PURPLE: "#b79af0",
}

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")


def _mix(stops: tuple[str, ...], fraction: float) -> str:
    """Linear interpolation between hex stops, fraction in [0, 1]."""
    position = fraction * (len(stops) - 1)
    (first, second) = list(pairwise(stops))[min(int(position), len(stops) - 2)]
    rest = position - min(int(position), len(stops) - 2)
    channels = (round(int(first[i : i + 2], 16) * (1 - rest) + int(second[i : i + 2], 16) * rest) for i in (1, 3, 5))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


DARK: dict[str, str] = _FIXED | {
    _mix(_LIGHT[scale], step / (_STEPS - 1)): _mix(_DARK[scale], step / (_STEPS - 1))
    for scale in _LIGHT
    for step in range(_STEPS)
}


def sequential(scale: Scale, values: Iterable[Key]) -> dict[Key, str]:
    """A colour for each value in the given order; a single value takes the middle of the scale."""
    ordered = list(dict.fromkeys(values))
    last = len(ordered) - 1
    return {
        value: _mix(_LIGHT[scale], round((i / last if last else 0.5) * (_STEPS - 1)) / (_STEPS - 1))
        for i, value in enumerate(ordered)
    }


def symbols(values: Iterable[Key]) -> dict[Key, str]:
    """A marker for each value, so that colour is never the only difference."""
    return {value: SYMBOLS[i % len(SYMBOLS)] for i, value in enumerate(dict.fromkeys(values))}
