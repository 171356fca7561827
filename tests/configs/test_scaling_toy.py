"""The scaling rules at work: torch's own Adam on replicas of a toy whose spread is known."""

import pytest
import torch

from configs.optimizers import TRAITS, own_rule
from configs.scaling import Recipe, rescaled
from configs.schema import OptimizerConfig, RunConfig
from configs.svag import batch_weights, stepped
from tests.configs.toy import BATCH, STEPS, batch_noise, final_std
from train.optimizers import make_optimizer

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


@pytest.mark.parametrize("kind", ["adam_lagged", "rmsprop", "rmsprop_lagged", "sign", "adagrad", "sgd"])
def test_each_optimizer_keeps_its_spread_under_its_own_rule_and_not_under_another(kind):
    """Four times the batch, to as many examples. SGD and Adagrad relax at other rates, so their lr differ."""
    before = Recipe(
        lr={"sgd": 1e-3, "adagrad": 0.1}.get(kind, 2e-3),
        beta1=0.9 if "beta1" in TRAITS[kind].uses else 0.0,
        beta2=0.99 if "beta2" in TRAITS[kind].uses else 0.0,
        eps=1e-8,
        weight_decay=0.0,
    )

    def spread(rule, kappa):
        recipe = rescaled(before, rule, kappa)
        config = OptimizerConfig(kind=kind, beta1=recipe.beta1, beta2=recipe.beta2)

        def optimizer(theta):
            return make_optimizer(
                [{"params": [theta], "lr": recipe.lr, "weight_decay": 0.0, "eps": recipe.eps}], config
            )

        return final_std(optimizer, batch_noise(BATCH * kappa), STEPS // kappa)

    alone = spread("none", 1)
    assert spread(own_rule(kind), 4) == pytest.approx(alone, rel=0.05)
    other = "lr" if own_rule(kind) in ("adagrad", "linear") else "linear"
    assert spread(other, 4) != pytest.approx(alone, rel=0.15)


@pytest.mark.parametrize(("kind", "length"), [("adamw", 2), ("adamw", 4), ("rmsprop", 2)])
def test_the_spread_under_svag_is_that_of_the_optimizer(kind, length):
    """After half as long as above: it has come to 0.93 of what it will be, and l = 4 takes 16 steps for one."""

    def spread(length):
        fields = {"kind": kind, "beta2": 0.99, "clip_norm": 0, "svag": length}
        config = stepped(RunConfig(lr=RECIPE.lr, optimizer=OptimizerConfig.model_validate(fields)))
        draw, weights = batch_noise(BATCH), batch_weights(length)

        def made(theta):
            groups = [{"params": [theta], "lr": config.lr, "weight_decay": 0.0, "eps": config.optimizer.eps}]
            return make_optimizer(groups, config.optimizer)

        def noise(random):
            return torch.stack([weight * draw(random) for weight in weights]).sum(0)

        return final_std(made, noise, STEPS // 2 * length**2)

    assert spread(length) == pytest.approx(spread(1), rel=0.05)


def test_svag_multiplies_the_noise_of_a_gradient():
    random = torch.Generator().manual_seed(0)
    for length in (2, 4, 8):
        draws = [torch.randn(10**5, generator=random) for _ in range(2)]
        noise = torch.stack([w * draw for w, draw in zip(batch_weights(length), draws, strict=True)]).sum(0)
        assert float(noise.var()) == pytest.approx(length**2, rel=0.02)
