"""What is known of each optimizer: the fields it uses, the memory of its state, and how it scales with the batch.

That a square-root rule holds for Adam and RMSprop, lagged or not, is shown in 2205.10287; for sign descent by the SDEs
of Compagnoni et al. 2024 (2411.15958): where noise dominates, the mean of sign(g) grows as sqrt(B) and its variance
does not change. With momentum that holds for a beta1 that stays: sign(m) forgets what size m has, so a beta1 that moves
would ask for another rate (tests/configs/test_scaling_toy.py). SGD's linear rule: Goyal et al. 2017 (1706.02677).
Adagrad's is derived here: its sum over steps of g^2 is k s^2 where noise s dominates; at kappa times the batch there
are kappa times fewer steps of kappa times less s^2, so sqrt(sum) falls as 1 / kappa, and a step of the same lr moves
the mean kappa times as far, its variance kappa times.
"""

from dataclasses import dataclass
from typing import Literal

from configs.errors import ConfigError
from configs.schema import OptimizerConfig, OptimizerKind, RunConfig

Rule = Literal["sqrt", "half_life", "linear", "lr", "none", "joint", "adagrad", "sign"]
SQUARE_ROOTS: tuple[Rule, ...] = ("sqrt", "half_life", "joint")
COMPARED: tuple[Rule, ...] = ("linear", "lr", "none")  # claim nothing, so they may be applied to any optimizer


@dataclass(frozen=True)
class Traits:
    """`moments`: numbers kept a parameter, in fp32. `rules`: which hold, the first is the usual one."""

    uses: tuple[str, ...]  # of the fields beta1, beta2 and eps
    moments: int
    rules: tuple[Rule, ...]
    no_rule: str = ""  # why none is known


TRAITS: dict[OptimizerKind, Traits] = {
    "adamw": Traits(("beta1", "beta2", "eps"), 2, SQUARE_ROOTS),
    "adam_lagged": Traits(("beta1", "beta2", "eps"), 2, SQUARE_ROOTS),
    "rmsprop": Traits(("beta2", "eps"), 1, SQUARE_ROOTS),
    "rmsprop_lagged": Traits(("beta2", "eps"), 1, SQUARE_ROOTS),
    "sign": Traits(("beta1",), 1, ("sign",)),
    "lion": Traits(
        ("beta1", "beta2"), 1, (), "its two averages of the gradient do not keep their proportion when the batch grows"
    ),
    "adafactor": Traits(("eps",), 0, (), "its memory grows with the number of steps, and a step's RMS is clipped"),
    "adagrad": Traits(("eps",), 1, ("adagrad",)),
    "sgd": Traits(("beta1",), 1, ("linear",)),
}


def check_optimizer(config: RunConfig) -> None:
    """Refuse fields that the optimizer would not look at, and engines it cannot live in. Raises ConfigError."""
    optimizer, stage = config.optimizer, config.engine.zero_stage
    for name in ("beta1", "beta2", "eps"):
        default = OptimizerConfig.model_fields[name].default
        if name not in TRAITS[optimizer.kind].uses and getattr(optimizer, name) != default:
            raise ConfigError(
                f"optimizer.{name} = {getattr(optimizer, name):g}: optimizer.kind = {optimizer.kind} has no {name}; "
                f"leave it at {default:g}"
            )
    if optimizer.second_moment != "zero" and optimizer.kind != "adamw":
        raise ConfigError(
            f"optimizer.second_moment = {optimizer.second_moment}: optimizer.kind = {optimizer.kind} has no bias "
            "correction that would make a warmup of it; leave it at zero"
        )
    if optimizer.kind == "adafactor" and stage:
        raise ConfigError(
            f"optimizer.kind = adafactor with engine.zero_stage = {stage}: ZeRO flattens matrices, and Adafactor needs "
            "their rows and columns; use engine.zero_stage 0 with precision fp32, or another optimizer"
        )


def own_rule(kind: OptimizerKind) -> Rule:
    """The scaling rule of an optimizer. Raises ConfigError if none is known."""
    traits = TRAITS[kind]
    if not traits.rules:
        raise ConfigError(f"optimizer.kind = {kind}: no scaling rule is known, {traits.no_rule}; {_compared()}")
    return traits.rules[0]


def check_rule(kind: OptimizerKind, rule: Rule) -> None:
    """Refuse a rule that claims what is not known of the optimizer. Raises ConfigError."""
    if rule not in (*TRAITS[kind].rules, *COMPARED):
        known = own_rule(kind)
        raise ConfigError(f"--rule {rule} is not known to hold for optimizer.kind = {kind}: its rule is {known}")


def _compared() -> str:
    return f"--rule {', '.join(COMPARED[:-1])} or {COMPARED[-1]} changes a recipe without a claim"
