"""What the ranks of an engine hold together of a parameter: its fp32 weight, its moments, its gradient, Adam's step.

DeepSpeed's accessors do the work, with what they leave undone done here: at ZeRO-1 and 2 the moments of all groups but
the first cannot be read after a step until they are linked again, and setters of whole tensors fail at ZeRO-3 where
ranks do not divide them.
"""

from typing import Any

import torch
from torch import nn

from train.engine import Engine, whole  # before DeepSpeed itself: it settles which accelerator there is

# isort: split
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_get_local_grad,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

WEIGHT = "fp32"
MOMENTS = ("exp_avg", "exp_avg_sq")


def start_optimizer(engine: Engine, step: float) -> None:
    """Give AdamW the state it would make in its first step, and let DeepSpeed link its parameters to it."""
    optimizer = engine.basic_optimizer
    for tensor in stepped(engine):
        optimizer.state[tensor] = {"step": torch.tensor(step, device=tensor.device)}
        optimizer.state[tensor] |= {key: torch.zeros_like(tensor, requires_grad=False) for key in MOMENTS}
    link_moments(engine)


def link_moments(engine: Engine) -> None:
    """Let the moments of all groups be read and set."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def stepped(engine: Engine) -> list[torch.Tensor]:
    """The tensors that AdamW steps: parameters at stage 0, else this rank's flat shards."""
    if engine.zero_optimization_stage() == 3:  # which shows them to AdamW only while it steps
        return engine.optimizer.fp32_partitioned_groups_flat
    return [tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"]]


def step_of(engine: Engine) -> float:
    """Steps that Adam has taken, if all that this rank steps agree; else nan, which equals nothing."""
    states = engine.basic_optimizer.state
    steps = {float(states[tensor]["step"]) for tensor in stepped(engine) if tensor in states}
    return steps.pop() if len(steps) == 1 else float("nan") if steps else 0.0


def read(engine: Engine, parameter: nn.Parameter, key: str) -> torch.Tensor | None:
    """The whole fp32 weight (`WEIGHT`) or moment; to be called on all ranks, with linked moments. Not to be changed."""
    if engine.zero_optimization_stage() == 0:
        return parameter.detach() if key == WEIGHT else engine.basic_optimizer.state[parameter][key]
    return safe_get_full_fp32_param(parameter) if key == WEIGHT else safe_get_full_optimizer_state(parameter, key)


def read_gradient(engine: Engine, parameter: nn.Parameter) -> torch.Tensor | None:
    """The whole gradient, a mean over ranks, between the last backward pass of a step and the step; on all ranks."""
    return parameter.grad if engine.zero_optimization_stage() == 0 else safe_get_full_grad(parameter)


def local_gradient(engine: Engine, parameter: Any) -> torch.Tensor | None:
    """This rank's share of the mean gradient, at the same point; None if it has none. At stage 0 all have all."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        return parameter.grad
    if stage == 3:
        return safe_get_local_grad(parameter)  # with zeros behind the last parameter's end
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    share = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    address = mapping.lp_fragment_address
    # In bf16 at stage 1 every rank keeps the sum of all, and owns its part of it.
    return share.narrow(0, address.start, address.numel) if share.numel() == parameter.numel() else share


def write(engine: Engine, parameter: nn.Parameter, key: str, value: torch.Tensor) -> None:
    """Store the whole tensor `value` as weight or moment, of which each rank keeps its part."""
    stage = engine.zero_optimization_stage()
    if stage == 0:
        (parameter if key == WEIGHT else engine.basic_optimizer.state[parameter][key]).copy_(value)
    elif stage < 3 and key == WEIGHT:
        safe_set_full_fp32_param(parameter, value)
    elif stage < 3:
        safe_set_full_optimizer_state(parameter, value, key)
    elif key == WEIGHT:
        safe_set_local_fp32_param(parameter, _shard(engine, parameter, value))
        with whole(parameter):
            parameter.copy_(value)
    else:
        safe_set_local_optimizer_state(parameter, _shard(engine, parameter, value), key)


def _shard(engine: Engine, parameter: Any, value: torch.Tensor) -> torch.Tensor:
    """This rank's part of `value` at stage 3."""
    shard = value.new_zeros(parameter.ds_tensor.numel())
    mine = value.flatten()[engine.global_rank * len(shard) :][: len(shard)]
    shard[: len(mine)] = mine
    return shard
