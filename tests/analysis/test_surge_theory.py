"""The one-step optimum against brute force: batches of gradients are drawn, steps are taken, losses are averaged."""

from typing import NamedTuple

import numpy as np
import pytest

from analysis.surge_theory import (
    expected_sign,
    loss_drop,
    lr_max_of_sgd,
    lr_max_of_signs,
    one_step_optimum,
    sgd_lr,
    sgd_scales,
    sign_lr,
    sign_optimum,
    sign_plateau,
    sign_scales,
    validity_bound,
)

DRAWS = 200_000


class Quadratic(NamedTuple):
    mu: np.ndarray
    sigma: np.ndarray
    hessian: np.ndarray

    @property
    def bound(self) -> float:
        return float(validity_bound(self.mu, self.sigma).min())


def quadratic() -> Quadratic:
    """40 dimensions whose mean signs agree with H's heaviest direction, so that the off-diagonal sum is positive."""
    rng = np.random.default_rng(7)
    sigma = rng.uniform(0.5, 2.0, 40)
    mu = 0.01 * sigma * rng.uniform(0.3, 1.0, 40) * rng.choice([-1, 1], 40)
    spread = rng.normal(size=(40, 40))
    sign = np.sign(mu)
    return Quadratic(mu, sigma, spread @ spread.T + 60 * np.outer(sign, sign))


def brute_force(q: Quadratic, batch: float, signs: bool, seed: int) -> tuple[float, float]:
    """lr* and loss drop from the mean loss of DRAWS steps, each V by itself: L = -lr G.V + lr^2 V.H V / 2."""
    rng = np.random.default_rng(seed)
    gradient = q.mu + q.sigma / np.sqrt(batch) * rng.standard_normal((DRAWS, q.mu.size))
    v = np.sign(gradient) if signs else gradient
    along, bend = np.mean(v @ q.mu), np.mean(np.einsum("ni,ni->n", v @ q.hessian, v))
    lr = along / bend
    losses = -lr * (v @ q.mu) + 0.5 * lr**2 * np.einsum("ni,ni->n", v @ q.hessian, v)
    return float(lr), float(-losses.mean())


@pytest.mark.parametrize("batch", [2**8, 2**10, 2**13, 2**16, 2**22])
def test_theorem_2_is_what_sign_steps_do(batch):
    q = quadratic()
    lr, drop = brute_force(q, batch, signs=True, seed=batch)
    found = sign_optimum(q.mu, q.sigma, q.hessian, batch)
    assert found.lr[0] == pytest.approx(lr, rel=0.03)
    assert found.loss_drop[0] == pytest.approx(drop, rel=0.03)


def test_theorem_3_holds_well_below_the_bound_and_fails_beyond_it():
    q = quadratic()
    scales = sign_scales(q.mu, q.sigma, q.hessian)
    assert scales.batch_noise < q.bound / 10  # the peak is inside the region that is tested
    batches = 2.0 ** np.arange(0, np.floor(np.log2(q.bound / 10)) + 1)
    exact = sign_optimum(q.mu, q.sigma, q.hessian, batches)
    assert sign_lr(scales, batches) == pytest.approx(exact.lr, rel=0.03)
    assert loss_drop(scales, batches) == pytest.approx(exact.loss_drop, rel=0.06)  # a square of what is tested above
    beyond = np.array([100 * q.bound])
    assert sign_lr(scales, beyond) < 0.5 * sign_optimum(q.mu, q.sigma, q.hessian, beyond).lr


def test_theorem_3_is_what_sign_steps_do_well_below_the_bound():
    q = quadratic()
    scales = sign_scales(q.mu, q.sigma, q.hessian)
    for batch in (scales.batch_noise, q.bound / 10):
        assert sign_lr(scales, batch) == pytest.approx(brute_force(q, batch, signs=True, seed=1)[0], rel=0.03)


def test_theorem_4_is_the_plateau():
    q = quadratic()
    plateau = sign_plateau(q.mu, q.hessian)
    assert sign_optimum(q.mu, q.sigma, q.hessian, 1e4 * q.bound).lr[0] == pytest.approx(plateau, rel=0.01)
    assert brute_force(q, 1e4 * q.bound, signs=True, seed=2)[0] == pytest.approx(plateau, rel=0.01)


def test_sgd_saturates_linearly():
    q = quadratic()
    scales = sgd_scales(q.mu, np.diag(q.sigma**2), q.hessian)
    batches = scales.batch_noise * 2.0 ** np.arange(-8, 9, 2)
    lemma = one_step_optimum(q.mu @ q.mu, np.trace(q.hessian @ np.diag(q.sigma**2)) / batches, q.mu @ q.hessian @ q.mu)
    assert sgd_lr(scales, batches) == pytest.approx(lemma.lr, rel=1e-6)
    assert loss_drop(scales, batches) == pytest.approx(lemma.loss_drop, rel=1e-6)
    lr, drop = brute_force(q, scales.batch_noise, signs=False, seed=3)
    assert (lr, drop) == pytest.approx((scales.lr_max / 2, scales.drop_max / 2), rel=0.03)


def test_a_diagonal_hessian_has_no_surge():
    q = quadratic()
    diagonal = np.diag(np.diag(q.hessian))
    assert sign_scales(q.mu, q.sigma, diagonal).batch_noise == np.inf
    lr = sign_optimum(q.mu, q.sigma, diagonal, [64.0, 256.0]).lr
    assert lr[1] / lr[0] == pytest.approx(2.0, rel=0.02)  # sqrt(B) for ever


def test_signs_that_never_waver():
    assert expected_sign([2.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 4.0]).tolist() == [[1, -1, 0], [1, -1, 0]]
    assert np.isnan(one_step_optimum(1.0, 0.0, -2.0).lr)  # downhill for ever: no best step


def test_the_largest_rate_is_recovered_from_measured_ones():
    batches, noise = 2.0 ** np.arange(4, 14), 700.0
    surged = 3e-3 * 2 / (np.sqrt(noise / batches) + np.sqrt(batches / noise))
    assert lr_max_of_signs(surged, batches, noise) == pytest.approx(3e-3, rel=1e-10)
    for alpha in (1.0, 0.5):
        assert lr_max_of_sgd(3e-3 * (1 + noise / batches) ** -alpha, batches, noise, alpha) == pytest.approx(
            3e-3, rel=1e-10
        )
