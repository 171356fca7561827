"""One explicit table, parameter name -> role and multipliers, built once and turned into optimizer groups.

Roles come from names, never from shapes: a sharded or flattened tensor has lost its shape, not its name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mup.infshape import InfShape
from mup.shape import make_base_shapes, zip_infshapes
from torch import nn

from configs.errors import ConfigError
from configs.mup import Role, RoleRule, depth_ratio, rules
from configs.schema import ModelConfig, RunConfig

_ROLES: tuple[tuple[str, Role], ...] = (
    (r"model\.embed_tokens\.weight", "embedding"),
    (r"lm_head\.weight", "output"),
    (r"model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.weight", "residual_out"),
    (r"model\.layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.(gate|up)_proj)\.weight", "hidden"),
    (r"model\.norm\.weight", "final_norm"),
    (r"model\.layers\.\d+\..*norm\.weight", "norm"),
    (r".*\.bias", "bias"),
)


class ParametrizationError(RuntimeError):
    """The table disagrees with the model, with `mup`, or with what the engine made of it."""


@dataclass(frozen=True)
class Row:
    """How one parameter is drawn, scaled and stepped: its role's rule, and where it applies."""

    name: str
    shape: tuple[int, ...]
    role: Role
    rule: RoleRule


def role_of(name: str) -> Role:
    """Role of a parameter by its name. Raises ParametrizationError for a name that no pattern knows."""
    for pattern, role in _ROLES:
        if re.fullmatch(pattern, name):
            return role
    raise ParametrizationError(f"parameter {name}: its name has no role; add a pattern to train.parametrization")


def table(network: nn.Module, config: RunConfig) -> tuple[Row, ...]:
    """The parametrisation of every parameter of `network`, in its order; a tied head is no parameter of its own."""
    by_role = rules(config)
    return tuple(
        Row(
            name=name,
            shape=tuple(getattr(parameter, "ds_shape", parameter.shape)),  # ZeRO-3 leaves shards, and the shape here
            role=(role := role_of(name)),
            rule=by_role[role],
        )
        for name, parameter in network.named_parameters()
    )


def optimizer_groups(network: nn.Module, rows: Iterable[Row], config: RunConfig) -> list[dict[str, Any]]:
    """Optimizer groups: parameters with equal multipliers share one; `lr_multiplier` stays in the group for the loop.

    A group's `lr` is the peak; `weight_decay` and `eps` are already multiplied.
    """
    parameters = dict(network.named_parameters())
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for row in rows:
        rule = row.rule
        key = (rule.lr_multiplier, rule.weight_decay_multiplier, rule.eps_multiplier)
        group = groups.setdefault(
            key,
            {
                "params": [],
                "names": [],
                "lr": config.lr * rule.lr_multiplier,
                "lr_multiplier": rule.lr_multiplier,
                "weight_decay": config.optimizer.weight_decay * rule.weight_decay_multiplier,
                "eps": config.optimizer.eps * rule.eps_multiplier,
            },
        )
        group["params"].append(parameters[row.name])
        group["names"].append(row.name)
    return list(groups.values())


def base_shapes(model: ModelConfig, savefile: Path | None = None) -> Mapping[str, InfShape]:
    """The base shapes that `mup` infers from this model at one and two base widths; written to `savefile` if given.

    The file is mup's own format, for its `set_base_shapes`.
    """
    from train.model import skeleton

    # Head size does not grow with width here; where a model grows by it, base and delta have the base size.
    head_dim = model.base_head_dim or model.head_dim
    base, delta = (
        skeleton(model.model_copy(update={"width": factor * model.base_width, "head_dim": head_dim}))
        for factor in (1, 2)
    )
    return make_base_shapes(base, delta, savefile=str(savefile) if savefile else None)


def check_against_mup(
    target: nn.Module, base: Mapping[str, InfShape] | Path, rows: Iterable[Row], config: RunConfig
) -> None:
    """Compare the table with base shapes as `mup` infers them, or as a file of `mup`'s has them.

    Roles must agree with mup's count of infinite dimensions, the fan-in ratio of a matrix with mup's width multiplier,
    and under muP the learning rate of a hidden matrix must be divided by it, but for SGD, whose gradients already are.
    (`mup`'s own optimizers do the same; what else they do differs: see README.)
    Raises ParametrizationError naming the first parameter that disagrees, ConfigError for a file of another model.
    """
    model = config.model
    try:
        shapes = zip_infshapes(str(base) if isinstance(base, Path) else base, target)
    except AssertionError as error:
        raise ConfigError(f"{base}: base shapes of another model: {error}") from None
    for row in rows:
        shape, rule = shapes[row.name], row.rule
        expected = 2 if row.role in ("hidden", "residual_out") else 0 if _of_a_head(row.name) else 1
        if shape.ninf() != expected:
            raise ParametrizationError(
                f"parameter {row.name}: role {row.role} has {expected} width dimensions, mup infers {shape.ninf()}"
            )
        fan_in = shape.width_mult()
        if row.role in ("hidden", "residual_out", "output") and abs(rule.fan_in_ratio / fan_in - 1) > 1e-9:
            raise ParametrizationError(f"parameter {row.name}: fan-in ratio {rule.fan_in_ratio:g}, mup's is {fan_in:g}")
        by_depth, divided = depth_ratio(model) ** (model.depth_alpha - 1), rule.lr_multiplier * fan_in
        if config.optimizer.kind == "sgd":
            divided *= rule.eps_multiplier
        if model.parametrization == "mup" and expected == 2 and abs(divided / by_depth - 1) > 1e-9:
            raise ParametrizationError(
                f"parameter {row.name}: lr multiplier {rule.lr_multiplier:g}, mup's fan-in ratio is {fan_in:g}"
            )


def _of_a_head(name: str) -> bool:
    """Whether a parameter has a head's size, which width does not change."""
    return name.endswith(("q_norm.weight", "k_norm.weight"))


def verify(network: nn.Module, config: RunConfig) -> tuple[Row, ...]:
    """The table of `network`, after `mup` has agreed with it. Raises ParametrizationError."""
    from train.model import skeleton

    rows, target = table(network, config), skeleton(config.model)
    check_against_mup(target, base_shapes(config.model), rows, config)
    if [tuple(p.shape) for p in target.parameters()] != [row.shape for row in rows]:
        raise ParametrizationError("the model's shapes differ from those of its configuration")
    return rows
