"""Estimates of the noise scale on Gaussian gradients whose noise scale is known."""

import numpy as np
import pytest

from analysis.noise_scale import Moments, signal_to_noise, smoothed_scale, two_batch
from tests.analysis.coverage import DRAWS, assert_covers, holds

DIM, SMALL, PARTS = 40, 512, 4  # tokens of a part, parts of a step
BIG = SMALL * PARTS
SCALE = 4096.0  # tokens, planted


def gradients(steps: int, rng: np.random.Generator, scale: float | np.ndarray = SCALE) -> np.ndarray:
    """(steps, PARTS, DIM): |G|^2 = 1 and tr Sigma = `scale` for one token."""
    mu = np.full(DIM, DIM**-0.5)
    sigma = np.sqrt(np.asarray(scale) / DIM / SMALL)
    return mu + np.reshape(sigma, (-1, 1, 1)) * rng.standard_normal((steps, PARTS, DIM))


def moments(parts: np.ndarray) -> Moments:
    """What a trainer sees of (steps, parts, dim): the parts' mean squared norm and that of their mean."""
    return two_batch(np.mean((parts**2).sum(-1), axis=1), (parts.mean(1) ** 2).sum(-1), SMALL, BIG)


def test_both_moments_are_unbiased():
    found = moments(gradients(40_000, np.random.default_rng(0)))
    for values, truth in ((found.mean_sq, 1.0), (found.trace, SCALE)):
        assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(values.size)
    assert found.mean_sq.min() < 0  # as an unbiased estimate of a small number must be able to


def test_the_noise_scale_of_gaussians():
    tokens = BIG * np.arange(1, 4001)
    *_, last = smoothed_scale(tokens, moments(gradients(4000, np.random.default_rng(1))), half_life_tokens=1000 * BIG)
    assert last.value == pytest.approx(SCALE, rel=0.05)
    assert last.low < SCALE < last.high
    assert (last.unit, last.status) == ("tokens", "ok")


def test_a_mean_of_ratios_would_not_do():
    found = moments(gradients(4000, np.random.default_rng(1)))
    assert abs(np.mean(found.trace / found.mean_sq) / SCALE - 1) > 0.2


def test_ranks_are_as_good_as_micro_batches():
    """Four parts are four parts, on one rank or on four; a mean over a rank's own two parts is another split."""
    parts = gradients(4000, np.random.default_rng(2))
    on_two_ranks = parts.reshape(-1, 2, 2, DIM).mean(2)
    coarse = two_batch(np.mean((on_two_ranks**2).sum(-1), axis=1), (on_two_ranks.mean(1) ** 2).sum(-1), 2 * SMALL, BIG)
    fine = moments(parts)
    assert coarse.trace.mean() / coarse.mean_sq.mean() == pytest.approx(
        fine.trace.mean() / fine.mean_sq.mean(), rel=0.05
    )


def test_it_follows_a_noise_scale_that_grows():
    steps = 4000
    tokens = BIG * np.arange(1, steps + 1)
    found = moments(gradients(steps, np.random.default_rng(3), np.linspace(1000, 5000, steps)))
    by_tokens = list(smoothed_scale(tokens, found, half_life_tokens=150 * BIG))
    assert by_tokens[1000].value == pytest.approx(2000, rel=0.15)
    assert by_tokens[-1].value == pytest.approx(5000, rel=0.15)


def test_smoothing_is_in_tokens():
    """Records of twice the tokens count twice: the same steps, recorded in pairs, give the same noise scale."""
    found = moments(gradients(512, np.random.default_rng(4)))
    tokens = BIG * np.arange(1, 513)
    *_, fine = smoothed_scale(tokens, found, half_life_tokens=1e12)
    *_, paired = smoothed_scale(
        tokens[1::2], Moments(*(m.reshape(-1, 2).mean(1) for m in found)), half_life_tokens=1e12
    )
    assert paired.value == pytest.approx(fine.value, rel=1e-9)


def test_noise_without_a_mean_is_a_lower_bound():
    rng = np.random.default_rng(5)
    parts = gradients(50, rng) - np.full(DIM, DIM**-0.5)
    *_, last = smoothed_scale(BIG * np.arange(1, 51), moments(parts), half_life_tokens=1e9)
    assert last.value is None
    assert last.status in ("lower_bound", "not_identified")


def test_coverage():
    rng = np.random.default_rng(6)
    tokens = BIG * np.arange(1, 65)
    found = []
    for _ in range(DRAWS):
        *_, last = smoothed_scale(tokens, moments(gradients(64, rng)), half_life_tokens=1e12)
        found.append(holds(last, SCALE))
    assert_covers("noise scale", found)


def test_signal_to_noise_is_one_at_the_noise_scale():
    assert signal_to_noise(Moments(np.array([1.0]), np.array([SCALE])), SCALE) == pytest.approx([1.0])
