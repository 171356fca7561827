"""Published laws of eta*, B* and B_crit, as reference lines beside a prediction: each with its units and conventions.

None of them was fitted under the conditions of a study here. A rate in them is the peak Adam rate of the model as it
is, without mup; here rates are at base width. Read them as lines to compare slopes and orders of magnitude with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Quantity = Literal["lr_best", "batch_best", "batch_crit"]


@dataclass(frozen=True)
class Setting:
    """What the laws ask for. `tokens`: D; `n_params`: N without embeddings, None if unknown.

    `anchor`: (tokens, lr) of a measured optimum at the same model and batch, None if there is none.
    """

    tokens: float
    n_params: float | None = None
    anchor: tuple[float, float] | None = None

    @property
    def flops(self) -> float | None:
        """C = 6 N D; DeepSeek's own count adds attention, which is little unless the context is long."""
        return None if self.n_params is None else 6.0 * self.n_params * self.tokens


@dataclass(frozen=True)
class PublishedLaw:
    """One law; `value` gives lr, or B in tokens, or None where the setting lacks what it needs."""

    name: str
    quantity: Quantity
    formula: str
    conventions: str
    value: Callable[[Setting], float | None]


def _power(coefficient: float, x: float | None, exponent: float) -> float | None:
    return None if x is None else coefficient * x**exponent


def _step_lr(s: Setting) -> float | None:
    return _power(1.79 * s.tokens**0.307, s.n_params, -0.713)


def _bjorck(s: Setting) -> float | None:
    return None if s.anchor is None else _power(s.anchor[1], s.anchor[0] / s.tokens, 0.32)


_STEP = "AdamW, cosine to a fixed 1e-5, smoothed training loss; N without embeddings (2503.04715)"
_DEEPSEEK = "AdamW, multi-step schedule; C = 6 N D with N without embeddings (2401.02954)"
# The exponents are confirmed; the coefficients and the unit of B are from secondary sources.
_POWER_LINES = "mup, AdamW with tuned weight decay, linear decay to 0; in sequences of 2048 tokens (2505.13738)"
SEQUENCE = 2048  # tokens, of Power Lines

LAWS: tuple[PublishedLaw, ...] = (
    PublishedLaw("Step Law", "lr_best", "lr = 1.79 N^-0.713 D^0.307", _STEP, _step_lr),
    PublishedLaw("Step Law", "batch_best", "B = 0.58 D^0.571", _STEP, lambda s: _power(0.58, s.tokens, 0.571)),
    PublishedLaw("DeepSeek", "lr_best", "lr = 0.3118 C^-0.125", _DEEPSEEK, lambda s: _power(0.3118, s.flops, -0.125)),
    PublishedLaw("DeepSeek", "batch_best", "B = 0.292 C^0.3271", _DEEPSEEK, lambda s: _power(0.292, s.flops, 0.3271)),
    PublishedLaw(
        "Power Lines",
        "batch_best",
        "B = 0.0306 D^0.383 sequences",
        _POWER_LINES,
        lambda s: _power(0.0306 * SEQUENCE, s.tokens, 0.383),
    ),
    PublishedLaw(
        "Power Lines",
        "batch_crit",
        "B = 0.0471 D^0.462 sequences",
        _POWER_LINES + "; twice the fewest tokens to equal loss",
        lambda s: _power(0.0471 * SEQUENCE, s.tokens, 0.462),
    ),
    PublishedLaw(
        "Bjorck et al.",
        "lr_best",
        "lr = lr_0 (D_0/D)^0.32",
        "AdamW, cosine, fixed B; a slope only, from this study's own optimum at its largest budget (2409.19913)",
        _bjorck,
    ),
)
