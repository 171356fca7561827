"""The scaling rules at work: torch's own Adam on replicas of a toy whose spread is known."""

import pytest
import torch

from configs.scaling import Recipe, rescaled
from tests.configs.toy import BATCH, STEPS, batch_noise, final_std

RECIPE = Recipe(lr=2e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.0)


@pytest.mark.parametrize(
    ("rule", "kappa", "std"),
    [
        ("sqrt", 1, 0.045),
        ("sqrt", 2, 0.045),
        ("sqrt", 4, 0.045),
        ("sqrt", 8, 0.045),
        ("half_life", 8, 0.045),
        ("linear", 4, 0.062),
        ("none", 4, 0.029),
    ],
)
def test_the_spread_after_equally_many_examples(rule, kappa, std):
    recipe = rescaled(RECIPE, rule, kappa)

    def optimizer(theta):
        return torch.optim.Adam([theta], lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True)

    assert final_std(optimizer, batch_noise(BATCH * kappa), STEPS // kappa) == pytest.approx(std, rel=0.03)
