"""What gradients and Hessian at one checkpoint say of one step of sign updates at any batch: Surge from one checkpoint.

The data are K blocks, independent of each other: in each, n sequences for gradients and others for the Hessian. With
g_i^k the mean gradient of block k in coordinate i, sigma_i the standard deviation of one sequence's gradient (all
blocks together) and m_i the learning-rate multiplier of its group, a step is theta_i - lr m_i sign(g_i). So m_i goes
with every derivative: below, mu_i^k = m_i g_i^k and H_ij has m_i m_j in it, and r_i^k = g_i^k / sigma_i.

Only products of different blocks are used, so that no mean is squared together with its noise. And E_i^k(B), the
expected sign at batch B as block k has it, is erf(sqrt(B'/2) r_i^k) with B' = B / (1 - B/n): the noise of r_i^k,
Gaussian with variance 1/n, flattens this to erf(sqrt(B/2) r_i) in the mean. Li et al. 2024 (arXiv 2405.14578) do not
say how mu and sigma are to be estimated; this is our choice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.jackknife import covariance, estimate, mean_replicates, pair_replicates, ratio, student
from analysis.line_search import noise_batch
from analysis.results import Estimate, bounded

Array = NDArray[np.floating]
CORRELATED = 1.5  # times the curvature of independent coordinates, from which on it is said
SHORT = 0.9  # where E(B) has fallen this far behind sqrt(B), Theorem 3 has ended


class Sums(NamedTuple):
    """Over coordinates with sigma_i > 0; [k, l]: of blocks k and l, the Hessian of block k, diagonals unused."""

    batch_seqs: Array  # (b,)
    trace: Array  # (K,) sum_i H_ii
    slope: Array  # (K, K) sum_i mu_i^k r_i^l
    off_diagonal: Array  # (K, K) sum_{i != j} H_ij r_i^k r_j^l
    ratio_sq: Array  # (K, K) mean_i r_i^k r_i^l
    along: Array  # (b, K, K) sum_i E_i^k(B) mu_i^l
    bend: Array  # (b, K, K) sum_{i != j} H_ij E_i^k(B) E_j^l(B)
    expected: Array  # (b, K, K) mean_i E_i^k(B) E_i^l(B)
    agreed: Array  # (b, K, K) mean_i V_i^k V_i^l, with V^k = sign g of a batch B of block k, as it was
    signs_along: Array  # (b, K, K) V^k . mu^l
    signs_bend: Array  # (b, K) V^k . H V^k
    gradient_sq: Array  # (K, K) sum_i g_i^k g_i^l, without m
    noise_sq: Array  # () sum_i sigma_i^2, without m


@dataclass(frozen=True)
class Predicted:
    """Of one step at batch B."""

    batch_tokens: float
    lr: Estimate  # Theorem 2: coordinates Gaussian and independent; at base width
    loss_drop: Estimate  # at that lr, nats
    lr_signs: Estimate  # Lemma 1 with the signs as they are, whatever their distribution
    drop_signs: Estimate
    bend_factor: Estimate  # mean V.H V over what Theorem 2 has for it
    expected: Estimate  # mean over coordinates of E_i(B)^2, from mu and sigma, if gradients are Gaussian
    agreed: Estimate  # the same, measured: how far the signs of two batches agree, 0 by chance and 1 always


@dataclass(frozen=True)
class Prediction:
    """Batches in tokens, lr at base width, losses in nats."""

    seq_len: int
    blocks: int
    block_tokens: float  # of gradients, a block
    batch_noise: Estimate  # Theorem 3
    lr_max: Estimate
    drop_max: Estimate  # Theorem 5
    bound: Estimate  # pi / (2 mean r_i^2), far below which Theorem 3 holds
    signs_noise: tuple[Estimate, Estimate]  # from where lr*(B) and the drop of Lemma 1 bend (`line_search.noise_batch`)
    noise_scale: Estimate  # of the gradient, tr Sigma / |G|^2 (McCandlish et al. 2018), which knows no Hessian
    holds_to: Estimate  # batch at which sum E_i mu_i is 10 % behind its small-batch form, sqrt(B)
    curve: tuple[Predicted, ...]
    notes: tuple[str, ...]


def predict_surge(sums: Sums, seq_len: int, block_seqs: int) -> Prediction:
    """Read all from the sums; every interval is a jackknife over blocks.

    Where the mean gradient cannot be told from its noise the validity bound has no meaning, and nothing that rests on
    it is identified; where the sum of off-diagonal terms is not above zero there is no surge, and B_noise is a bound.
    Raises ValueError if there are fewer than 3 blocks or no noise.
    """
    blocks = sums.trace.size
    if blocks < 3:
        raise ValueError(f"{blocks} blocks: an interval needs at least 3")
    how = f"jackknife over {blocks} blocks of {block_seqs} sequences"
    trace, slope, off = mean_replicates(sums.trace), pair_replicates(sums.slope), pair_replicates(sums.off_diagonal)
    along, bend, square = pair_replicates(sums.along), pair_replicates(sums.bend), pair_replicates(sums.ratio_sq)
    expected, agreed = pair_replicates(sums.expected), pair_replicates(sums.agreed)
    signs_along, signs_bend = pair_replicates(sums.signs_along), mean_replicates(sums.signs_bend.T)
    resolved, surges = above_zero(slope) and above_zero(square), above_zero(off)
    curve = tuple(
        Predicted(
            float(batch) * seq_len,
            ratio(along[:, b], trace + bend[:, b], "1", f"Theorem 2, {how}"),
            _drop(along[:, b], trace + bend[:, b], f"Theorem 2, {how}"),
            ratio(signs_along[:, b], signs_bend[:, b], "1", f"Lemma 1, {how}"),
            _drop(signs_along[:, b], signs_bend[:, b], f"Lemma 1, {how}"),
            ratio(signs_bend[:, b], trace + bend[:, b], "1", how),
            estimate(expected[:, b], "1", f"Gaussian gradients, {how}"),
            estimate(agreed[:, b], "1", how),
        )
        for b, batch in enumerate(sums.batch_seqs)
    )
    noise, lr_max, drop_max = (Estimate(None, None, None, u, "not_identified", how) for u in ("tokens", "1", "nats"))
    if resolved and above_zero(trace):
        noise = in_tokens(ratio(np.pi * trace, 2 * off, "tokens", f"Theorem 3, {how}"), seq_len)
    if noise.status == "ok" and surges:
        lr_max = estimate(slope / (2 * np.sqrt(trace * off)), "1", f"Theorem 3, {how}", positive=True)
        drop_max = estimate(slope**2 / (2 * off), "nats", f"Theorem 5, {how}", positive=True)
    behind = along / (np.sqrt(2 / np.pi * sums.batch_seqs) * slope[:, None])
    tokens = sums.batch_seqs * seq_len
    holds_to = _last_linear(tokens, behind, how) if resolved else noise
    lemma = (signs_along / signs_bend, signs_along**2 / (2 * signs_bend))
    return Prediction(
        seq_len=seq_len,
        blocks=blocks,
        block_tokens=float(block_seqs * seq_len),
        batch_noise=noise,
        lr_max=lr_max,
        drop_max=drop_max,
        bound=in_tokens(ratio(np.full_like(square, np.pi), 2 * square, "tokens", how), seq_len),
        signs_noise=noise_batch(tokens, *lemma, holds_to.value),
        noise_scale=in_tokens(
            ratio(np.full(blocks + 1, sums.noise_sq), pair_replicates(sums.gradient_sq), "tokens", how), seq_len
        ),
        holds_to=holds_to,
        curve=curve,
        notes=tuple(_notes(resolved, above_zero(trace), noise, holds_to, curve)),
    )


def above_zero(replicates: Array) -> bool:
    """Whether a statistic (K + 1,) is positive for sure (95 %, two-sided)."""
    half = student(len(replicates) - 2) * float(np.sqrt(covariance(replicates[:, None])[0, 0]))
    return bool(replicates[0] > half)


def _drop(along: Array, bend: Array, how: str) -> Estimate:
    """along^2 / (2 bend) of replicates (K + 1,); the interval is that of the root, which is more nearly Gaussian."""
    if not np.all(bend > 0):
        return Estimate(None, None, None, "nats", "not_identified", how)
    root = estimate(along / np.sqrt(2 * bend), "nats", how)
    value, low, high = (np.sign(x) * x**2 for x in (root.value or 0.0, root.low or 0.0, root.high or 0.0))
    if value <= 0:
        return bounded(None, None, max(float(high), 0.0), "nats", how)
    return bounded(float(value), max(float(low), 0.0), float(high), "nats", how)


def in_tokens(sequences: Estimate, seq_len: int) -> Estimate:
    """An estimate in sequences as one in tokens."""
    scaled = (None if x is None else x * seq_len for x in (sequences.value, sequences.low, sequences.high))
    return Estimate(*scaled, unit="tokens", status=sequences.status, method=sequences.method)


def _last_linear(batch: Array, behind: Array, how: str) -> Estimate:
    """Where `behind` (K + 1, b), by `batch` (b,), falls below SHORT; the interval's ends are batches of the grid."""
    half = student(len(behind) - 2) * np.sqrt(np.diag(covariance(behind)))
    sure = np.cumprod(behind[0] - half >= SHORT).astype(bool)
    over = behind[0] + half < SHORT
    low = float(batch[sure][-1]) if sure.any() else None
    high = float(batch[over][0]) if over.any() else None
    value, crossed = None, np.flatnonzero(behind[0] < SHORT)
    if crossed.size and crossed[0] > 0:
        after = int(crossed[0])
        x, y = np.log(batch[after - 1 : after + 1]), behind[0, after - 1 : after + 1]
        value = float(np.exp(x[0] + (x[1] - x[0]) * (y[0] - SHORT) / (y[0] - y[1])))
    return bounded(value, low, high, "tokens", how)


def _notes(
    resolved: bool, bowl: bool, noise: Estimate, holds_to: Estimate, curve: Sequence[Predicted]
) -> Iterator[str]:
    if not resolved:
        yield (
            "the mean gradient is not above its noise, so the validity bound pi sigma^2 / (2 mu^2) has no meaning and "
            "B_noise is not given: measure more sequences (--blocks, --max-batch-tokens)"
        )
    elif not bowl:
        yield "the trace of the Hessian is not above zero: theory gives no best learning rate here"
    elif noise.status != "ok":
        yield (
            "the sum of off-diagonal Hessian terms is not above zero for sure: no surge is seen, lr* may rise as "
            "sqrt(B) for ever; more blocks (--blocks) would tell"
        )
    elif noise.value is not None:
        if holds_to.value is not None and noise.value > holds_to.value:
            yield (
                f"B_noise of Theorem 3 is beyond {holds_to.value:.3g} tokens, up to which it holds within 10 %: lr*(B) "
                "does not peak there; read the curve of Theorem 2"
            )
        if not curve[0].batch_tokens <= noise.value <= curve[-1].batch_tokens:
            yield (
                f"B_noise of Theorem 3 is outside the batches that were measured, {curve[0].batch_tokens:.0f} to "
                f"{curve[-1].batch_tokens:.0f} tokens"
            )
    for point in curve[:1]:
        factor = point.bend_factor
        if factor.value is not None and factor.low is not None and factor.low > CORRELATED:
            yield (
                f"signs of different coordinates are not independent, as Theorems 2 and 3 have it: steps of B = "
                f"{point.batch_tokens:.0f} tokens bend the loss {factor.value:.3g} times as much"
            )
