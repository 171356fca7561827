"""The training of one run, on one screen: which tokens, which loss, which learning rate, what is recorded."""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from configs.devices import device as known_device
from configs.devices import mfu
from configs.plan import Plan, first_sequence
from configs.rundir import Readout, State, Status
from configs.schema import RunConfig
from configs.svag import batch_weights, length_of, stepped
from train import checkpoints
from train.data.batches import TokenStore, sequences, windows
from train.data.prefetch import prefetched
from train.divergence import MAX_SKIPPED, divergence, spikes
from train.ema import averaged, start_ema, update_ema
from train.engine import Engine, check_groups, device, device_label, optimizer_step, set_groups, set_lr
from train.evaluate import activation_sizes, look_ahead, validate
from train.metrics import Record
from train.model import loss_of
from train.noise import NoiseProbe, noise_row
from train.pace import Pace
from train.parametrization import Row
from train.ranks import agree, mean_over_ranks
from train.schedules import step_shape
from train.second_moment import start_second_moment
from train.sharpness import open_probe, probe_sharpness
from train.warmup import Warmup, advance_warmup, climbing, start_warmup, summary


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
    """Train from the newest checkpoint (or its trunk's, or from scratch) to the budget, a stop, or divergence.

    `engine` and `rows` come from `train.build.built`. `stores` are the training and validation tokens; `previous` is
    the status left by earlier attempts. `on_row` gets every metrics row as it is written. Returns the status.
    """
    train_store, valid_store = stores
    held_out = windows(valid_store, np.arange(config.data.valid_tokens // config.model.seq_len))
    network, where, batch_tokens = engine.module, device(), plan.step_tokens
    recipe, weights = stepped(config), micro_batch_weights(config, plan)
    position, average = checkpoints.resume(engine, run_dir, config)
    set_groups(engine, rows, recipe)
    ema = start_ema(network, average) if config.ema_half_life_tokens else None
    forgotten = 1 - 0.5 ** (batch_tokens / config.ema_half_life_tokens) if config.ema_half_life_tokens else 0.0
    status = previous.model_copy(
        update={
            "attempt": previous.attempt + 1,
            "tokens": position.tokens,
            "resumed": position.tokens,
            "readouts": tuple(Readout(**readout) for readout in position.readouts),
            "spikes": position.spikes,
            "skipped": position.skipped,
            "world_size": plan.world_size,
            "zero_stage": config.engine.zero_stage,
            "message": "",
        }
    )
    record = Record(run_dir, status, writes=dist.get_rank() == 0)
    gpu = known_device(device_label())
    step_size = plan.step_seqs * config.model.seq_len
    pace = Pace(step_size, lambda rate: mfu(plan.flops_per_token, rate, plan.world_size, gpu, config.precision))
    losses = position.pending  # of the steps since the last record, reduced over ranks
    fresh: list[torch.Tensor] = []  # of the last steps, still this rank's
    seconds_before, started = position.seconds, time.monotonic()
    checkpointed = started

    def write(row: dict[str, Any]) -> None:
        record.row(row)
        on_row(row)

    def validated(tokens: int, train_loss: float | None) -> bool:
        """Validate, record, and say whether the loss is finite."""
        with pace.aside():
            loss = validate(network, held_out, plan.micro_batch_seqs, where)
            rms = activation_sizes(network, held_out, where)
            row = {"kind": "valid", "tokens": tokens, "loss": loss} | {f"rms_{kind}": v for kind, v in rms.items()}
            ema_loss = None
            if ema is not None:
                with averaged(network, ema):
                    ema_loss = validate(network, held_out, plan.micro_batch_seqs, where)
                row["ema_loss"] = ema_loss
            write(row)
        if math.isfinite(loss):
            readout = Readout(tokens=tokens, loss=loss, train_loss=train_loss, ema_loss=ema_loss, rms=rms)
            record.update(readouts=(*record.status.readouts, readout))
        return math.isfinite(loss)

    def checkpoint(tokens: int) -> None:
        """Save, then drop what is older than need be."""
        nonlocal checkpointed, losses, fresh
        with pace.aside():
            losses, fresh = losses + mean_over_ranks(fresh), []
            if noise is not None:
                position.noise.pending += mean_over_ranks(noise.taken()[0])
            position.tokens, position.pending, position.seconds = tokens, losses, record.status.seconds
            position.warmup = asdict(warmup) if looks else None
            position.readouts = [readout.model_dump() for readout in record.status.readouts]
            checkpoints.save(engine, run_dir, config, position, ema)
            if dist.get_rank() == 0:
                checkpoints.prune(run_dir, config.checkpoint.keep_last, tokens, plan.kept_tokens)
        checkpointed = time.monotonic()

    def rate(tokens: int) -> float:
        """The learning rate of the step that follows `tokens`."""
        shape = step_shape(config.schedule, config.budget_tokens, batch_tokens, tokens, warmup.found)
        return recipe.lr * shape

    noise = NoiseProbe(engine, config, plan) if config.log.noise else None
    if position.tokens == plan.start_tokens:
        position.noise.since = plan.start_tokens
    warmup, looks = Warmup(**position.warmup or {}), []
    if config.schedule.warmup != "linear":
        looks = list(samples(train_store, config, plan, 0).to(where).split(plan.micro_batch_seqs))
    probe = open_probe(train_store, config, plan) if config.log.sharpness.every_tokens else None

    def probed(tokens: int) -> None:
        """Measure how sharp the loss is, where a probe is due."""
        if probe is not None and (tokens - plan.start_tokens) % (config.log.sharpness.every_tokens or 1) == 0:
            with pace.aside():
                write(probe_sharpness(probe, engine, rows, recipe, tokens) | {"lr": rate(tokens)})

    if not record.status.readouts and not validated(0, None):
        raise FloatingPointError("the validation loss is not finite before the first step: check the model's init")
    limit = config.explode_ratio * record.status.readouts[0].loss
    state: State = "finished"
    lr, seen, skipping = config.lr, math.nan, config.on_spike == "skip"
    if looks and position.warmup is None:
        warmup, row = start_warmup(engine, config, looks)
        write(row)
        record.update(warmup=summary(warmup, config))
    first = position.tokens
    if first == plan.start_tokens:
        probed(first)
    batches = prefetched(
        lambda begin: samples(train_store, config, plan, begin), range(first, config.budget_tokens, batch_tokens)
    )
    with closing(batches):
        for begin, mine in pace.waiting(batches):
            tokens = begin + batch_tokens
            if climbing(warmup, config):
                with pace.aside():
                    row = advance_warmup(warmup, engine, config, looks, begin)
                if row is not None:
                    write(row)
                record.update(warmup=summary(warmup, config))
            lr = rate(begin)
            set_lr(engine, lr)
            step, reading = (tokens - plan.start_tokens) // batch_tokens, tokens in plan.readout_tokens
            recording = reading or step % plan.log_every_steps == 0
            micro = [batch.to(where, non_blocking=True) for batch in mine.split(plan.micro_batch_seqs)]
            stands_out, level = False, position.level
            if skipping:
                seen = look_ahead(network, micro)
                stands_out, level = spikes([seen], position.level, config.spike_ratio)
            if stands_out:
                write({"kind": "skip", "tokens": tokens, "loss": seen})
                position.skipped += 1
                position.skipped_in_a_row += 1
                grad_norm = None
            else:
                first_of_adam = config.optimizer.second_moment != "zero" and not engine.basic_optimizer.state
                if noise is not None:
                    noise.begin(step, recording)
                loss, grad_norm = optimizer_step(
                    engine,
                    (loss_of(engine, batch) for batch in micro),
                    config.optimizer.clip_norm,
                    weights,
                    after_backward=noise.after_backward if noise is not None else None,
                    before=(lambda: start_second_moment(engine, config)) if first_of_adam else None,
                )
                if noise is not None:
                    noise.after_step()
                fresh.append(loss)
                position.skipped_in_a_row, position.level = 0, level
            if ema is not None:
                update_ema(ema, network, forgotten)

            recording = recording or position.skipped_in_a_row > MAX_SKIPPED
            if recording:
                losses, fresh = losses + mean_over_ranks(fresh), []  # waits for the device
                if noise is not None:
                    new, sizes = (mean_over_ranks(vectors) for vectors in noise.taken())
                    position.noise.pending += new
            pace.step()
            if recording:
                train_loss = sum(losses) / len(losses) if losses else None
                row = {"kind": "train", "tokens": tokens, "step": step, "loss": train_loss, "lr": lr}
                found, level = (0, position.level) if skipping else spikes(losses, position.level, config.spike_ratio)
                row |= {"grad_norm": None if grad_norm is None else grad_norm.item(), "spikes": found}
                write(row | pace.record())
                if noise is not None and (measured := noise_row(config, plan, position.noise, sizes, tokens)):
                    write(measured)
                position.spikes += found
                record.update(tokens_per_s=pace.tokens_per_s(), spikes=position.spikes, skipped=position.skipped)
                reason, position.level, losses = divergence(losses, limit), level, []
                if position.skipped_in_a_row > MAX_SKIPPED:
                    reason = f"{position.skipped_in_a_row} steps in a row were skipped"
                if not reason and reading and not validated(tokens, train_loss):
                    reason = "the validation loss is not finite"
                if reason:
                    state = "diverged"
                    record.update(tokens=tokens, message=f"{reason} at {tokens:,} tokens")
                    break

            probed(tokens)
            seconds = seconds_before + time.monotonic() - started
            record.update(tokens=tokens, seconds=seconds, skipped=position.skipped)
            stopping, due = agree(stop_requested(), checkpoint_due(config, plan, tokens, checkpointed), where)
            if tokens < config.budget_tokens and (stopping or due or tokens in plan.kept_tokens):
                checkpoint(tokens)
                if stopping:
                    state = "preempted"
                    break

    if record.status.tokens > first:
        check_groups(engine, rows, recipe.model_copy(update={"lr": lr}))
    if state == "finished" and config.budget_tokens in plan.kept_tokens:
        checkpoint(config.budget_tokens)
    record.update(now=True, state=state, seconds=seconds_before + time.monotonic() - started)
    record.close()
    if state != "preempted" and dist.get_rank() == 0:  # only now: until the end is on record they are the way back
        checkpoints.prune(run_dir, 0, config.budget_tokens, plan.kept_tokens)
    return record.status


def samples(store: TokenStore, config: RunConfig, plan: Plan, begin: int) -> torch.Tensor:
    """This rank's sequences of the step after `begin` tokens, (micro_batch_seqs x accumulation, seq_len + 1) token ids.

    A step uses the next global samples, whatever the number of ranks, micro-batches, and the batch sizes before it.
    Of SVAG's two batches each rank has its share of the first, then of the second.
    """
    batches = len(batch_weights(length_of(config)))
    count = plan.micro_batch_seqs * plan.accumulation // batches
    starts = range(first_sequence(config, begin) + dist.get_rank() * count, 2**62, plan.step_seqs // batches)
    parts = [torch.from_numpy(sequences(store, config.seed, first, count)) for first in starts[:batches]]
    batch = torch.cat(parts) if batches > 1 else parts[0]
    return batch.pin_memory() if device().type == "cuda" else batch


def micro_batch_weights(config: RunConfig, plan: Plan) -> list[float] | None:
    """What multiplies the gradient of each micro-batch before their mean is taken, under SVAG."""
    weights = batch_weights(length_of(config))
    if len(weights) == 1:
        return None
    return [len(weights) * weight for weight in weights for _ in range(plan.accumulation // len(weights))]


def checkpoint_due(config: RunConfig, plan: Plan, tokens: int, checkpointed: float) -> bool:
    """Whether a checkpoint's time has come: every_tokens if that is set, else every_seconds."""
    if config.checkpoint.every_tokens:
        return (tokens - plan.start_tokens) % config.checkpoint.every_tokens == 0
    return time.monotonic() - checkpointed > config.checkpoint.every_seconds
