"""Numbers as a report writes them, read back with the rounding they were written with.

Apart from `analysis.notation`, which writes them, so that a mistake there cannot hide in both.
"""

import re
from dataclasses import dataclass
from typing import Any

_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
NUMBER = r"(?:2\^[-−]?\d+(?:\.\d+)?|[-−+]?\d+(?:\.\d+)?(?:e[-−+]?\d+)?[kMBT]?(?![\w^]))"
ESTIMATE = rf"(?:{NUMBER}(?: \[[^\]]*\])?|[≥≤] {NUMBER}|not identified)"
_ONE = re.compile(rf"^{NUMBER}$")
_WITH_ENDS = re.compile(rf"^({NUMBER})(?: \[(?:({NUMBER}), ({NUMBER})|no interval)\])?$")
_BOUND = re.compile(rf"^([≥≤]) ({NUMBER})$")
_SLACK = 1.001  # of the rounding of the writer itself


@dataclass(frozen=True)
class Quoted:
    """A number and half a unit of its last digit: what it may stand for."""

    value: float
    half_unit: float

    def stands_for(self, true: float | None) -> bool:
        """Whether `true` is written so."""
        if true is None:
            return False
        return abs(true - self.value) <= self.half_unit * _SLACK + 1e-9 * abs(self.value)


@dataclass(frozen=True)
class Said:
    """An estimate as text says it: `ok` with a value (and no ends where no interval is given), a bound, or nothing."""

    status: str
    value: Quoted | None = None
    low: Quoted | None = None
    high: Quoted | None = None

    def agrees(self, true: dict[str, Any]) -> bool:
        """Whether this is how the estimate (as in laws.json) must be said; an end that is unknown is not asked for."""
        if self.status != true["status"]:
            return False
        for said, name in ((self.value, "value"), (self.low, "low"), (self.high, "high")):
            if said is not None and not said.stands_for(true[name]):
                return False
            if said is None and true[name] is not None and (name == "value" or self.status != "ok"):
                return False
        return True

    @property
    def lacks_interval(self) -> bool:
        """A value with nothing beside it."""
        return self.status == "ok" and self.low is None and self.high is None


def number(text: str) -> Quoted | None:
    """`0.00781`, `−0.30`, `2.50e−5`, `1.23k`, `2^18`, `2^−7.25`; None if it is something else.

    A power of two with a whole exponent is exact.
    """
    text = text.strip()
    if not _ONE.match(text):
        return None
    plain = text.replace("−", "-")
    if plain.startswith("2^"):
        exponent, exact = float(plain[2:]), "." not in plain
        return Quoted(2.0**exponent, 0.0 if exact else 2.0**exponent * 0.0035)  # ln 2 times half a hundredth
    scale = _SCALE[plain[-1] if plain[-1] in _SCALE else ""]
    mantissa, _, exponent = plain.rstrip("kMBT").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])) * scale
    return Quoted(float(mantissa) * 10.0 ** int(exponent or 0) * scale, unit / 2)


def estimate(text: str) -> Said | None:
    """`v [l, h]`, `v`, `≥ l`, `≤ h` or `not identified`, with or without a dagger; None if it is something else."""
    text = text.strip().removesuffix("†").strip()
    if text == "not identified":
        return Said("not_identified")
    if bound := _BOUND.match(text):
        quoted = number(bound[2])
        return Said("lower_bound", low=quoted) if bound[1] == "≥" else Said("upper_bound", high=quoted)
    if found := _WITH_ENDS.match(text):
        value, low, high = (None if part is None else number(part) for part in found.groups())
        return Said("ok", value, low, high)
    return None


def written(true: dict[str, Any]) -> str:
    """An estimate of laws.json for a message: six digits."""
    match true["status"]:
        case "ok":
            ends = ", ".join("?" if true[end] is None else f"{true[end]:.6g}" for end in ("low", "high"))
            return f"{true['value']:.6g} [{ends}]"
        case "lower_bound":
            return f"≥ {true['low']:.6g}"
        case "upper_bound":
            return f"≤ {true['high']:.6g}"
    return "not identified"
