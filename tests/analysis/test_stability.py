"""Thresholds are where quadratics turn unstable; catapults are counted by hand."""

from math import inf, nan

import numpy as np
import pytest
import torch

from analysis.stability import adam_threshold, catapults, gd_threshold, momentum_threshold

LR = 0.03
SPECTRUM = np.array([1.0, 0.3, 0.01])


def grown(step, steps=8000):
    """|x| after so many steps on a quadratic whose top sharpness is given by `step`'s closure, over that before."""
    x, m = np.full(3, 1e-3), np.zeros(3)
    before = np.linalg.norm(x)
    for _ in range(steps):
        x, m = step(x, m)
        if not np.linalg.norm(x) < 1e3:
            return inf
    return np.linalg.norm(x) / before


def stable(step_at):
    """Whether the steps at 0.999 and at 1.001 of the threshold stay."""
    return tuple(grown(step_at(factor)) < 2 for factor in (0.999, 1.001))


def test_gradient_descent_turns_unstable_at_its_threshold():
    def at(factor):
        h = SPECTRUM * factor * gd_threshold(LR)
        return lambda x, m: (x - LR * h * x, m)

    assert stable(at) == (True, False)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_momentum_turns_unstable_at_its_threshold(beta):
    def at(factor):
        h = SPECTRUM * factor * momentum_threshold(LR, beta)

        def step(x, m):
            m = h * x + beta * m
            return x - LR * m, m

        return step

    assert stable(at) == (True, False)


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
def test_adam_turns_unstable_at_its_threshold(beta1):
    """A full Hessian, rates of groups and a fixed P: the threshold holds for P^-1 H with the rates folded in."""
    rng = np.random.default_rng(0)
    multiplier, root = np.array([1.0, 0.25, 4.0]), rng.uniform(0.1, 10, 3)
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    raw = q @ np.diag(SPECTRUM) @ q.T
    p = root / multiplier
    top = np.linalg.eigvals(raw / p[:, None]).real.max()

    def at(factor):
        h = raw * factor * adam_threshold(LR, beta1) / top

        def step(x, m):
            m = beta1 * m + (1 - beta1) * h @ x
            return x - LR * multiplier * m / root, m

        return step

    assert stable(at) == (True, False)


@pytest.mark.parametrize(("factor", "stays"), [(0.999, True), (1.001, False)])
def test_torch_adam_with_a_settled_second_moment_does_so_too(factor, stays):
    """v is kept where it is; bias corrections are gone after 10^9 steps."""
    v = 4.0
    h = factor * adam_threshold(LR, 0.9) * v**0.5
    x = torch.nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))
    adam = torch.optim.AdamW([x], lr=LR, betas=(0.9, 0.5), eps=0.0, weight_decay=0.0)
    adam.state[x] = {"step": torch.tensor(1e9), "exp_avg": torch.zeros_like(x), "exp_avg_sq": torch.zeros_like(x)}
    for _ in range(8000):
        x.grad = gradient = h * x.detach()
        adam.state[x]["exp_avg_sq"].fill_(v * 2 - gradient.item() ** 2)  # what beta2 = 1/2 makes v again
        adam.step()
        if abs(x.item()) > 0.1:
            break
    assert (abs(x.item()) < 1e-2) == stays


def test_the_numbers_of_the_paper():
    assert adam_threshold(1.0, 0.9) == pytest.approx(38)
    assert momentum_threshold(0.5, 0.0) == gd_threshold(0.5) == 4
    assert gd_threshold(0.0) == momentum_threshold(0.0, 0.9) == adam_threshold(0.0, 0.9) == inf


def test_catapults_are_counted_once_each():
    losses = [5.0, 4.0, 6.0, 4.3, 3.9, 4.05, 4.2, 3.0, 2.0, 2.2]
    ratios = [0.5, 1.2, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 1.1]
    found = catapults(losses, ratios)
    assert found.starts == (2, 9)  # thrown by the step before; above while it flew
    assert found.spikes == 1  # 4.2 is above 1.05 x 3.9 and nothing was unstable
    assert found.height == pytest.approx(1.5)


def test_a_smooth_descent_has_none():
    found = catapults([3.0, 2.9, 3.0, 2.5], [2.0, 2.0, 2.0, 2.0])
    assert (found.starts, found.spikes, found.height) == ((), 0, 1.0)


def test_a_loss_that_is_not_finite_is_an_excursion():
    assert catapults([3.0, nan], [2.0, 0.0]).starts == (1,)
    assert catapults([3.0, inf, 2.0], [0.5, 0.5, 0.5]).height == inf
    assert catapults([], []).starts == ()
