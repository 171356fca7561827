"""The training of one run, on one screen: which tokens, which loss, which learning rate, what is recorded."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from configs.plan import Plan
from configs.rundir import Readout, Status
from configs.schema import RunConfig
from train import checkpoints
from train.control import agree
from train.data.batches import TokenStore, sequences, windows
from train.engine import check_groups, device, initialise, optimizer_step, set_lr
from train.evaluate import validate
from train.metrics import Record
from train.model import build, loss_of
from train.parametrization import verify
from train.schedules import step_shape


def train(
    config: RunConfig,
    plan: Plan,
    stores: tuple[TokenStore, TokenStore],
    run_dir: Path,
    previous: Status,
    stop_requested: Callable[[], bool],
    on_row: Callable[[dict], None],
) -> Status:
    """Train from the newest checkpoint (or from scratch) to the budget, a stop, or divergence; return the status.

    `stores` are the training and validation tokens; `previous` is the status left by earlier attempts. A loss that
    is not finite, or above explode_ratio x the loss before the first step, ends the run as diverged on all ranks.
    """
    train_store, valid_store = stores
    held_out = windows(valid_store, np.arange(config.data.valid_tokens // config.model.seq_len))
    network = build(config.model, config.seed).to(device())
    rows = verify(network, config.model)
    engine = initialise(network, rows, config, plan)

    saved = checkpoints.load_latest(engine, run_dir) or {"tokens": 0, "pending": [], "readouts": [], "seconds": 0.0}
    step, pending, before = saved["tokens"] // config.batch_tokens, saved["pending"], saved["seconds"]
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
    started = checkpointed = time.monotonic()
    stepping, state = 0.0, "finished"

    def write(row: dict) -> None:
        record.row(row)
        on_row(row)

    def read_out(tokens: int, train_loss: float | None) -> bool:
        """Validate, record, and say whether the loss is finite."""
        loss, rms = validate(network, held_out, config.engine.micro_batch_seqs, engine.device)
        write({"kind": "valid", "tokens": tokens, "loss": loss, **{f"rms_{kind}": value for kind, value in rms.items()}})
        if not math.isfinite(loss):
            return False
        readout = Readout(tokens=tokens, loss=loss, train_loss=train_loss, rms=rms)
        record.update(readouts=(*record.status.readouts, readout))
        return True

    if not record.status.readouts:
        read_out(0, None)
    limit = config.explode_ratio * record.status.readouts[0].loss

    while step < plan.steps:
        clock = time.monotonic()
        shape = step_shape(config.schedule, config.budget_tokens, config.batch_tokens, step)
        set_lr(engine, config.lr * shape)
        losses = (loss_of(engine, batch) for batch in micro_batches(train_store, config, plan, step, engine.device))
        loss, grad_norm = optimizer_step(engine, losses, config.optimizer.clip_norm)
        pending.append(loss)
        step += 1
        tokens = step * config.batch_tokens

        reading = tokens in plan.readout_tokens
        if reading or step % plan.log_every_steps == 0:
            values = reduced(pending, engine.device)
            worst, train_loss, pending = max(values, key=_badness), sum(values) / len(values), []
            stepping += time.monotonic() - clock
            rate = (tokens - saved["tokens"]) / stepping
            write(
                {"kind": "train", "tokens": tokens, "step": step, "loss": train_loss, "lr": config.lr * shape}
                | {"grad_norm": float(grad_norm), "tokens_per_s": rate}
            )
            record.update(tokens=tokens, tokens_per_s=rate, seconds=before + time.monotonic() - started)
            if not worst < limit or (reading and not read_out(tokens, train_loss)):
                state = "diverged"
                record.update(message=f"training loss {worst:.3g} at {tokens} tokens, limit {limit:.3g}")
                break
        else:
            stepping += time.monotonic() - clock

        due = time.monotonic() - checkpointed > config.checkpoint.every_seconds
        stopping, saving = agree(stop_requested(), due, engine.device)
        if (stopping or saving) and step < plan.steps:
            pending = reduced(pending, engine.device)
            seconds = before + time.monotonic() - started
            readouts = [readout.model_dump() for readout in record.status.readouts]
            checkpoints.save(engine, run_dir, tokens, {"pending": pending, "readouts": readouts, "seconds": seconds})
            checkpointed = time.monotonic()
            if stopping:
                state = "preempted"
                break

    if step:
        check_groups(engine, rows, config, step_shape(config.schedule, config.budget_tokens, config.batch_tokens, step - 1))
    if state == "finished" and config.checkpoint.keep_final:
        readouts = [readout.model_dump() for readout in record.status.readouts]
        seconds = before + time.monotonic() - started
        checkpoints.save(engine, run_dir, config.budget_tokens, {"pending": [], "readouts": readouts, "seconds": seconds})
    elif state != "preempted" and dist.get_rank() == 0:
        checkpoints.remove(run_dir)
    record.update(now=True, state=state, seconds=before + time.monotonic() - started)
    record.close()
    engine.destroy()
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


def reduced(losses: list, where: torch.device) -> list[float]:
    """Losses of past steps as means over all ranks; entries that are floats already were reduced before a resume."""
    fresh = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    done = [loss for loss in losses if not isinstance(loss, torch.Tensor)]
    if not fresh:
        return done
    stacked = torch.stack(fresh).double().to(where)
    dist.all_reduce(stacked)
    return done + (stacked / dist.get_world_size()).tolist()


def _badness(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
