"""The run under `deepspeed`, in every cell of one world size: engines one after another in the same processes.

    deepspeed --num_gpus R --no_local_rank --module tests.parity.engines DATA_DIR OUT

Rank 0 writes {str(cell): measured} to OUT, with torch.save.
"""

import gc
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from configs.schema import RunConfig
from tests.parity.cells import CELLS, SNAPSHOTS, Cell, layout, lr_at, read_batches
from train.build import built
from train.engine import Engine, optimizer_step, set_lr, start_distributed, stop_distributed
from train.model import loss_of
from train.noise import KINDS, NoiseProbe


def measure(cell: Cell, batches: list[Tensor]) -> dict[str, Any]:
    """Losses, norms, the states after the steps of SNAPSHOTS, and the optimizer groups at the start and at the end.

    Both probes of the gradient's noise watch, of which the plain loop knows nothing; `probed` is the norm they see.
    """
    config, plan = layout(cell)
    with built(config, plan) as (engine, _):
        groups, losses, norms, probed, states = [groups_of(engine)], [], [], [], []
        probes = [NoiseProbe(engine, watched(config, noise), plan) for noise in ("gradients", "gains")]

        def look(weight: float, last: bool) -> None:
            for probe in probes:
                probe.after_backward(weight, last)

        for step, batch in enumerate(batches):
            set_lr(engine, lr_at(config, step))
            mine = batch.chunk(cell.world_size)[dist.get_rank()].chunk(cell.accumulation)
            parts = (loss_of(engine, micro_batch) for micro_batch in mine)
            for probe in probes:
                probe.begin(8 * (step + 1), recorded=True)  # at every step, not at one in so many
            loss, norm = optimizer_step(engine, parts, config.optimizer.clip_norm, None, look)
            for probe in probes:
                probe.after_step()
            (seen,), _ = probes[0].taken()
            probed.append(mean_over_ranks(seen[len(KINDS) :].sum()) ** 0.5)
            losses.append(mean_over_ranks(loss))
            norms.append(norm.item())
            if step + 1 in SNAPSHOTS:
                states.append({"step": step + 1} | state_of(engine))
        groups.append(groups_of(engine))
    return {"losses": losses, "norms": norms, "probed": probed, "states": states, "groups": groups}


def watched(config: RunConfig, noise: str) -> RunConfig:
    """The run with its noise logged."""
    return config.model_copy(update={"log": config.log.model_copy(update={"noise": noise})})


def mean_over_ranks(value: Tensor) -> float:
    """Mean of one number a rank, taken in fp64."""
    value = value.double()
    dist.all_reduce(value)
    return value.item() / dist.get_world_size()


def state_of(engine: Engine) -> dict[str, dict[str, Tensor]]:
    """Whole fp32 master weights and moments by parameter name; all ranks must call this."""
    parameters = dict(engine.module.named_parameters())
    state: dict[str, dict[str, Any]] = {}
    if engine.zero_optimization_stage() == 0:
        state["parameters"] = {name: parameter.detach() for name, parameter in parameters.items()}
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = {name: engine.optimizer.state[parameter][key] for name, parameter in parameters.items()}
    else:
        link_moments(engine)
        state["parameters"] = {name: safe_get_full_fp32_param(p) for name, p in parameters.items()}
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = {name: safe_get_full_optimizer_state(p, key) for name, p in parameters.items()}
    return {key: {name: tensor.clone() for name, tensor in tensors.items()} for key, tensors in state.items()}


def link_moments(engine: Engine) -> None:
    """Let the moments of all groups be read: DeepSpeed does so after it has stepped the first of them only."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def groups_of(engine: Engine) -> list[dict[str, Any]]:
    """What the optimizer that steps, inside DeepSpeed's, holds for each group."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return [
        {key: group[key] for key in ("names", "lr", "weight_decay", "eps", "betas")} for group in inner.param_groups
    ]


def main(data_dir: Path, out: Path) -> None:
    start_distributed()
    batches = list(read_batches(data_dir))
    measured = {}
    for cell in CELLS:
        if cell.world_size == dist.get_world_size():
            gc.freeze()  # what there is by now stays: the many collections of an engine need not look at it
            measured[str(cell)] = measure(cell, batches)
    if dist.get_rank() == 0:
        torch.save(measured, out)
    stop_distributed()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
