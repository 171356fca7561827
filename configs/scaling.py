"""Scaling rules: what a recipe becomes at kappa times the batch, so that training goes the same way per token.

While noise dominates, Adam and RMSprop follow an SDE in t = steps x lr^2. It stays the same SDE if sigma x lr,
(1 - beta) / lr^2 and eps x lr do, sigma ~ B^-1/2 being the noise of a batch's gradient: the square-root rule.
Everything that is given in tokens (budget, warmup, decay, averages) keeps its tokens.

Sources: Malladi et al. 2022 (arXiv 2205.10287), def. 5.2 and the next; half-lives in tokens: Marek et al. 2025
(2507.07101); the linear rule: Goyal et al. 2017 (1706.02677); batch and horizon: Complete(d)P (2512.22382).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import ConfigError
from configs.optimizers import Rule


@dataclass(frozen=True)
class Recipe:
    """What a rule changes. `decay_follows_lr`: a step shrinks weights by lr x weight_decay, else by weight_decay."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decay_follows_lr: bool = True


def rescaled(recipe: Recipe, rule: Rule, batch_ratio: float, budget_ratio: float = 1.0) -> Recipe:
    """The recipe at batch_ratio x B tokens a step and budget_ratio x T tokens in all.

    `joint` is the square-root rule for kappa = batch_ratio / budget_ratio: steps x lr^2, the time of the SDE, stays
    over a run of another length. The other rules know nothing of the horizon.
    Raises ConfigError where the rule has no meaning.
    """
    return RULES[rule](recipe, batch_ratio / budget_ratio if rule == "joint" else batch_ratio)


def square_root(recipe: Recipe, kappa: float) -> Recipe:
    """lr sqrt(kappa), 1 - kappa (1 - beta), eps / sqrt(kappa); decay per token stays. ConfigError beyond its reach."""
    return replace(
        half_life(recipe, kappa),
        beta1=_linear_beta("beta1", recipe.beta1, kappa),
        beta2=_linear_beta("beta2", recipe.beta2, kappa),
    )


def half_life(recipe: Recipe, kappa: float) -> Recipe:
    """The square-root rule with beta^kappa, which keeps the half-life in tokens exactly and never leaves [0, 1)."""
    root = kappa**0.5
    return replace(
        recipe,
        lr=recipe.lr * root,
        beta1=recipe.beta1**kappa,
        beta2=recipe.beta2**kappa,
        eps=recipe.eps / root,
        weight_decay=recipe.weight_decay * (root if recipe.decay_follows_lr else kappa),
    )


def linear(recipe: Recipe, kappa: float) -> Recipe:
    """lr kappa and nothing else but the decay per token kept: the rule of SGD, an alternative to compare with."""
    return replace(
        recipe, lr=recipe.lr * kappa, weight_decay=recipe.weight_decay * (1 if recipe.decay_follows_lr else kappa)
    )


def lr_only(recipe: Recipe, kappa: float) -> Recipe:
    """lr sqrt(kappa) and nothing else: an alternative to compare with."""
    return replace(recipe, lr=recipe.lr * kappa**0.5)


def adagrad(recipe: Recipe, kappa: float) -> Recipe:
    """lr stays, eps / kappa, decay per token stays: see `configs.optimizers`."""
    return replace(recipe, eps=recipe.eps / kappa, weight_decay=recipe.weight_decay * kappa)


def sign(recipe: Recipe, kappa: float) -> Recipe:
    """lr sqrt(kappa), beta1 stays, decay per token stays: see `configs.optimizers`."""
    return replace(half_life(recipe, kappa), beta1=recipe.beta1, beta2=recipe.beta2, eps=recipe.eps)


RULES: dict[Rule, Callable[[Recipe, float], Recipe]] = {
    "sqrt": square_root,
    "half_life": half_life,
    "linear": linear,
    "lr": lr_only,
    "none": lambda recipe, kappa: recipe,
    "joint": square_root,
    "adagrad": adagrad,
    "sign": sign,
}


def half_life_tokens(beta: float, batch_tokens: int) -> float:
    """Tokens after which a moment has forgotten half of a gradient; 0 for beta = 0."""
    return -batch_tokens / math.log2(beta) if beta else 0.0


def decay_timescale(batch_tokens: float, lr: float, weight_decay: float, budget_tokens: float) -> float:
    """tau = B / (lr lambda T): the share of a run over which AdamW averages its weights (Bergsma et al., 2505.13738).

    Infinite without decay. `lr` and `weight_decay` as their product shrinks a matrix at each step, at the peak.
    """
    return batch_tokens / (lr * weight_decay * budget_tokens) if weight_decay else math.inf


def _linear_beta(name: str, beta: float, kappa: float) -> float:
    """1 - kappa (1 - beta); an absent moment (0) stays absent."""
    if beta and kappa * (1 - beta) > 1 - 1e-12:  # 10 x (1 - 0.9) is 1 to rounding
        raise ConfigError(
            f"optimizer.{name} = {beta:g}: the square-root rule has no meaning at {kappa:g} times the batch, since "
            f"kappa (1 - {name}) = {kappa * (1 - beta):.4g} must stay below 1: use --rule half_life, or a batch below "
            f"{1 / (1 - beta):.6g} times the old one"
        )
    return 1 - kappa * (1 - beta) if beta else 0.0
