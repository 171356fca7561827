"""B*(T): the batch with the lowest loss when the learning rate is tuned at each batch."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from analysis.fitting import threshold
from analysis.laws import SIGMA_FLOOR
from analysis.noise import Noise, linear_estimate, standard_error
from analysis.parabola import Parabola, fit_parabola, vertex_interval
from analysis.results import BestBatch, Cell, Estimate, bounded

Array = NDArray[np.floating]
WINDOW = 5
LOSS_FLOOR = 1e-9  # nats: so that a noiseless table still has weights


def best_batches(cells: Iterable[Cell], noise: Noise) -> tuple[BestBatch, ...]:
    """B* at every budget, for each width and, with several, for all together (width None, an own level per width).

    A parabola of the tuned loss in log2 B through up to five batches around the lowest; at an end of the batch grid a
    bound; nothing where the curvature is not positive at 95 % or where a batch beside the lowest has no tuned loss.
    """
    cells = list(cells)
    found = []
    for tokens in sorted({c.tokens for c in cells}):
        here = [c for c in cells if c.tokens == tokens]
        widths = sorted({c.width for c in here})
        found += [_best([c for c in here if c.width == width], width, noise) for width in widths]
        found += [_best(here, None, noise)] if len(widths) > 1 else []
    return tuple(best for best in found if best is not None)


def _best(cells: list[Cell], width: int | None, noise: Noise) -> BestBatch | None:
    widths = sorted({c.width for c in cells})
    by_key = {(c.width, c.batch_tokens): c for c in cells}
    batches = [b for b in sorted({c.batch_tokens for c in cells}) if all((w, b) in by_key for w in widths)]
    if len(batches) < 2:
        return None
    tuned = [all(by_key[w, b].state == "interior" for w in widths) for b in batches]
    loss = [np.mean([_loss(by_key[w, b]) for w in widths]) for b in batches]
    i, last = int(np.argmin(loss)), len(batches) - 1
    bracket = (batches[max(i - 1, 0)], batches[min(i + 1, last)])

    def answer(batch: Estimate, lr: Estimate | None = None, at_best: Estimate | None = None) -> BestBatch:
        lr = lr or Estimate(None, None, None, "lr", "not_identified", batch.method)
        at_best = at_best or Estimate(None, None, float(loss[i]), "nats", "upper_bound", "lowest loss of the grid")
        return BestBatch(width, cells[0].tokens, batch, lr, at_best, bracket)

    def unknown(why: str) -> BestBatch:
        return answer(Estimate(None, None, None, "tokens", "not_identified", why))

    low, high = i, i + 1  # batches[low:high] are the consecutive tuned ones around the lowest
    while low > 0 and tuned[low - 1]:
        low -= 1
    while high <= last and tuned[high]:
        high += 1
    if not tuned[i] or (i > 0 and low == i) or (i < last and high == i + 1):
        return unknown("the learning rate is not tuned at the batch of lowest loss or beside it")
    if i == 0:
        return answer(bounded(None, None, float(bracket[1]), "tokens", "lowest loss at the smallest batch"))
    if i == last:
        return answer(bounded(None, float(bracket[0]), None, "tokens", "lowest loss at the largest batch"))

    size = min(WINDOW, high - low)
    start = int(np.clip(i - size // 2, low, high - size))
    used = [by_key[w, b] for b in batches[start : start + size] for w in widths]
    x = np.log2([c.batch_tokens for c in used])
    errors = [standard_error(c.loss, noise) for c in used]
    measured = None not in errors
    sigma = np.maximum(np.array(errors, float), LOSS_FLOOR) if measured else np.ones(x.size)
    fit = _fit(x, np.array([_loss(c) for c in used]), used, sigma)
    method = f"parabola of tuned loss in log2 B, {size} batches"
    if fit.a <= 0 or not x.min() <= fit.vertex <= x.max():
        return unknown(f"{method}: no minimum inside the window")
    quantile = float(np.sqrt(threshold(float(fit.residual @ fit.residual), fit.dof, noise.dof)))
    interval = vertex_interval(fit, sigma, quantile) if measured else tuple(np.log2(bracket))
    if interval is None:
        return unknown(f"{method}: the curvature is not positive at 95 %")
    low_batch, high_batch = (float(2.0**end) for end in interval)
    return answer(
        Estimate(float(2.0**fit.vertex), low_batch, high_batch, "tokens", "ok", method),
        _lr_at(fit.vertex, (interval[1] - interval[0]) / 2, x, used, noise),
        linear_estimate(fit.minimum, fit.minimum_weights, sigma if measured else None, quantile, "nats", method),
    )


def _lr_at(log2_batch: float, half_width: float, x: Array, used: list[Cell], noise: Noise) -> Estimate:
    """eta* at B*: a local parabola of log2 eta* in log2 B; its own error and that of B* add in quadrature."""
    y = np.log2([c.lr.value or np.nan for c in used])
    sigma = np.array([max(c.log2_lr_sigma or 0.0, SIGMA_FLOOR) for c in used])
    fit = _fit(x, y, used, sigma)
    t = log2_batch - fit.center
    value, slope = fit.a * t**2 + fit.b * t + fit.c, 2 * fit.a * t + fit.b
    rise = threshold(float(fit.residual @ fit.residual), fit.dof, noise.dof)
    own = np.sqrt(rise) * np.linalg.norm(np.array([t**2, t, 1.0]) @ fit.solve * sigma)
    half = float(np.hypot(own, slope * half_width))
    method = "local parabola of log2 lr* in log2 B, at B*"
    return Estimate(float(2.0**value), float(2.0 ** (value - half)), float(2.0 ** (value + half)), "lr", "ok", method)


def _fit(x: Array, y: Array, used: list[Cell], sigma: Array) -> Parabola:
    return fit_parabola(x, y, used=np.ones(x.size, bool), group=[c.width for c in used], sigma=sigma)


def _loss(cell: Cell) -> float:
    return cell.argmin_loss if cell.loss.value is None else cell.loss.value
