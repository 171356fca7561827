"""Checkpoints that exist whole or not at all, and are known to be whole when they are read.

run_dir/checkpoints/<tokens>/
    state/         DeepSpeed's files: weights, master weights, moments
    ema.pt         the averaged weights, if the run keeps them
    position.json  everything else that a run needs to go on; whose it is, and how it was written
    manifest.json  size and sha256 of every file above
    universal/     the same tensors whole, written by `bcrit universal` for another number of ranks or stage

A checkpoint is written beside, synced, renamed, and only then are older ones pruned: at no moment is there none.
DeepSpeed's own `latest` file is written before other ranks have finished, so it is not used. The data order is a pure
function of (seed, sample number) and there is no dropout, so no loader or generator has a state.
"""

import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from configs.claims import TAKEN_OVER, lost
from configs.errors import ConfigError
from configs.identity import run_id
from configs.rundir import path_of, read_json, sync, write_json
from configs.schema import RunConfig
from train import universal
from train.engine import Engine
from train.intact import damage, seal
from train.noise import NoiseState
from train.ranks import on_rank_0, say

BYTES_PER_PARAM = 20  # 4 of weights, 12 of master weights and moments, 4 of an average: the most that is written


@dataclass
class Position:
    """Where a run stands between two steps, beside its tensors."""

    tokens: int
    pending: list[float] = field(default_factory=list)  # step losses since the last record, means over ranks
    level: float | None = None  # what the loss of the next step is compared with
    readouts: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    spikes: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    noise: NoiseState = field(default_factory=NoiseState)
    warmup: dict[str, Any] | None = None  # what a warmup that looks at the loss has found; see `train.warmup`


def save(
    engine: Engine, run_dir: Path, config: RunConfig, position: Position, ema: dict[str, torch.Tensor] | None
) -> None:
    """Write the checkpoint of `position`. Raises ConfigError, the same on all ranks, if the disk has no room for it."""
    root = run_dir / "checkpoints"
    partial, final = root / f"{position.tokens:015d}.partial", path_of(run_dir, position.tokens)
    writes = dist.get_rank() == 0
    needed = BYTES_PER_PARAM * sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
    on_rank_0(lambda: _start(run_dir, partial, needed))
    try:
        engine.save_checkpoint(str(partial), tag="state", save_latest=False, client_state={})
        if writes:
            for script in partial.glob("*.py"):  # DeepSpeed's converters; `bcrit export` does their work
                script.unlink()
            if ema is not None:
                torch.save(ema, partial / "ema.pt")
            shape = {"world_size": dist.get_world_size(), "zero_stage": engine.zero_optimization_stage()}
            owner = {"run_id": run_id(config), "model": config.model.model_dump(mode="json")}
            write_json(partial / "position.json", asdict(position) | shape | owner)
        dist.barrier()
        seal(partial)
        if writes:
            shutil.rmtree(final, ignore_errors=True)
            os.rename(partial, final)
            sync(root)
    except (OSError, RuntimeError):  # torch says "PytorchStreamWriter failed" where the disk is full
        shutil.rmtree(partial, ignore_errors=True)
        raise
    dist.barrier()


def prune(run_dir: Path, last: int, newest: int, kept: Collection[int]) -> None:
    """Drop all checkpoints but the `last` newest and those at the tokens `kept`; to be called on one rank.

    `newest` is where the run stands: a checkpoint beyond it was damaged and passed over, and is of no use.
    """
    root = run_dir / "checkpoints"
    whole = [path for path in _whole(run_dir) if int(path.name) <= newest]
    for path in set(root.glob("*")) - {path_of(run_dir, tokens) for tokens in kept} - set(whole[:last]):
        doomed = path.with_suffix(".partial")  # so that one half removed does not pass for whole
        if path != doomed:
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    if root.exists() and not any(root.iterdir()):
        root.rmdir()


def resume(engine: Engine, run_dir: Path, config: RunConfig) -> tuple[Position, dict[str, torch.Tensor] | None]:
    """Restore the newest intact checkpoint of a run, or its trunk's where it branches off, or nothing.

    Returns the position and the averaged weights, if there are any. A branch inherits of its trunk's readouts only
    the one before the first step, and none of its records.
    """
    own = newest_intact(run_dir)
    if own:
        return load(engine, own, run_id(config), config), load_ema(own)
    if not config.branch:
        return Position(tokens=0), None
    trunk = path_of(run_dir.parent / config.branch.parent, config.branch.tokens)
    if problem := damage(trunk):
        raise ConfigError(f"{trunk}: {problem}: train the trunk again, without that directory")
    position = load(engine, trunk, config.branch.parent, config)
    start = [readout for readout in position.readouts if readout["tokens"] == 0]
    return Position(tokens=position.tokens, level=position.level, readouts=start), load_ema(trunk)


def newest_intact(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run whose files are as they were written; None if it has none.

    A damaged one is passed over with a warning. Raises ConfigError if all are damaged. Called on all ranks, which share
    the reading.
    """
    found = on_rank_0(lambda: _whole(run_dir))
    for path in found:
        if not (problem := damage(path)):
            return path
        say(f"warning: {path} is passed over: {problem}")
    if found:
        raise ConfigError(f"{found[0].parent}: no checkpoint is intact; remove that directory to start the run again")
    return None


def load(engine: Engine, checkpoint: Path, owner: str, config: RunConfig) -> Position:
    """Restore weights and moments from an intact checkpoint of the run `owner`, and return its position.

    Raises ConfigError if it is another run's, or was written by another number of ranks or ZeRO stage and not made
    universal since.
    """
    saved = read_json(checkpoint / "position.json")
    model = config.model.model_dump(mode="json")
    for name in model:
        if saved["model"].get(name) != model[name]:
            raise ConfigError(
                f"{checkpoint}: of a model with {name} = {saved['model'].get(name)}, here it is {model[name]}: "
                "use the checkpoint of this run, or remove it"
            )
    if saved["run_id"] != owner:
        raise ConfigError(f"{checkpoint}: belongs to run {saved['run_id']}, not to {owner}: remove it")
    shape = (dist.get_world_size(), engine.zero_optimization_stage())
    if (saved["world_size"], saved["zero_stage"]) == shape:
        found, _ = engine.load_checkpoint(str(checkpoint), tag="state")
        if found is None:
            raise RuntimeError(f"{checkpoint}: DeepSpeed did not load it")
    elif on_rank_0((checkpoint / "universal").is_dir):
        universal.load(engine, checkpoint)
    else:
        raise ConfigError(
            f"{checkpoint}: written by {saved['world_size']} rank(s) at ZeRO-{saved['zero_stage']}, resumed by "
            f"{shape[0]} at ZeRO-{shape[1]}: run `bcrit universal {checkpoint.parent.parent}` first, "
            "or resume as it was written"
        )
    known: dict[str, Any] = {name: saved[name] for name in Position.__dataclass_fields__ if name in saved}
    known["noise"] = NoiseState(**saved.get("noise", {}))
    return Position(**known)


def load_ema(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """The averaged weights of a checkpoint, if it has any."""
    path = checkpoint / "ema.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def _start(run_dir: Path, partial: Path, needed: int) -> None:
    if lost(run_dir):
        raise ConfigError(f"{run_dir}: {TAKEN_OVER}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    free = shutil.disk_usage(partial).free
    if free < needed:
        partial.rmdir()
        raise ConfigError(
            f"{partial.parent}: {free / 1e9:.3g} GB free, a checkpoint may need {needed / 1e9:.3g} GB: "
            "make room and resume; the last checkpoint is intact"
        )


def _whole(run_dir: Path) -> list[Path]:
    """Checkpoints that were written to their end, the newest first."""
    return sorted((p for p in (run_dir / "checkpoints").glob("*") if p.name.isdigit()), reverse=True)
