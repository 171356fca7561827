"""One attempt at a run: where it stands between two steps, what it has measured, and how that is written down."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from configs.devices import device as known_device
from configs.devices import mfu
from configs.plan import Plan
from configs.rundir import Readout, State, Status
from configs.schema import RunConfig
from configs.svag import stepped
from train import checkpoints
from train.data.batches import TokenStore, windows
from train.divergence import MAX_SKIPPED, divergence, spikes
from train.ema import averaged, start_ema, update_ema
from train.engine import Engine, check_groups, device, device_label, optimizer_step, set_groups, set_lr
from train.evaluate import activation_sizes, look_ahead, validate
from train.feed import micro_batch_weights, samples
from train.metrics import Record
from train.model import loss_of
from train.noise import NoiseProbe, noise_row
from train.pace import Pace
from train.parametrization import Row
from train.ranks import mean_over_ranks
from train.schedules import step_shape
from train.second_moment import start_second_moment
from train.sharpness import open_probe, probe_sharpness
from train.warmup import Warmup, advance_warmup, climbing, start_warmup, summary


class Attempt:
    """Everything that goes with an engine from its checkpoint on; `train.loop.train` says in which order."""

    def __init__(
        self,
        engine: Engine,
        rows: tuple[Row, ...],
        config: RunConfig,
        plan: Plan,
        stores: tuple[TokenStore, TokenStore],
        run_dir: Path,
        previous: Status,
        on_row: Callable[[dict[str, Any]], None],
    ) -> None:
        train_store, valid_store = stores
        self._engine, self._rows, self._config, self._plan = engine, rows, config, plan
        self._run_dir, self._on_row, self._where = run_dir, on_row, device()
        self._held_out = windows(valid_store, np.arange(config.data.valid_tokens // config.model.seq_len))
        self._recipe, self._weights = stepped(config), micro_batch_weights(config, plan)
        self.position, average = checkpoints.resume(engine, run_dir, config)
        set_groups(engine, rows, self._recipe)
        self._ema, self._forgotten = None, 0.0
        if config.ema_half_life_tokens:
            self._ema = start_ema(engine.module, average)
            self._forgotten = 1 - 0.5 ** (plan.step_tokens / config.ema_half_life_tokens)
        gpu = known_device(device_label())
        self.pace = Pace(
            plan.step_seqs * config.model.seq_len,
            lambda rate: mfu(plan.flops_per_token, rate, plan.world_size, gpu, config.precision),
        )
        self._losses = self.position.pending  # of the steps since the last record, reduced over ranks
        self._fresh: list[torch.Tensor] = []  # of the last steps, still this rank's
        self._lr, self._grad_norm = config.lr, None  # of the last step
        self._noise = NoiseProbe(engine, config, plan) if config.log.noise else None
        self._probe = open_probe(train_store, config, plan) if config.log.sharpness.every_tokens else None
        self._warmup, self._looks = Warmup(**self.position.warmup or {}), []  # the batch that a warmup looks at
        if config.schedule.warmup != "linear":
            first = samples(train_store, config, plan, 0).to(self._where)
            self._looks = list(first.split(plan.micro_batch_seqs))
        self._limit = math.inf  # loss of a diverged run
        self._began = time.monotonic() - self.position.seconds
        self._checkpointed = time.monotonic()
        self.record = Record(run_dir, _status(previous, self.position, config, plan), writes=dist.get_rank() == 0)

    def start(self) -> None:
        """Validate, look at the loss and probe where nothing has been trained yet.

        Raises FloatingPointError if the model is broken before its first step.
        """
        if not self.record.status.readouts and not self._validated(0, None):
            raise FloatingPointError("the validation loss is not finite before the first step: check the model's init")
        self._limit = self._config.explode_ratio * self.record.status.readouts[0].loss
        if self._looks and self.position.warmup is None:
            with self.pace.aside():
                self._warmup, row = start_warmup(self._engine, self._config, self._looks)
            self._write(row)
            self.record.update(warmup=summary(self._warmup, self._config))
        if self.position.tokens == self._plan.start_tokens:
            self.position.noise.since = self._plan.start_tokens
            self.probe(self.position.tokens)

    def step(self, begin: int, mine: torch.Tensor) -> None:
        """Train on this rank's sequences of the step after `begin` tokens, or skip them where their loss stands out."""
        config, position = self._config, self.position
        tokens = begin + self._plan.step_tokens
        if climbing(self._warmup, config):
            self._climb(begin)
        self._lr = self._rate(begin)
        set_lr(self._engine, self._lr)
        micro = [batch.to(self._where, non_blocking=True) for batch in mine.split(self._plan.micro_batch_seqs)]
        ahead, stands_out, level = math.nan, False, position.level
        if config.on_spike == "skip":
            ahead = look_ahead(self._engine.module, micro)
            stands_out, level = spikes([ahead], position.level, config.spike_ratio)
        if stands_out:
            self._write({"kind": "skip", "tokens": tokens, "loss": ahead})
            position.skipped += 1
            position.skipped_in_a_row += 1
            self._grad_norm = None
        else:
            self._descend(tokens, micro)
            position.skipped_in_a_row, position.level = 0, level
        if self._ema is not None:
            update_ema(self._ema, self._engine.module, self._forgotten)

    def taken(self, tokens: int) -> str | None:
        """A step has come to `tokens`: record it where that is due. Why the run has diverged, or None."""
        due = self._recorded(tokens) or self.position.skipped_in_a_row > MAX_SKIPPED
        sizes = self._gather() if due else []
        self.pace.step()
        return self._recording(tokens, sizes) if due else None

    def probe(self, tokens: int) -> None:
        """Measure how sharp the loss is, where that is due."""
        every = self._config.log.sharpness.every_tokens or 1
        if self._probe is not None and (tokens - self._plan.start_tokens) % every == 0:
            with self.pace.aside():
                row = probe_sharpness(self._probe, self._engine, self._rows, self._recipe, tokens)
                self._write(row | {"lr": self._rate(tokens)})

    def told(self, tokens: int) -> None:
        """Let the status file follow."""
        self.record.update(tokens=tokens, seconds=time.monotonic() - self._began, skipped=self.position.skipped)

    def checkpoint_due(self, tokens: int) -> bool:
        """Whether a checkpoint's time has come: every_tokens if that is set, else every_seconds."""
        asked = self._config.checkpoint
        if asked.every_tokens:
            return (tokens - self._plan.start_tokens) % asked.every_tokens == 0
        return time.monotonic() - self._checkpointed > asked.every_seconds

    def checkpoint(self, tokens: int) -> None:
        """Save, then drop what is older than need be."""
        position = self.position
        with self.pace.aside():
            self._losses, self._fresh = self._losses + mean_over_ranks(self._fresh), []
            if self._noise is not None:
                position.noise.pending += mean_over_ranks(self._noise.taken()[0])
            position.tokens, position.pending, position.seconds = tokens, self._losses, self.record.status.seconds
            position.warmup = asdict(self._warmup) if self._looks else None
            position.readouts = [readout.model_dump() for readout in self.record.status.readouts]
            checkpoints.save(self._engine, self._run_dir, self._config, position, self._ema)
            if dist.get_rank() == 0:
                keep = self._config.checkpoint.keep_last
                checkpoints.prune(self._run_dir, keep, tokens, self._plan.kept_tokens)
        self._checkpointed = time.monotonic()

    def end(self, state: State, trained: bool) -> Status:
        """The attempt is over; `trained`: it took a step. Returns the status that is left."""
        config, plan = self._config, self._plan
        if trained:
            check_groups(self._engine, self._rows, self._recipe.model_copy(update={"lr": self._lr}))
        if state == "finished" and config.budget_tokens in plan.kept_tokens:
            self.checkpoint(config.budget_tokens)
        self.record.update(now=True, state=state, seconds=time.monotonic() - self._began)
        self.record.close()
        if state != "preempted" and dist.get_rank() == 0:  # only now: until the end is on record they are the way back
            checkpoints.prune(self._run_dir, 0, config.budget_tokens, plan.kept_tokens)
        return self.record.status

    def _rate(self, tokens: int) -> float:
        """The learning rate of the step that follows `tokens`."""
        config = self._config
        shape = step_shape(config.schedule, config.budget_tokens, self._plan.step_tokens, tokens, self._warmup.found)
        return self._recipe.lr * shape

    def _climb(self, begin: int) -> None:
        """Let a warmup raise the rate before the step after `begin` tokens."""
        with self.pace.aside():
            row = advance_warmup(self._warmup, self._engine, self._config, self._looks, begin)
        if row is not None:
            self._write(row)
        self.record.update(warmup=summary(self._warmup, self._config))

    def _descend(self, tokens: int, micro: list[torch.Tensor]) -> None:
        """The optimizer's step to `tokens`."""
        engine, config, noise = self._engine, self._config, self._noise
        first_of_adam = config.optimizer.second_moment != "zero" and not engine.basic_optimizer.state
        if noise is not None:
            noise.begin(self._number(tokens), self._recorded(tokens))
        loss, self._grad_norm = optimizer_step(
            engine,
            (loss_of(engine, batch) for batch in micro),
            config.optimizer.clip_norm,
            self._weights,
            after_backward=noise.after_backward if noise is not None else None,
            before=(lambda: start_second_moment(engine, config)) if first_of_adam else None,
        )
        if noise is not None:
            noise.after_step()
        self._fresh.append(loss)

    def _number(self, tokens: int) -> int:
        """Of the step that comes to `tokens`, from 1."""
        return (tokens - self._plan.start_tokens) // self._plan.step_tokens

    def _recorded(self, tokens: int) -> bool:
        """Whether the step that comes to `tokens` is one to be recorded."""
        plan = self._plan
        return tokens in plan.readout_tokens or self._number(tokens) % plan.log_every_steps == 0

    def _gather(self) -> list[Any]:
        """Reduce what has come together since the last record, which waits for the device; what moved, if known."""
        self._losses, self._fresh = self._losses + mean_over_ranks(self._fresh), []
        if self._noise is None:
            return []
        new, sizes = (mean_over_ranks(vectors) for vectors in self._noise.taken())
        self.position.noise.pending += new
        return sizes

    def _recording(self, tokens: int, sizes: list[Any]) -> str | None:
        """Write the record at `tokens`. Why the run has diverged, or None."""
        config, position, losses = self._config, self.position, self._losses
        train_loss = sum(losses) / len(losses) if losses else None
        found, level = 0, position.level
        if config.on_spike != "skip":
            found, level = spikes(losses, position.level, config.spike_ratio)
        norm = None if self._grad_norm is None else self._grad_norm.item()
        row = {"kind": "train", "tokens": tokens, "step": self._number(tokens), "loss": train_loss, "lr": self._lr}
        self._write(row | {"grad_norm": norm, "spikes": found} | self.pace.record())
        if self._noise is not None and (row := noise_row(config, self._plan, position.noise, sizes, tokens)):
            self._write(row)
        position.spikes += found
        self.record.update(tokens_per_s=self.pace.tokens_per_s(), spikes=position.spikes, skipped=position.skipped)
        reason, position.level, self._losses = divergence(losses, self._limit), level, []
        if position.skipped_in_a_row > MAX_SKIPPED:
            reason = f"{position.skipped_in_a_row} steps in a row were skipped"
        if not reason and tokens in self._plan.readout_tokens and not self._validated(tokens, train_loss):
            reason = "the validation loss is not finite"
        return reason

    def _write(self, row: dict[str, Any]) -> None:
        self.record.row(row)
        self._on_row(row)

    def _validated(self, tokens: int, train_loss: float | None) -> bool:
        """Validate, record, and say whether the loss is finite."""
        network, micro = self._engine.module, self._plan.micro_batch_seqs
        with self.pace.aside():
            loss = validate(network, self._held_out, micro, self._where)
            rms = activation_sizes(network, self._held_out, self._where)
            row = {"kind": "valid", "tokens": tokens, "loss": loss} | {f"rms_{kind}": v for kind, v in rms.items()}
            ema_loss = None
            if self._ema is not None:
                with averaged(network, self._ema):
                    ema_loss = validate(network, self._held_out, micro, self._where)
                row["ema_loss"] = ema_loss
            self._write(row)
        if math.isfinite(loss):
            readout = Readout(tokens=tokens, loss=loss, train_loss=train_loss, ema_loss=ema_loss, rms=rms)
            self.record.update(readouts=(*self.record.status.readouts, readout))
        return math.isfinite(loss)


def _status(previous: Status, position: checkpoints.Position, config: RunConfig, plan: Plan) -> Status:
    """The status of the attempt after `previous`, as it begins at `position`."""
    return previous.model_copy(
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
