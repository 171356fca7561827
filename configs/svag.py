"""SVAG: an optimizer simulates its own SDE, to see whether the SDE describes it (Malladi et al. 2022, 2205.10287).

Every step draws two independent batches of B tokens at the same weights and steps with g = r1 g1 + r2 g2,
r = (1 +- sqrt(2 l^2 - 1)) / 2: the mean of the gradient stays, its noise is l times as large. The recipe is that of the
square-root rule at kappa = 1 / l^2: lr / l, 1 - (1 - beta) / l^2, eps x l. There are l^2 steps where there was one: a
step moves a run on by B / l^2 of its tokens, and budget, schedule, readouts and averages stay where they were: runs are
compared at equal tokens. As l grows a run approaches the SDE; l = 1 is the optimizer itself, with weights 1 and 0, so
no second batch is drawn. What is read of the data is 2 l^2 times the budget, each token once.
"""

import math

from configs.errors import ConfigError
from configs.optimizers import SQUARE_ROOTS, TRAITS
from configs.scaling import Recipe, square_root
from configs.schema import RunConfig


def batch_weights(length: int) -> tuple[float, ...]:
    """r1 and r2, whose sum is 1 and whose squares sum to l^2; r1 alone for l = 1."""
    root = math.sqrt(2 * length**2 - 1)
    return ((1 + root) / 2, (1 - root) / 2) if length > 1 else (1.0,)


def length_of(config: RunConfig) -> int:
    """l; 1 for a run without SVAG."""
    return config.optimizer.svag or 1


def step_tokens(config: RunConfig) -> int:
    """By how much of its budget a step moves the run on: B, or B / l^2."""
    return config.batch_tokens // length_of(config) ** 2


def read_tokens(config: RunConfig) -> int:
    """Tokens of data that a step reads: B, or 2 B."""
    return config.batch_tokens * len(batch_weights(length_of(config)))


def stepped(config: RunConfig) -> RunConfig:
    """The run with the lr, betas, eps and decay that its optimizer steps with; the same run where l = 1."""
    length, optimizer = length_of(config), config.optimizer
    if length == 1:
        return config
    recipe = square_root(
        Recipe(
            lr=config.lr,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            decay_follows_lr=optimizer.decay_rule != "independent",
        ),
        1 / length**2,
    )
    changed = {name: getattr(recipe, name) for name in ("beta1", "beta2", "eps", "weight_decay")}
    return config.model_copy(update={"lr": recipe.lr, "optimizer": optimizer.model_copy(update=changed)})


def check_svag(config: RunConfig) -> None:
    """Refuse what SVAG is not defined for. Raises ConfigError."""
    length, kind = length_of(config), config.optimizer.kind
    if length == 1:
        return
    if not set(TRAITS[kind].rules) & set(SQUARE_ROOTS):
        raise ConfigError(
            f"optimizer.svag = {length} with optimizer.kind = {kind}: SVAG is known for Adam and RMSprop; use one of "
            "them, lagged or not, or leave svag empty"
        )
    if config.optimizer.clip_norm:
        raise ConfigError(
            f"optimizer.clip_norm = {config.optimizer.clip_norm:g} with optimizer.svag = {length}: its gradients are "
            f"{length} times as noisy, so the same limit would clip more of them: use optimizer.clip_norm = 0 at every "
            "svag, also 1"
        )
    if config.batch_tokens % length**2:
        below = config.batch_tokens // length**2 * length**2
        raise ConfigError(
            f"batch_tokens = {config.batch_tokens} is not a multiple of optimizer.svag^2 = {length**2}: use "
            f"{' or '.join(str(b) for b in (below, below + length**2) if b)}"
        )
