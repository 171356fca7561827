"""The coordinate check: does any activation, or what training changes in one, grow or vanish as the width grows?

Yang et al., Tensor Programs V (arXiv 2203.03466), appendix D.1. Sizes are root mean squares; what is judged is the
exponent of width in log2 RMS = exponent x log2 N + constant, at the start and after the last step.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from analysis.results import Estimate

Array = NDArray[np.floating]
FLAT = (-0.1, 0.1)
FADING = (-0.6, 0.1)  # an initial part of size N^-1/2, beneath what training adds at size 1


@dataclass(frozen=True)
class CoordinateSlope:
    """How one kind of activation depends on width at one step."""

    kind: str
    quantity: str  # "size" of the activation, or of its "update" since the start
    step: int
    exponent: Estimate  # of width
    allowed: tuple[float, float]  # exponents that pass
    verdict: Literal["flat", "fades, as it should", "grows", "shrinks", "zero"]

    @property
    def passed(self) -> bool:
        """Whether the exponent is where it should be."""
        return self.verdict not in ("grows", "shrinks")


def exponent(width: Array, rms: Array) -> Estimate:
    """The exponent of width by least squares in log-log, shapes (n,) of positive numbers at two widths or more.

    The 95 % interval is Student's, from the scatter about the line: seeds, and whatever is no power law. With two
    points there is none.
    """
    x, y = np.log2(width), np.log2(rms)
    x = x - x.mean()
    value = float(x @ y / (x @ x))
    method = f"least squares in log-log, {x.size} runs"
    if x.size < 3:
        return Estimate(value, None, None, "1", "ok", method)
    residual = y - y.mean() - value * x
    half = float(special.stdtrit(x.size - 2, 0.975) * np.sqrt(residual @ residual / (x.size - 2) / (x @ x)))
    return Estimate(value, value - half, value + half, "1", "ok", method)


def coordinate_slopes(measured: pd.DataFrame, *, grown_heads: bool = False) -> tuple[CoordinateSlope, ...]:
    """The slopes of a check, by kind: sizes at step 0, sizes and updates at the last step.

    `measured` has the columns width, seed, step, kind, quantity, rms (see `train.coordinates`), one row a measurement,
    at two widths or more. `grown_heads`: the width grows by the size of heads, so that their initial logits fade.
    """
    last = measured["step"].max()
    judged = measured[measured["step"].isin((0, last)) & (measured["kind"] != "loss")]
    order = list(dict.fromkeys(judged["kind"]))
    slopes = [
        _judge(part, str(part["kind"].iloc[0]), str(part["quantity"].iloc[0]), int(part["step"].iloc[0]), grown_heads)
        for _, part in judged.groupby(["quantity", "step", "kind"])
    ]
    return tuple(sorted(slopes, key=lambda s: (s.quantity, s.step, order.index(s.kind))))


def passes(slopes: Iterable[CoordinateSlope]) -> bool:
    """Whether every slope is where it should be."""
    return all(slope.passed for slope in slopes)


def _judge(part: pd.DataFrame, kind: str, quantity: str, step: int, grown_heads: bool) -> CoordinateSlope:
    fading = (kind == "logits" and quantity == "size") or (kind == "attention_logits" and grown_heads)
    low, high = FADING if fading else FLAT
    if (part["rms"] == 0).all():  # a head that starts at zero
        nothing = Estimate(None, None, None, "1", "not_identified", "zero at every width")
        return CoordinateSlope(kind, quantity, step, nothing, (low, high), "zero")
    found = exponent(part["width"].to_numpy(float), part["rms"].to_numpy(float))
    value = found.value if found.value is not None else np.inf
    if not np.isfinite(value) or value > high:
        verdict = "grows"
    elif value < low:
        verdict = "shrinks"
    else:
        verdict = "flat" if FLAT[0] <= value <= FLAT[1] else "fades, as it should"
    return CoordinateSlope(kind, quantity, step, found, (low, high), verdict)
