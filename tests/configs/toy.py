"""A toy with a known answer: replicas of a one-dimensional quadratic under noise that dominates, one a coordinate.

Adam acts coordinate by coordinate, so a vector of replicas is as many independent runs. loss = theta^2 / 2; one
example's gradient has the standard deviation EXAMPLE_NOISE. With v = s^2, s the noise of a batch's gradient, theta
follows an Ornstein-Uhlenbeck process of rate lr / s and stationary variance lr s / 2: for lr 2e-3 and 16 examples a
relaxation time of 1000 steps and a standard deviation of 0.0447.
"""

from collections.abc import Callable

import torch
from torch import nn

REPLICAS, BATCH, EXAMPLE_NOISE = 4000, 16, 8.0
STEPS = 2000  # of a run at BATCH; other batches see as many examples


def final_std(
    optimizer_of: Callable[[nn.Parameter], torch.optim.Optimizer],
    gradient_noise: Callable[[torch.Generator], torch.Tensor],
    steps: int,
) -> float:
    """Standard deviation over replicas after `steps` from the minimum, from its middle half: a lagged v that a step
    has barely filled throws a few replicas far away.

    `gradient_noise` draws (REPLICAS,) errors of one step's gradient.
    """
    random = torch.Generator().manual_seed(steps)
    theta = nn.Parameter(torch.zeros(REPLICAS))
    optimizer = optimizer_of(theta)
    for _ in range(steps):
        theta.grad = theta.detach() + gradient_noise(random)
        optimizer.step()
    low, high = torch.quantile(theta.detach(), torch.tensor([0.25, 0.75]))
    return float(high - low) / 1.349


def batch_noise(batch: float) -> Callable[[torch.Generator], torch.Tensor]:
    """Errors of the mean gradient of `batch` examples."""
    return lambda random: EXAMPLE_NOISE / batch**0.5 * torch.randn(REPLICAS, generator=random)
