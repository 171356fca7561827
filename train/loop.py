"""The training of one run, on one screen: which tokens, which loss, which learning rate, what is recorded."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from configs.plan import Plan
from configs.rundir import Readout, State, Status
from configs.schema import RunConfig
from train import checkpoints
from train.control import agree
from train.data.batches import TokenStore, sequences, windows
from train.divergence import divergence
from train.engine import Engine, check_groups, device, optimizer_step, release, set_lr, wrap
from train.evaluate import activation_sizes, validate
from train.metrics import Record
from train.model import build, loss_of
from train.parametrization import Row, verify
from train.schedules import step_shape


@contextmanager
def built(config: RunConfig, plan: Plan) -> Iterator[tuple[Engine, tuple[Row, ...]]]:
    """The engine of a freshly initialised model and the table it was built from; freed afterwards, come what may."""
    network = build(config.model, config.seed)
    network.to(device())  # pyright: ignore[reportArgumentType]
    rows = verify(network, config.model)
    engine = wrap(network, rows, config, plan)
    try:
        yield engine, rows
    finally:
        release(engine)


def train(
    engine: Engine,
    rows: tuple[Row, ...],
    config: RunConfig,
    plan: Plan,
    stores: tuple[TokenStore, TokenStore],
    run_dir: Path,
    previous: Status,
    stop_requested: Callable[[], bool],
    on_row: Callable[[dict[str, Any]], None],
) -> Status:
    """Train from the newest checkpoint (or from scratch) to the budget, a stop, or divergence; return the status.

    `engine` and `rows` come from `built`. `stores` are the training and validation tokens; `previous` is the status
    left by earlier attempts. `on_row` gets every metrics row as it is written.
    """
    train_store, valid_store = stores
    held_out = windows(valid_store, np.arange(config.data.valid_tokens // config.model.seq_len))
    network, where = engine.module, device()
    saved = checkpoints.load_latest(engine, run_dir) or {"tokens": 0, "pending": [], "readouts": [], "seconds": 0.0}
    status = previous.model_copy(
        update={
            "attempt": previous.attempt + 1,
            "tokens": saved["tokens"],
            "readouts": tuple(Readout(**readout) for readout in saved["readouts"]),
            "world_size": plan.world_size,
            "zero_stage": config.engine.zero_stage,
            "message": "",
        }
    )
    record = Record(run_dir, status, writes=dist.get_rank() == 0)
    first_step = step = saved["tokens"] // config.batch_tokens
    losses: list[float] = saved["pending"]  # of the steps since the last record, reduced over ranks
    fresh: list[torch.Tensor] = []  # of the last steps, still this rank's
    started = checkpointed = time.monotonic()
    aside = 0.0  # seconds of this attempt in validation and checkpoints

    def seconds() -> float:
        return saved["seconds"] + time.monotonic() - started

    def write(row: dict[str, Any]) -> None:
        record.row(row)
        on_row(row)

    def read_out(tokens: int, train_loss: float | None) -> bool:
        """Validate, record, and say whether the loss is finite."""
        nonlocal aside
        clock = time.monotonic()
        loss = validate(network, held_out, config.engine.micro_batch_seqs, where)
        rms = activation_sizes(network, held_out, where)
        write({"kind": "valid", "tokens": tokens, "loss": loss} | {f"rms_{kind}": size for kind, size in rms.items()})
        if math.isfinite(loss):
            readout = Readout(tokens=tokens, loss=loss, train_loss=train_loss, rms=rms)
            record.update(readouts=(*record.status.readouts, readout))
        aside += time.monotonic() - clock
        return math.isfinite(loss)

    def checkpoint(tokens: int) -> None:
        nonlocal aside
        clock = time.monotonic()
        readouts = [readout.model_dump() for readout in record.status.readouts]
        checkpoints.save(engine, run_dir, tokens, {"pending": losses, "readouts": readouts, "seconds": seconds()})
        aside += time.monotonic() - clock

    if not record.status.readouts and not read_out(0, None):
        raise FloatingPointError("the validation loss is not finite before the first step: check the model's init")
    limit = config.explode_ratio * record.status.readouts[0].loss
    state: State = "finished"

    while step < plan.steps:
        lr = config.lr * step_shape(
            config.schedule, config.budget_tokens, config.batch_tokens, step * config.batch_tokens
        )
        set_lr(engine, lr)
        parts = (loss_of(engine, batch) for batch in micro_batches(train_store, config, plan, step, where))
        loss, grad_norm = optimizer_step(engine, parts, config.optimizer.clip_norm)
        fresh.append(loss)
        step += 1
        tokens = step * config.batch_tokens

        reading = tokens in plan.readout_tokens
        if reading or step % plan.log_every_steps == 0:
            losses, fresh = losses + reduced(fresh), []
            train_loss = sum(losses) / len(losses)
            rate = (tokens - saved["tokens"]) / (time.monotonic() - started - aside)
            row = {"kind": "train", "tokens": tokens, "step": step, "loss": train_loss, "lr": lr}
            write(row | {"grad_norm": grad_norm.item(), "tokens_per_s": rate})
            record.update(tokens_per_s=rate)
            reason, losses = divergence(losses, limit), []
            if not reason and reading and not read_out(tokens, train_loss):
                reason = "the validation loss is not finite"
            if reason:
                state = "diverged"
                record.update(tokens=tokens, message=f"{reason} at {tokens:,} tokens")
                break

        record.update(tokens=tokens, seconds=seconds())
        due = time.monotonic() - checkpointed > config.checkpoint.every_seconds
        stopping, saving = agree(stop_requested(), due, where)
        if (stopping or saving) and step < plan.steps:
            losses, fresh = losses + reduced(fresh), []
            checkpoint(tokens)
            checkpointed = time.monotonic()
            if stopping:
                state = "preempted"
                break

    if step > first_step:
        check_groups(engine, rows, config.model_copy(update={"lr": lr}))
    if state == "finished" and config.checkpoint.keep != "none":
        checkpoint(config.budget_tokens)
        checkpoints.export(engine, run_dir)
    elif state != "preempted" and dist.get_rank() == 0:
        checkpoints.remove(run_dir)
    record.update(now=True, state=state, seconds=seconds())
    record.close()
    return record.status


def micro_batches(
    store: TokenStore, config: RunConfig, plan: Plan, step: int, where: torch.device
) -> Iterator[torch.Tensor]:
    """This rank's micro-batches of one step, (micro_batch_seqs, seq_len + 1) token ids each.

    Step k uses the global samples k * batch_seqs up to the next, whatever the number of ranks and micro-batches.
    """
    first = step * plan.batch_seqs + dist.get_rank() * plan.micro_batch_seqs * plan.accumulation
    for micro in range(plan.accumulation):
        yield torch.from_numpy(
            sequences(store, config.seed, first + micro * plan.micro_batch_seqs, plan.micro_batch_seqs)
        ).to(where)


def reduced(losses: list[torch.Tensor]) -> list[float]:
    """This rank's losses of past steps as means over all ranks."""
    if not losses:
        return []
    stacked = torch.stack(losses).double()
    if dist.get_world_size() > 1:
        dist.all_reduce(stacked)
    return (stacked / dist.get_world_size()).tolist()
