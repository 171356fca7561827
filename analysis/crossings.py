"""From the tuned losses of a run table to where each batch reaches a target loss.

Which targets: at each width the lowest tuned loss of any batch at T, for every T but the last, which nothing overtakes.
So a target is a T by the loss curve of the best runs, and B_c(L) and B_c(T) have one axis.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.hyperbola import Crossings
from analysis.laws import SIGMA_FLOOR
from analysis.noise import Noise, standard_error
from analysis.results import Cell

Array = NDArray[np.floating]
Route = Literal["between", "power_law"]


class Path(NamedTuple):
    """Tuned loss of one (N, B) against tokens, arrays (m,) in log2 with the error of the loss in octaves."""

    width: int
    batch: int
    log2_tokens: Array
    log2_loss: Array
    error: Array


def targets(cells: Sequence[Cell]) -> list[int]:
    """The budgets T at which a target loss is taken: every budget with a tuned loss but the last."""
    return sorted({c.tokens for c in _tuned(cells)})[:-1]


def crossings_at(cells: Sequence[Cell], tokens: int, noise: Noise, route: Route = "between") -> Crossings:
    """Where every batch reaches the target of `tokens`, a level for each width.

    `between`: on the straight line between two neighbouring budgets in log2 loss against log2 tokens, exact where loss
    is a power of tokens. `power_law`: on one such line through all budgets of the batch, inverted (Bergsma et al. 2025,
    2505.13738), but within its budgets only. A batch whose loss at its last budget is still above the target is
    censored: it needs more tokens than that.
    """
    rows: list[tuple[float, float, float, bool, float]] = []
    tuned = _tuned(cells)
    for width in sorted({c.width for c in tuned}):
        at_tokens = [c.loss.value for c in tuned if (c.width, c.tokens) == (width, tokens) and c.loss.value is not None]
        if not at_tokens:
            continue
        target = float(np.log2(min(at_tokens)))
        for path in _paths(tuned, width, noise):
            crossed = _between(path, target) if route == "between" else _on_power_law(path, target)
            if crossed is not None:
                rows.append((float(width), float(np.log2(path.batch)), *crossed))
    level, log2_batch, log2_tokens, reached, error = np.array(rows, float).reshape(-1, 5).T
    return Crossings(level, log2_batch, log2_tokens, reached.astype(bool), error)


def _tuned(cells: Sequence[Cell]) -> list[Cell]:
    return [c for c in cells if c.state == "interior" and c.loss.value is not None and c.loss.value > 0]


def _paths(tuned: list[Cell], width: int, noise: Noise) -> Iterator[Path]:
    here = [c for c in tuned if c.width == width]
    for batch in sorted({c.batch_tokens for c in here}):
        path = sorted((c for c in here if c.batch_tokens == batch), key=lambda c: c.tokens)
        loss = np.array([c.loss.value for c in path], float)
        error = np.array([standard_error(c.loss, noise) or 0.0 for c in path]) / (loss * np.log(2))
        if len(path) >= 2:
            yield Path(width, batch, np.log2([c.tokens for c in path]), np.log2(loss), error)


def _between(path: Path, target: float) -> tuple[float, bool, float] | None:
    """(log2 tokens, whether reached, error); None where the target lies before the first budget or the loss rises."""
    x, y = path.log2_tokens, path.log2_loss
    reached = np.flatnonzero(y <= target)
    i = max(int(reached[0]), 1) if reached.size else x.size - 1
    slope = float((y[i] - y[i - 1]) / (x[i] - x[i - 1]))
    if slope >= 0 or (reached.size and reached[0] == 0 and y[0] < target):
        return None
    error = float(max(path.error[i - 1 : i + 1])) / -slope
    if not reached.size:
        return float(x[-1]), False, error
    return float(x[i] + (target - y[i]) / slope), True, error


def _on_power_law(path: Path, target: float) -> tuple[float, bool, float] | None:
    """The same on the weighted straight line through the whole path; its misfit counts as error where it has any."""
    x, y, weight = path.log2_tokens, path.log2_loss, 1 / np.maximum(path.error, SIGMA_FLOOR)
    center = float(np.average(x, weights=weight**2))
    design = np.column_stack([np.ones_like(x), x - center])
    solve = np.linalg.pinv(design * weight[:, None]) * weight
    level, slope = solve @ y
    if slope >= 0:
        return None
    at = center + (target - level) / slope
    dof = x.size - 2
    misfit = np.sum(((y - design @ (level, slope)) * weight) ** 2) / dof if dof else 0.0
    half = np.linalg.norm(np.array([1.0, at - center]) @ solve / weight) * np.sqrt(max(misfit, 1.0)) / -slope
    if at < x[0] - SIGMA_FLOOR:
        return None
    return float(min(at, x[-1])), bool(at <= x[-1] + SIGMA_FLOOR), float(half)
