"""Times taken in turn, and what each part of a step costs."""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.plan import Hardware, Plan, plan
from configs.rundir import Status
from configs.schema import RunConfig
from train import checkpoints
from train.bench.loops import Loop, Stores, bare, engine_only, nanogpt_style, whole
from train.bench.stacked import stacked
from train.build import built
from train.data.batches import open_split, windows
from train.data.open import open_corpus
from train.engine import device
from train.evaluate import validate
from train.metrics import Record


@dataclass(frozen=True)
class Ratio:
    """How two times that were taken side by side compare, over rounds."""

    median: float
    low: float  # quartiles
    high: float


@dataclass(frozen=True)
class Speed:
    """What the steps of one run cost. A share is of the whole loop's step."""

    config: dict[str, Any]
    n_params: int
    step_ms: dict[str, float]  # loop -> median milliseconds of a step
    tokens_per_s: dict[str, float]
    of_bare: dict[str, Ratio]  # loop -> its tokens/s over the bare loop's
    share: dict[str, float]  # part -> share of the whole loop's step
    validation_s: float
    checkpoint_s: float


def in_turn(loops: Mapping[str, Loop], rounds: int, on_call: Callable[[], None]) -> dict[str, np.ndarray]:
    """Seconds a step of every loop in every round, (rounds,) each; a first round warms up and is left out.

    The order is turned round by one at every round, so that no loop always runs after the same one.
    """
    names = list(loops)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            taken = loops[name]()
            if number:
                seconds[name].append(taken)
            on_call()
    return {name: np.array(taken) for name, taken in seconds.items()}


def ratio(seconds: np.ndarray, of: np.ndarray) -> Ratio:
    """Speed over speed: `of` / `seconds`, round by round."""
    low, median, high = np.percentile(of / seconds, (25, 50, 75))
    return Ratio(float(median), float(low), float(high))


def speed(config: RunConfig, stores: Stores, steps: int, rounds: int, on_call: Callable[[], None]) -> Speed:
    """Run the loops `steps` steps at a time in turn, `rounds` times, and measure the parts of the whole one.

    The record is written as often as in a run over the config's own budget. Needs a process group.
    """
    planned = plan(config, Hardware(world_size=1))
    short = shortened(config, planned, steps)
    planned = plan(short, Hardware(world_size=1))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        entire, rows = stack.enter_context(whole(short, planned, stores, Path(folder)))
        loops = {
            "bare": bare(short, planned, stores, steps)[0],
            "nanogpt": nanogpt_style(short, planned, stores, steps)[0],
            "engine": stack.enter_context(engine_only(short, planned, stores, steps))[0],
            "whole": entire,
        }
        seconds = in_turn(loops, rounds, on_call)
        step_s = {name: float(np.median(taken)) for name, taken in seconds.items()}
        recording = _recording(rows[-1], Path(folder))
        share = {
            "engine": (step_s["engine"] - step_s["bare"]) / step_s["whole"],
            "data wait": float(np.median([row["data_wait"] for row in rows])),
            "record": (recording[0] / planned.log_every_steps + recording[1]) / step_s["whole"],
        }
        share["rest of the loop"] = (step_s["whole"] - step_s["engine"]) / step_s["whole"] - sum(
            share[part] for part in ("data wait", "record")
        )
    validation_s, checkpoint_s = _asides(short, planned, stores)
    return Speed(
        config=config.model_dump(mode="json"),
        n_params=planned.n_params,
        step_ms={name: 1e3 * taken for name, taken in step_s.items()},
        tokens_per_s={name: config.batch_tokens / taken for name, taken in step_s.items()},
        of_bare={name: ratio(seconds[name], seconds["bare"]) for name in seconds},
        share=share,
        validation_s=validation_s,
        checkpoint_s=checkpoint_s,
    )


def shortened(config: RunConfig, planned: Plan, steps: int) -> RunConfig:
    """The run over `steps` steps at its peak rate, recorded as often as the whole one, without a checkpoint."""
    every = planned.log_every_steps * config.batch_tokens
    return config.model_copy(
        update={
            "budget_tokens": steps * config.batch_tokens,
            "readout_tokens": (),
            "schedule": config.schedule.model_copy(update={"kind": "constant", "warmup_tokens": 0}),
            "checkpoint": config.checkpoint.model_copy(update={"keep": "none", "keep_at_tokens": ()}),
            "log": config.log.model_copy(update={"every_tokens": every, "wandb": "disabled"}),
        }
    )


def _recording(row: dict[str, Any], folder: Path, times: int = 300) -> tuple[float, float]:
    """Seconds of writing one metrics row, and of the change of the status at every step."""
    record = Record(folder, Status(attempt=1), writes=True)
    began = time.perf_counter()
    for _ in range(times):
        record.row(row)
    between = time.perf_counter()
    for tokens in range(times):
        record.update(tokens=tokens, seconds=0.0, skipped=0)
    ended = time.perf_counter()
    record.close()
    return (between - began) / times, (ended - between) / times


def _asides(config: RunConfig, planned: Plan, stores: Stores) -> tuple[float, float]:
    """Seconds of one validation and of one checkpoint."""
    held_out = windows(stores[1], np.arange(config.data.valid_tokens // config.model.seq_len))
    with built(config, planned) as (engine, _), tempfile.TemporaryDirectory() as folder:
        validate(engine.module, held_out[: planned.micro_batch_seqs], planned.micro_batch_seqs, device())
        began = time.perf_counter()
        validate(engine.module, held_out, planned.micro_batch_seqs, device())
        between = time.perf_counter()
        checkpoints.save(engine, Path(folder), config, checkpoints.Position(tokens=0), None)
        return between - began, time.perf_counter() - between


def with_data(config: RunConfig, data_dir: Path) -> tuple[RunConfig, Stores]:
    """The run with the fingerprint of its data, and its training and validation tokens. Raises ConfigError."""
    corpus = open_corpus(config.data, data_dir)
    config = config.model_copy(update={"data": config.data.model_copy(update={"fingerprint": corpus.fingerprint})})
    seq_len = config.model.seq_len
    return config, (open_split(corpus, "train", seq_len), open_split(corpus, "valid", seq_len))


def stacked_speed(config: RunConfig, stores: Stores, members: int, rounds: int, on_call: Callable[[], None]) -> Ratio:
    """Tokens/s of `members` stacked runs over those of the same runs one after another."""
    planned, steps = plan(config, Hardware(world_size=1)), 5
    loops = {
        "bare": bare(config, planned, stores, steps)[0],
        "stacked": stacked(config, planned, stores, steps, members)[0],
    }
    seconds = in_turn(loops, rounds, on_call)
    return ratio(seconds["stacked"] / members, seconds["bare"])
