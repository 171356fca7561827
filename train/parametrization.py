"""One explicit table, parameter name -> role and multipliers, built once and turned into optimizer groups.

Roles come from names, never from shapes: a sharded or flattened tensor has lost its shape, not its name.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mup.shape import make_base_shapes, zip_infshapes
from torch import nn

from configs.mup import Role, rules
from configs.schema import ModelConfig, RunConfig

_ROLES: tuple[tuple[str, Role], ...] = (
    (r"model\.embed_tokens\.weight", "embedding"),
    (r"lm_head\.weight", "output"),
    (r"model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)\.weight", "residual_out"),
    (r"model\.layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.(gate|up)_proj)\.weight", "hidden"),
    (r"(.*\.)?[a-z_]*norm\.weight", "norm"),
    (r".*\.bias", "bias"),
)


class ParametrizationError(RuntimeError):
    """The table disagrees with the model, with `mup`, or with what the engine made of it."""


@dataclass(frozen=True)
class Row:
    """How one parameter is drawn, scaled and stepped."""

    name: str
    shape: tuple[int, ...]
    role: Role
    init_std: float
    lr_multiplier: float
    weight_decay_multiplier: float
    eps_multiplier: float


def role_of(name: str) -> Role:
    """Role of a parameter by its name. Raises ParametrizationError for a name that no pattern knows."""
    for pattern, role in _ROLES:
        if re.fullmatch(pattern, name):
            return role
    raise ParametrizationError(f"parameter {name}: its name has no role; add a pattern to train.parametrization")


def table(network: nn.Module, model: ModelConfig) -> tuple[Row, ...]:
    """The parametrisation of every parameter of `network`, in its order."""
    by_role = rules(model)
    return tuple(
        Row(
            name=name,
            shape=tuple(getattr(parameter, "ds_shape", parameter.shape)),  # ZeRO-3 leaves shards, and the shape here
            role=(role := role_of(name)),
            init_std=by_role[role].init_std,
            lr_multiplier=by_role[role].lr_multiplier,
            weight_decay_multiplier=by_role[role].weight_decay_multiplier,
            eps_multiplier=by_role[role].eps_multiplier,
        )
        for name, parameter in network.named_parameters()
    )


def optimizer_groups(network: nn.Module, rows: Iterable[Row], config: RunConfig) -> list[dict[str, Any]]:
    """AdamW groups: parameters with equal multipliers share one; `lr_multiplier` stays in the group for the loop.

    A group's `lr` is the peak; `weight_decay` and `eps` are already multiplied.
    """
    parameters = dict(network.named_parameters())
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for row in rows:
        key = (row.lr_multiplier, row.weight_decay_multiplier, row.eps_multiplier)
        group = groups.setdefault(
            key,
            {
                "params": [],
                "names": [],
                "lr": config.lr * row.lr_multiplier,
                "lr_multiplier": row.lr_multiplier,
                "weight_decay": config.optimizer.weight_decay * row.weight_decay_multiplier,
                "eps": config.optimizer.eps * row.eps_multiplier,
            },
        )
        group["params"].append(parameters[row.name])
        group["names"].append(row.name)
    return list(groups.values())


def check_against_mup(
    target: nn.Module, base: nn.Module, delta: nn.Module, rows: Iterable[Row], model: ModelConfig
) -> None:
    """Compare the table with the base shapes that `mup` infers from three (meta) models.

    Roles must agree with mup's count of infinite dimensions, and under muP the learning-rate multiplier of a
    hidden matrix must be base fan-in / fan-in as mup sees it. (`mup`'s own optimizer would also divide the rate of
    the last role, "output", only by its readout multiplier, which is our forward multiplier.)
    Raises ParametrizationError naming the first parameter that disagrees.
    """
    shapes = zip_infshapes(make_base_shapes(base, delta), target)
    for row in rows:
        infinite = shapes[row.name].ninf()
        expected = 2 if row.role in ("hidden", "residual_out") else 1
        if infinite != expected:
            raise ParametrizationError(
                f"parameter {row.name}: role {row.role} has {expected} width dimensions, mup infers {infinite}"
            )
        if model.parametrization == "mup" and infinite == 2:
            fan_in = shapes[row.name].width_mult()
            if abs(row.lr_multiplier * fan_in - 1) > 1e-9:
                raise ParametrizationError(
                    f"parameter {row.name}: lr multiplier {row.lr_multiplier:g}, mup's fan-in ratio is {fan_in:g}"
                )


def verify(network: nn.Module, model: ModelConfig) -> tuple[Row, ...]:
    """The table of `network`, after `mup` has agreed with it."""
    from train.model import skeleton

    rows = table(network, model)
    # Head size does not enter any parameter's shape, so the base head serves all three models.
    head_dim = model.base_head_dim or model.head_dim
    narrow, wide = (
        model.model_copy(update={"width": factor * model.base_width, "head_dim": head_dim}) for factor in (1, 2)
    )
    base, delta = skeleton(narrow), skeleton(wide)
    target = skeleton(model)
    check_against_mup(target, base, delta, rows, model)
    if [tuple(p.shape) for p in target.parameters()] != [row.shape for row in rows]:
        raise ParametrizationError("the model's shapes differ from those of its configuration")
    return rows
