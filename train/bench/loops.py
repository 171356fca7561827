"""The loops that are compared: all of bcrit, its engine alone, and two written by hand, on one model and its data.

All train the same model in the same precision with clipping and a learning rate that is set at every step; they differ
in what stands around the arithmetic. A loop is called with nothing, takes some steps and returns seconds a step; beside
it stands what it trains.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from configs.plan import Plan
from configs.rundir import Status, create_run, read_metrics
from configs.schema import RunConfig
from train.build import built
from train.data.batches import TokenStore, sequences
from train.engine import accelerator, device, optimizer_step, set_lr
from train.loop import train
from train.model import build, loss_of
from train.optimizers import make_optimizer
from train.parametrization import optimizer_groups, table

Loop = Callable[[], float]
Stores = tuple[TokenStore, TokenStore]


def timed(step: Callable[[Any], object], inputs: Iterator[Any], steps: int) -> float:
    """Seconds of one of `steps` calls, the device's work included."""
    accelerator.synchronize()
    began = time.perf_counter()
    for given in islice(inputs, steps):
        step(given)
    accelerator.synchronize()
    return (time.perf_counter() - began) / steps


def batches(config: RunConfig, plan: Plan, stores: Stores, count: int) -> Iterator[torch.Tensor]:
    """`count` batches of the run's own data, on the device, over and over: (batch_seqs, seq_len + 1) token ids."""
    made = [
        torch.from_numpy(sequences(stores[0], config.seed, k * plan.step_seqs, plan.step_seqs)).to(device())
        for k in range(count)
    ]
    return cycle(made)


def bare(config: RunConfig, plan: Plan, stores: Stores, steps: int) -> tuple[Loop, nn.Module]:
    """Plain PyTorch: the same optimizer over the same groups, data that is there already, nothing recorded."""
    network = network_of(config)
    optimizer = make_optimizer(optimizer_groups(network, table(network, config), config), config.optimizer)

    def step(batch: torch.Tensor) -> None:
        for micro in batch.split(plan.micro_batch_seqs):
            (loss_of(network, micro) / plan.accumulation).backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * group["lr_multiplier"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    data = batches(config, plan, stores, steps)
    return lambda: timed(step, data, steps), network


def nanogpt_style(config: RunConfig, plan: Plan, stores: Stores, steps: int) -> tuple[Loop, nn.Module]:
    """The loop of nanoGPT's train.py around the same model: random windows of the corpus copied at every micro-step,
    two groups (decayed or not), a loss printed every ten steps (here: fetched).
    """
    network = network_of(config)
    matrices = [parameter for parameter in network.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in network.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=config.lr, betas=_betas(config), fused=True)
    tokens, seq_len, numbers = stores[0].shards[0], config.model.seq_len, torch.Generator().manual_seed(0)

    def some() -> torch.Tensor:
        starts = torch.randint(len(tokens) - seq_len - 1, (plan.micro_batch_seqs,), generator=numbers)
        rows = [torch.from_numpy(tokens[i : i + seq_len + 1].astype(np.int64)) for i in starts.tolist()]
        return torch.stack(rows).to(device(), non_blocking=True)

    def step(number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = config.lr
        loss, coming = torch.zeros(()), some()
        for _ in range(plan.accumulation):
            loss = loss_of(network, coming) / plan.accumulation
            coming = some()
            loss.backward()
        if config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % 10 == 0:
            loss.item()

    return lambda: timed(step, iter(range(steps)), steps), network


@contextmanager
def engine_only(config: RunConfig, plan: Plan, stores: Stores, steps: int) -> Iterator[tuple[Loop, nn.Module]]:
    """DeepSpeed's step on data that is there already, nothing recorded."""
    data = batches(config, plan, stores, steps)
    with built(config, plan) as (engine, _):

        def step(batch: torch.Tensor) -> None:
            set_lr(engine, config.lr)
            losses = (loss_of(engine, micro) for micro in batch.split(plan.micro_batch_seqs))
            optimizer_step(engine, losses, config.optimizer.clip_norm)

        yield lambda: timed(step, data, steps), engine.module


@contextmanager
def whole(config: RunConfig, plan: Plan, stores: Stores, folder: Path) -> Iterator[tuple[Loop, list[dict[str, Any]]]]:
    """`train.loop.train` as a run has it, for the run's budget; validations and checkpoints are no part of a step.

    Beside it the list that every call extends by the run's rows of training metrics.
    """
    rows_of_all: list[dict[str, Any]] = []
    with built(config, plan) as (engine, rows):

        def call() -> float:
            run_dir = folder / f"run-{time.monotonic_ns()}"
            create_run(run_dir, config)
            heard: list[dict[str, Any]] = []
            train(engine, rows, config, plan, stores, run_dir, Status(), lambda: False, heard.append)
            rows_of_all.extend(row for row in read_metrics(run_dir) if row["kind"] == "train")
            last = next(row for row in reversed(heard) if "tokens_per_s" in row)
            return config.batch_tokens / last["tokens_per_s"]

        yield call, rows_of_all


def _betas(config: RunConfig) -> tuple[float, float]:
    return float(config.optimizer.beta1), float(config.optimizer.beta2)


def network_of(config: RunConfig) -> nn.Module:
    """The model with its initial weights, on the device; under bf16 all of it is bf16, without master weights."""
    network = build(config.model, config.seed)
    return nn.Module.to(network, device(), torch.bfloat16 if config.precision == "bf16" else torch.float32)
