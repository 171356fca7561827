import math

import pytest

from configs.errors import ConfigError
from configs.optimizers import check_rule, own_rule
from configs.scaling import RULES, Recipe, decay_timescale, half_life_tokens, rescaled

ADAM = Recipe(lr=2e-3, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1)
RMSPROP = Recipe(lr=2e-3, beta1=0.0, beta2=0.99, eps=1e-8, weight_decay=0.1, decay_follows_lr=False)
KAPPAS = (0.25, 1.0, 2.0, 8.0)


def invariants(recipe: Recipe, batch: float, budget: float = 1.0) -> list[float]:
    """What the SDE is made of: noise, time, memories, eps, and the decay over a run."""
    steps, decay = budget / batch, recipe.lr if recipe.decay_follows_lr else 1.0
    return [
        recipe.lr / batch**0.5,
        (1 - recipe.beta1) / recipe.lr**2 if recipe.beta1 else 0.0,
        (1 - recipe.beta2) / recipe.lr**2,
        recipe.eps * recipe.lr,
        steps * decay * recipe.weight_decay,
        steps * recipe.lr**2,
    ]


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("recipe", [ADAM, RMSPROP])
def test_the_square_root_rule_keeps_the_sde(recipe, kappa):
    assert invariants(rescaled(recipe, "sqrt", kappa), kappa) == pytest.approx(invariants(recipe, 1.0), rel=1e-12)


@pytest.mark.parametrize(("batch", "budget"), [(4.0, 4.0), (2.0, 1.0), (1.0, 4.0), (8.0, 2.0)])
def test_the_joint_rule_keeps_all_of_the_sde_but_its_noise(batch, budget):
    """A longer run of the same SDE time has less noise: sigma x lr falls as budget^-1/2."""
    noise, *rest = invariants(rescaled(ADAM, "joint", batch, budget), batch, budget)
    noise_before, *before = invariants(ADAM, 1.0)
    assert rest == pytest.approx(before, rel=1e-12)
    assert noise == pytest.approx(noise_before / budget**0.5, rel=1e-12)


@pytest.mark.parametrize("kappa", [*KAPPAS, 64.0])
def test_half_lives_in_tokens_stay(kappa):
    new = rescaled(ADAM, "half_life", kappa)
    for old_beta, new_beta in ((ADAM.beta1, new.beta1), (ADAM.beta2, new.beta2)):
        assert half_life_tokens(new_beta, round(1024 * kappa)) == pytest.approx(
            half_life_tokens(old_beta, 1024), rel=1e-12
        )
    assert half_life_tokens(0.5, 1024) == 1024
    assert half_life_tokens(0.0, 1024) == 0


def test_half_life_and_square_root_agree_to_first_order():
    one, other = (rescaled(ADAM, rule, 1.001) for rule in ("sqrt", "half_life"))
    assert one.beta1 == pytest.approx(other.beta1, abs=1e-5)
    assert (one.lr, one.eps, one.weight_decay) == (other.lr, other.eps, other.weight_decay)


@pytest.mark.parametrize("rule", ["sqrt", "joint"])
def test_beyond_its_reach_the_rule_is_refused(rule):
    with pytest.raises(ConfigError, match=r"optimizer.beta1 = 0.9: .*kappa \(1 - beta1\) = 1 must stay below 1"):
        rescaled(ADAM, rule, 10.0)
    assert rescaled(RMSPROP, rule, 10.0).beta1 == 0  # no moment, no limit


def test_there_and_back():
    for rule in RULES:
        back = rescaled(rescaled(ADAM, rule, 4.0, 2.0), rule, 0.25, 0.5)
        assert (back.lr, back.beta1, back.beta2, back.eps, back.weight_decay) == pytest.approx(
            (ADAM.lr, ADAM.beta1, ADAM.beta2, ADAM.eps, ADAM.weight_decay), rel=1e-12
        )


def test_alternatives_by_hand():
    assert rescaled(ADAM, "linear", 4.0) == Recipe(8e-3, 0.9, 0.99, 1e-8, 0.1)
    assert rescaled(ADAM, "lr", 4.0) == Recipe(4e-3, 0.9, 0.99, 1e-8, 0.1)
    assert rescaled(ADAM, "none", 4.0) == ADAM
    assert rescaled(RMSPROP, "linear", 4.0).weight_decay == pytest.approx(0.4)  # it does not follow lr: decay a token


def test_the_timescale_of_weight_decay():
    """Power Lines: tau = B / (lr lambda D). 0.5 M tokens a step, lr 2^-6, decay 0.1, 20 G tokens."""
    assert decay_timescale(2**19, 2**-6, 0.1, 2e10) == pytest.approx(0.016777216)
    assert decay_timescale(2**19, 2**-6, 0.0, 2e10) == math.inf


@pytest.mark.parametrize("kind", ["lion", "adafactor"])
def test_where_no_rule_is_known_that_is_said(kind):
    with pytest.raises(ConfigError, match=f"{kind}: no scaling rule is known, .*--rule linear, lr or none"):
        own_rule(kind)
    check_rule(kind, "linear")


def test_a_rule_of_another_optimizer_is_refused():
    with pytest.raises(
        ConfigError, match=r"--rule sqrt is not known to hold for optimizer.kind = sgd: its rule is linear"
    ):
        check_rule("sgd", "sqrt")
