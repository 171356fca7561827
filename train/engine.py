"""What is known of DeepSpeed: its configuration, set-up, one optimizer step, and the read-back checks.

What DeepSpeed gets wrong or leaves implicit is settled here: clipping defaults to 1.0, so it is always set; its
learning-rate schedules overwrite per-group rates, so they are never used; ZeRO-0 reports no gradient norm, so there
we clip ourselves; bf16 would accumulate gradients in bf16, and round the sum to bf16 again before Adam sees it (even on
one rank), so the types of accumulation and communication are always fp32.
"""

import gc
import logging
import os
import platform
import resource
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would guess the same, with a warning a rank

import deepspeed
import deepspeed.ops
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn
from transformers import GraniteForCausalLM

from configs.memory import bucket_elements
from configs.plan import Plan
from configs.schema import RunConfig
from train.optimizers import make_optimizer
from train.parametrization import ParametrizationError, Row, optimizer_groups

SILENCE_MINUTES = 10  # a rank that waits longer than this for another one gives up
Engine = Any  # deepspeed.DeepSpeedEngine, whose annotations allow for less than it always has
accelerator: Any = get_accelerator()


def start_distributed() -> None:
    """Join the process group of the launcher (deepspeed, torchrun or srun), or form a group of one."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").addFilter(lambda record: "untested optimizer" not in record.getMessage())
    warnings.filterwarnings("ignore", message=".*(reduce_scatter_tensor|all_gather_into_tensor).*")
    for ours, slurm, alone in (
        ("RANK", "SLURM_PROCID", "0"),
        ("WORLD_SIZE", "SLURM_NTASKS", "1"),
        ("LOCAL_RANK", "SLURM_LOCALID", "0"),
        ("MASTER_ADDR", "MASTER_ADDR", "127.0.0.1"),
    ):
        # srun sets MASTER_ADDR only in our own job scripts; without it a stray SLURM_PROCID means an interactive shell.
        os.environ.setdefault(ours, os.environ.get(slurm, alone) if "MASTER_ADDR" in os.environ else alone)
    os.environ.setdefault("MASTER_PORT", "0")
    if accelerator.device_name() == "cpu":
        # The shared-memory all-reduce would be compiled at first use and fails where there is no compiler; gloo does.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        # Before the first collective: NCCL would put rank 1's tensors on device 0.
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(
        dist_backend=accelerator.communication_backend_name(), verbose=False, timeout=timedelta(minutes=SILENCE_MINUTES)
    )
    gc.freeze()  # DeepSpeed collects garbage many times an engine: spare it all that the imports have left


def device() -> torch.device:
    """This rank's device."""
    return torch.device(accelerator.current_device_name())


def device_label() -> str:
    """What a rank runs on, for people."""
    return f"cpu ({platform.machine()})" if device().type == "cpu" else torch.cuda.get_device_name(device())


def peak_memory_bytes() -> int:
    """Most memory this process has held: on its GPU, or resident."""
    if device().type == "cpu":
        return _peak_resident_bytes()
    return accelerator.max_memory_allocated()


def _peak_resident_bytes() -> int:
    """Of this process. Linux's ru_maxrss will not do: a process begins with that of the one which started it."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes where there is no /proc, as on macOS


def device_memory() -> int | None:
    """Bytes of this rank's GPU; None on a CPU."""
    return None if device().type == "cpu" else accelerator.total_memory()


def deepspeed_config(config: RunConfig, plan: Plan) -> dict[str, Any]:
    """What DeepSpeed is told. Raises nothing: `configs.plan` has refused what DeepSpeed does wrongly."""
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch_seqs,
        "gradient_accumulation_steps": plan.accumulation,
        "train_batch_size": plan.step_seqs,
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket_elements(plan.n_params),
        },
        "gradient_clipping": config.optimizer.clip_norm if config.engine.zero_stage else 0.0,
        "bf16": {"enabled": config.precision == "bf16", "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,  # tested by us: tests/train/test_optimizers.py
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
    }


def born_sharded(config: RunConfig, plan: Plan) -> AbstractContextManager:
    """Where a model is built so that under ZeRO-3 no rank ever holds it whole; elsewhere nothing happens."""
    if config.engine.zero_stage < 3:
        return nullcontext()
    return deepspeed.zero.Init(config_dict_or_path=deepspeed_config(config, plan))


def whole(parameter: nn.Parameter) -> AbstractContextManager:
    """Where a sharded parameter is there entire, to be changed alike by all ranks."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    return deepspeed.zero.GatheredParameters(parameter, modifier_rank=0)


def wrap(network: GraniteForCausalLM, rows: tuple[Row, ...], config: RunConfig, plan: Plan) -> Engine:
    """Wrap the model and its optimizer, compile if asked, and check that every group survived the wrapping."""
    optimizer = make_optimizer(optimizer_groups(network, rows, config), config.optimizer)
    engine, *_ = deepspeed.initialize(
        model=network, optimizer=optimizer, config=deepspeed_config(config, plan), dist_init_required=False
    )
    if plan.world_size == 1 and not config.engine.zero_stage:
        engine.enable_backward_allreduce = False  # there is nobody to sum with, and a small model's step would feel it
    check_groups(engine, rows, config)
    compiles = config.engine.compile
    if compiles or (compiles is None and device().type != "cpu" and config.engine.zero_stage < 3):
        # By block: for the whole model transformers makes the causal mask a tensor, which rules out flash attention.
        for block in network.model.layers:
            block.compile()  # in place: parameters keep their names
    return engine


def set_groups(engine: Engine, rows: Iterable[Row], config: RunConfig) -> None:
    """Give every group the betas, decay and eps of `config`: a checkpoint brings those of the run that wrote it."""
    by_name = {row.name: row for row in rows}
    for group in engine.optimizer.param_groups:
        row = by_name[group["names"][0]]
        group["betas"] = (config.optimizer.beta1, config.optimizer.beta2)
        group["weight_decay"] = config.optimizer.weight_decay * row.rule.weight_decay_multiplier
        group["eps"] = config.optimizer.eps * row.rule.eps_multiplier
        group["lr_multiplier"] = row.rule.lr_multiplier


def set_lr(engine: Engine, lr: float) -> None:
    """Give every group lr x its own multiplier."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["lr_multiplier"]


def check_groups(engine: Engine, rows: Iterable[Row], config: RunConfig) -> None:
    """Read learning rates, decays, eps and betas back from the wrapped optimizer and compare them with the table.

    `config.lr` must be the rate that was set last. Raises ParametrizationError naming the first parameter whose
    group is lost or changed; `microsoft/mup#6` and `gpt-neox#956` are what happens without this check.
    """
    held = {name: group for group in engine.optimizer.param_groups for name in group["names"]}
    for row in rows:
        if row.name not in held:
            raise ParametrizationError(f"parameter {row.name} is in no optimizer group after DeepSpeed wrapped them")
        group = held[row.name]
        for key, expected in (
            ("lr", config.lr * row.rule.lr_multiplier),
            ("weight_decay", config.optimizer.weight_decay * row.rule.weight_decay_multiplier),
            ("eps", config.optimizer.eps * row.rule.eps_multiplier),
            ("beta1", config.optimizer.beta1),
            ("beta2", config.optimizer.beta2),
        ):
            have = group["betas"][key == "beta2"] if key.startswith("beta") else group[key]
            if abs(have - expected) > 1e-12 * abs(expected):
                raise ParametrizationError(
                    f"parameter {row.name}: {key} is {have:g} in the engine, {expected:g} in the table"
                )


def optimizer_step(
    engine: Engine,
    losses: Iterable[torch.Tensor],
    clip_norm: float,
    weights: Sequence[float] | None = None,
    after_backward: Callable[[float, bool], None] | None = None,
    before: Callable[[], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step from the losses of this rank's micro-batches (each a mean over equally many tokens).

    `weights`, of mean 1, multiply the micro-batches' gradients before they are averaged. `after_backward` is called
    after each backward pass with its weight and whether it was the last, when no gradient is clipped yet; `before` when
    the whole gradient is there (at ZeRO-0 clipped), before the step.
    Returns this rank's mean loss and the global norm of the mean gradient before clipping, both on the device.
    """
    total, count = torch.zeros((), device=engine.device), 0
    norm = None
    for loss in losses:
        weight = 1.0 if weights is None else weights[count]
        engine.backward(loss if weights is None else loss * weight)
        if after_backward is not None:
            after_backward(weight, engine.is_gradient_accumulation_boundary())
        total, count = total + loss.detach(), count + 1
        if engine.is_gradient_accumulation_boundary() and not engine.zero_optimization_stage():
            norm = nn.utils.clip_grad_norm_(engine.module.parameters(), clip_norm or float("inf"))
        if before is not None and engine.is_gradient_accumulation_boundary():
            before()
        engine.step()
    if norm is None:
        norm = torch.as_tensor(engine.get_global_grad_norm(), dtype=torch.float32, device=engine.device)
    return total / count, norm


def release(engine: Engine) -> None:
    """Free an engine's memory, also after an error, so that the next run in this process has it."""
    engine.destroy()
    gc.collect()
    if device().type != "cpu":
        accelerator.empty_cache()


def stop_distributed() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
