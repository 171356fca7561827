"""What test_universal.py runs, in its own process or as one of several ranks.

A leg `fp32-z3` trains from scratch at ZeRO-3 and leaves a checkpoint halfway in ROOT/w2-fp32-z3 (at two ranks); a leg
`w2-fp32-z3>fp32-z1` goes on from there at ZeRO-1, whatever the number of ranks is now. Both write what they saw.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.plan import Hardware, plan
from configs.schema import RunConfig
from tests.parity.engines import link_moments
from train import universal
from train.build import built
from train.engine import Engine, optimizer_step, set_lr, start_distributed, stop_distributed
from train.model import loss_of
from train.schedules import step_shape

CUT, STEPS, BATCH_SEQS, SEQ_LEN = 4, 8, 12, 16


def config_of(precision: str, stage: int) -> RunConfig:
    """Three optimizer groups with different rates and decays; clipping and schedule act."""
    tokens = BATCH_SEQS * SEQ_LEN
    return RunConfig.model_validate(
        {
            "model": {"width": 32, "base_width": 16, "depth": 1, "head_dim": 16, "seq_len": SEQ_LEN},
            "data": {"valid_tokens": SEQ_LEN},
            "optimizer": {"weight_decay": 0.1, "clip_norm": 0.7},
            "schedule": {"kind": "cosine", "warmup_tokens": 2 * tokens},
            "engine": {"zero_stage": stage, "micro_batch_seqs": 4},
            "lr": 2**-6,
            "batch_tokens": tokens,
            "budget_tokens": STEPS * tokens,
            "precision": precision,
        }
    )


@contextmanager
def fresh(config: RunConfig, seed: int) -> Iterator[Engine]:
    """An engine that has not stepped yet."""
    with built(config.model_copy(update={"seed": seed}), plan(config, Hardware(dist.get_world_size()))) as (engine, _):
        yield engine


def go_on(engine: Engine, config: RunConfig, begin: int, end: int) -> list[list[float]]:
    """Loss, averaged over ranks, and gradient norm of the steps begin .. end - 1."""
    seen = []
    for step in range(begin, end):
        tokens = step * config.batch_tokens
        set_lr(engine, config.lr * step_shape(config.schedule, config.budget_tokens, config.batch_tokens, tokens))
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(16, (BATCH_SEQS, SEQ_LEN + 1), generator=generator) ** 2
        mine = batch.chunk(dist.get_world_size())[dist.get_rank()]
        parts = (loss_of(engine, part) for part in mine.split(engine.train_micro_batch_size_per_gpu()))
        loss, norm = optimizer_step(engine, parts, config.optimizer.clip_norm)
        dist.all_reduce(loss)
        seen.append([loss.item() / dist.get_world_size(), norm.item()])
    return seen


def held(engine: Engine) -> dict[str, torch.Tensor]:
    """Whole weights, moments and steps, read from the engine without our converter."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    link_moments(engine)
    tensors: dict[str, Any] = {}
    states: dict[str, Any]
    for name, parameter in engine.module.named_parameters():
        if engine.zero_optimization_stage() == 0:
            states = {key: engine.optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")}
            states["fp32"] = parameter.detach()
        else:
            states = {key: safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")}
            states["fp32"] = safe_get_full_fp32_param(parameter)
        tensors |= {f"{name}/{key}": tensor.clone() for key, tensor in states.items()}
    steps = [state["step"] for state in engine.basic_optimizer.state.values()]
    assert len(steps) >= 3
    assert all(step == steps[0] for step in steps)
    return tensors | {"step": steps[0].clone()}


def save(engine: Engine, directory: Path) -> None:
    """A checkpoint's tensors, as train.checkpoints has them written."""
    engine.save_checkpoint(str(directory), tag="state", save_latest=False, client_state={})
    dist.barrier()


def leg(root: Path, name: str) -> dict[str, Any]:
    """Do one leg; the result is in root/<name>.pt, too."""
    source, _, layout = name.rpartition(">")
    precision, stage = layout.split("-z")
    config = config_of(precision, int(stage))
    result: dict[str, Any] = {}
    with fresh(config, seed=1 if source else 0) as engine:  # another seed: what a load leaves out is seen
        if source:
            universal.load(engine, root / source)
        else:
            go_on(engine, config, 0, CUT)
            save(engine, root / f"w{dist.get_world_size()}-{layout}")
        result["accumulation"] = engine.gradient_accumulation_steps()
        result["cut"] = held(engine)
        result["seen"] = go_on(engine, config, CUT, STEPS)
        result["end"] = held(engine)
        keys = ("names", "lr", "lr_multiplier", "weight_decay", "eps", "betas")
        result["groups"] = [{key: group[key] for key in keys} for group in engine.optimizer.param_groups]
    if dist.get_rank() == 0:
        torch.save(result, root / f"w{dist.get_world_size()}-{name}.pt")
    return result


def run_legs(root: Path, *names: str) -> int:
    """Do some legs as one of several ranks."""
    start_distributed()
    for name in names:
        leg(root, name)
    stop_distributed()
    return 0
