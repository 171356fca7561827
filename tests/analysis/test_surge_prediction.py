"""Surge measured on Gaussian gradients with known mu, sigma and Hessian: what theory gives lies in the intervals."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy import special

from analysis.surge_prediction import Prediction, Sums, predict_surge
from analysis.surge_theory import expected_sign, sign_optimum, sign_scales, validity_bound
from tests.analysis.coverage import DRAWS, assert_covers, holds

SEQ_LEN, BLOCKS, BLOCK = 8, 16, 4096
BATCHES = 2.0 ** np.arange(0, 13)


class Toy(NamedTuple):
    mu: np.ndarray
    sigma: np.ndarray
    hessian: np.ndarray


def toy(strength: float = 0.01, pull: float = 60.0) -> Toy:
    """40 dimensions; `pull` is the curvature along the signs of mu: with it the off-diagonal sum is positive."""
    rng = np.random.default_rng(7)
    sigma = rng.uniform(0.5, 2.0, 40)
    mu = strength * sigma * rng.uniform(0.3, 1.0, 40) * rng.choice([-1, 1], 40)
    spread, sign = rng.normal(size=(40, 40)), np.sign(mu)
    return Toy(mu, sigma, spread @ spread.T + pull * np.outer(sign, sign))


def sums(q: Toy, seed: int, blocks: int = BLOCKS, size: int = BLOCK, hessian_noise: float = 3.0) -> Sums:
    """What a trainer measures of Gaussian gradients, and of a Hessian that is noisy in every block."""
    rng = np.random.default_rng(seed)
    grid = 2.0 ** np.arange(0, np.log2(size) + 1)
    nested = np.cumsum(
        [rng.standard_normal((blocks, 40)) * np.sqrt(step) for step in np.diff(grid, prepend=0.0)],
        axis=0,
    )  # (b, K, 40): sums of the noise of the first B sequences
    signs = np.sign(q.mu + q.sigma * nested / grid[:, None, None])
    mean = q.mu + q.sigma * nested[-1] / size
    noise = rng.standard_normal((blocks, 40, 40)) * hessian_noise
    h = q.hessian + (noise + np.swapaxes(noise, 1, 2)) / 2
    off = h * (1 - np.eye(40))
    r = mean / q.sigma
    with np.errstate(divide="ignore"):
        e = special.erf(np.sqrt(1 / (1 / grid - 1 / size) / 2)[:, None, None] * r)
    pairs = lambda x, y: x @ np.swapaxes(y, -1, -2)  # noqa: E731
    return Sums(
        batch_seqs=grid,
        trace=np.trace(h, axis1=1, axis2=2),
        slope=pairs(mean, r),
        off_diagonal=np.einsum("ki,kij,lj->kl", r, off, r),
        ratio_sq=pairs(r, r) / 40,
        along=pairs(e, mean),
        bend=np.einsum("bki,kij,blj->bkl", e, off, e),
        expected=pairs(e, e) / 40,
        agreed=pairs(signs, signs) / 40,
        signs_along=pairs(signs, mean),
        signs_bend=np.einsum("bki,kij,bkj->bk", signs, h, signs),
        gradient_sq=pairs(mean, mean),
        noise_sq=np.array((q.sigma**2).sum()),
    )


def predicted(q: Toy, seed: int = 0, **options: int) -> Prediction:
    return predict_surge(sums(q, seed, **options), SEQ_LEN, options.get("size", BLOCK))


def test_every_number_comes_back_within_its_interval():
    q = toy()
    scales = sign_scales(q.mu, q.sigma, q.hessian)
    exact = sign_optimum(q.mu, q.sigma, q.hessian, BATCHES)
    agreement = (expected_sign(q.mu, q.sigma, BATCHES) ** 2).mean(1)
    hits: dict[str, list[bool]] = {}

    def see(name: str, estimate: object, truth: float) -> None:
        hits.setdefault(name, []).append(holds(estimate, truth))  # pyright: ignore[reportArgumentType]

    for seed in range(DRAWS):
        found = predicted(q, seed)
        see("B_noise", found.batch_noise, scales.batch_noise * SEQ_LEN)
        see("lr_max", found.lr_max, scales.lr_max)
        see("drop_max", found.drop_max, scales.drop_max)
        see("noise scale", found.noise_scale, SEQ_LEN * (q.sigma**2).sum() / (q.mu**2).sum())
        see("bound", found.bound, SEQ_LEN * np.pi / 2 / np.mean((q.mu / q.sigma) ** 2))
        for b in (2, 8, 12):
            see(f"lr* at B = {BATCHES[b]:g}", found.curve[b].lr, exact.lr[b])
            see(f"loss drop at B = {BATCHES[b]:g}", found.curve[b].loss_drop, exact.loss_drop[b])
            see(f"lr* of real signs at B = {BATCHES[b]:g}", found.curve[b].lr_signs, exact.lr[b])
            see(f"loss drop of real signs at B = {BATCHES[b]:g}", found.curve[b].drop_signs, exact.loss_drop[b])
            see(f"E^2 at B = {BATCHES[b]:g}", found.curve[b].expected, agreement[b])
            see(f"agreement at B = {BATCHES[b]:g}", found.curve[b].agreed, agreement[b])
    for name, found in hits.items():
        assert_covers(name, found)


def test_independent_signs_bend_the_loss_as_theorem_2_has_it():
    q = toy()
    factors = np.array([[c.bend_factor.value for c in predicted(q, seed).curve] for seed in range(DRAWS)])
    assert factors.mean(0) == pytest.approx(1.0, abs=3.5 * factors.std(0).max() / DRAWS**0.5)


def test_the_expected_sign_has_no_bias_from_the_noise_of_the_mean():
    """At B = 1024, a quarter of a block, a plain erf of each block's ratio would be 12 % short."""
    q = toy()
    found = np.mean([predicted(q, seed).curve[10].expected.value for seed in range(100)])
    assert found == pytest.approx((expected_sign(q.mu, q.sigma, 1024.0) ** 2).mean(), rel=0.02)


def behind(q: Toy) -> np.ndarray:
    """sum E_i mu_i as a part of its small-batch form."""
    return expected_sign(q.mu, q.sigma, BATCHES) @ q.mu / (np.sqrt(2 * BATCHES / np.pi) * (q.mu**2 / q.sigma).sum())


def test_theorem_3_is_said_to_end_where_it_does():
    q = toy(strength=0.05)
    end = SEQ_LEN * np.exp(np.interp(-0.9, -behind(q), np.log(BATCHES)))
    assert BATCHES[2] < end / SEQ_LEN < BATCHES[-2]
    found = predicted(q).holds_to
    assert found.value == pytest.approx(end, rel=0.15)
    assert holds(found, end)
    assert end < SEQ_LEN * validity_bound(q.mu, q.sigma).min()
    weak = predicted(toy(strength=0.01)).holds_to
    assert (weak.status, weak.value) == ("lower_bound", None)


def test_no_mean_gradient_no_bound_and_no_noise_batch():
    q = toy()
    found = predicted(Toy(np.zeros(40), q.sigma, q.hessian))
    assert found.batch_noise.status == found.holds_to.status == "not_identified"
    assert found.bound.value is None
    assert "no meaning" in found.notes[0]


def test_without_off_diagonal_terms_there_is_no_surge():
    q = toy()
    found = predicted(Toy(q.mu, q.sigma, np.diag(np.diag(q.hessian))), hessian_noise=0)
    assert found.batch_noise.value is None
    assert (found.lr_max.status, found.drop_max.status) == ("not_identified", "not_identified")


def test_a_saddle_has_no_best_rate():
    q = toy()
    assert "trace" in predicted(Toy(q.mu, q.sigma, -q.hessian)).notes[0]


def test_beyond_the_bound_the_peak_is_not_where_theorem_3_puts_it():
    q = toy(strength=0.05, pull=2.0)
    noise = sign_scales(q.mu, q.sigma, q.hessian).batch_noise
    assert behind(q)[np.searchsorted(BATCHES, noise)] < 0.8
    found = predicted(q, hessian_noise=0)
    assert holds(found.batch_noise, noise * SEQ_LEN)
    assert any("beyond" in note for note in found.notes)


def test_signs_that_go_together_are_said_to():
    """Every batch has one sign for all coordinates, so that V.H V is far above what independent ones have."""
    q = toy()
    rng = np.random.default_rng(0)
    found = sums(q, 0)
    v = np.sign(q.mu) * rng.choice([-1, 1], (BATCHES.size, BLOCKS, 1))
    bent = found._replace(signs_bend=np.einsum("bki,ij,bkj->bk", v, q.hessian, v))
    notes = predict_surge(bent, SEQ_LEN, BLOCK).notes
    assert any("not independent" in note for note in notes)
    assert not any("not independent" in note for note in predict_surge(found, SEQ_LEN, BLOCK).notes)


def test_two_blocks_are_too_few():
    with pytest.raises(ValueError, match="at least 3"):
        predicted(toy(), blocks=2)
