"""Resume with another number of ranks or ZeRO stage: a checkpoint as whole tensors, and how an engine takes them in.

checkpoint/universal/<parameter>/{fp32,exp_avg,exp_avg_sq,step}.pt
                     manifest.json  size and sha256 of each

This is the layout of DeepSpeed's universal checkpoints, and its converter writes it. Its loader is not used: at ZeRO-3
it gives every optimizer group the learning rate, decay and multiplier of the first one and lets all advance one step
count, and no stage can load what was converted from another family of stages (0; 1 and 2; 3). Here the tensors go in
through DeepSpeed's accessors, the groups stay as `train.engine.wrap` built them, and everything is read back.
"""

import os
import shutil
from argparse import Namespace
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from configs.errors import ConfigError
from configs.rundir import sync
from configs.schema import RunConfig
from train.engine import Engine, whole  # before DeepSpeed itself: it settles which accelerator there is
from train.intact import damage, seal
from train.state import MOMENTS, WEIGHT, read, start_optimizer, step_of, write

# isort: split
from deepspeed.checkpoint.ds_to_universal import main as ds_to_universal


def check_convertible(config: RunConfig) -> None:
    """Refuse a run whose optimizer does not keep what is converted. Raises ConfigError."""
    if config.optimizer.kind not in ("adamw", "adam_lagged"):
        raise ConfigError(
            f"optimizer.kind = {config.optimizer.kind}: universal checkpoints hold Adam's two moments only; resume the "
            "run on as many ranks and at the ZeRO stage it was written by"
        )


def convert(checkpoint: Path) -> Path:
    """Write checkpoint/universal from checkpoint/state, of any ZeRO stage and number of ranks; return its path.

    It appears whole or not at all, takes 12 bytes a parameter, and while it is written up to 3 times what state/ does.
    Raises ConfigError if the disk has no room for that.
    """
    final, partial = checkpoint / "universal", checkpoint / "universal.partial"
    needed = 3 * sum(path.stat().st_size for path in (checkpoint / "state").iterdir())
    free = shutil.disk_usage(checkpoint).free
    if free < needed:
        raise ConfigError(
            f"{checkpoint}: {free / 1e9:.3g} GB free, converting may need {needed / 1e9:.3g} GB: make room"
        )
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        sharded = any((checkpoint / "state").glob("*_optim_states.pt"))
        merged = _merge_shards(checkpoint, partial) if sharded else _split_file(checkpoint, partial)
        seal(merged)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(merged, final)
        sync(checkpoint)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


@torch.no_grad()
def load(engine: Engine, checkpoint: Path) -> None:
    """Restore weights, both moments and Adam's step from checkpoint/universal, and read all of them back.

    `engine` must not have stepped yet. To be called on all ranks, each of which reads every file.
    Raises ConfigError if the files are damaged or of another model, RuntimeError if anything was not restored.
    """
    folder = checkpoint / "universal"
    if problem := damage(folder):
        raise ConfigError(f"{folder}: {problem}; run `bcrit universal` again")
    parameters = dict(engine.module.named_parameters())
    if other := parameters.keys() ^ {path.name for path in folder.iterdir() if path.is_dir()}:
        raise ConfigError(f"{folder}: of another model, it differs in {min(other)}: use a checkpoint of this run")
    step = max(float(_read(folder / name / "step.pt")) for name in parameters)
    if engine.basic_optimizer.state:
        raise RuntimeError("a universal checkpoint is loaded into an engine that has stepped already")
    start_optimizer(engine, step)
    for name, parameter in parameters.items():
        for key in (WEIGHT, *MOMENTS):
            write(engine, parameter, key, _tensor(folder / name / f"{key}.pt", parameter))
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer.update_lp_params()  # what the forward pass uses, from the fp32 weights
    _check(engine, folder, parameters)


def _merge_shards(checkpoint: Path, partial: Path) -> Path:
    """Stages 1 to 3, by DeepSpeed's converter."""
    arguments = Namespace(
        input_folder="state",
        output_folder=f"{partial.name}/deepspeed",
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # Relative, because DeepSpeed would read its paths as glob and regular expressions.
    with open(os.devnull, "w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet), chdir(checkpoint):
        ds_to_universal(arguments)
    merged = partial / "deepspeed" / "zero"
    settings = merged / "optimizer_state.pt"
    for path in [path for path in merged.iterdir() if path.is_dir()]:
        if not (path / f"{MOMENTS[0]}.pt").exists():
            shutil.rmtree(path)  # the converter writes a tied head's weight, once more, beside the embedding's
        elif not (path / "step.pt").exists():
            # At stage 3 the converter leaves Adam's step among the settings of the first rank's optimizer.
            optimizer = torch.load(settings, weights_only=False, mmap=True, map_location="cpu")["optimizer_state_dict"]
            torch.save(optimizer["state"][0]["step"].clone(), path / "step.pt")
    settings.unlink()
    return merged


def _split_file(checkpoint: Path, partial: Path) -> Path:
    """Stage 0, which keeps everything in one file, and which DeepSpeed's converter does not read."""
    path = checkpoint / "state" / "mp_rank_00_model_states.pt"
    saved = torch.load(path, weights_only=False, mmap=True, map_location="cpu")
    merged = partial / "zero"
    for group in saved["optimizer"]["param_groups"]:
        for name, index in zip(group["names"], group["params"], strict=True):
            state = saved["optimizer"]["state"][index]
            (merged / name).mkdir(parents=True)
            torch.save({"param": saved["module"][name].clone()}, merged / name / f"{WEIGHT}.pt")
            for key in MOMENTS:
                torch.save({"param": state[key].clone()}, merged / name / f"{key}.pt")
            torch.save(state["step"].clone(), merged / name / "step.pt")
    return merged


def _check(engine: Engine, folder: Path, parameters: dict[str, nn.Parameter]) -> None:
    """Compare what the engine holds with the files, bit for bit; a rank speaks only when all have read."""
    step = step_of(engine)
    wrong = [f"step of {name}" for name in parameters if _read(folder / name / "step.pt") != step]
    for name, parameter in parameters.items():
        weight, *moments = (_tensor(folder / name / f"{key}.pt", parameter) for key in (WEIGHT, *MOMENTS))
        with whole(parameter):
            if not torch.equal(parameter.detach().cpu(), weight.to(parameter.dtype)):
                wrong.append(name)
        for key, value in zip((WEIGHT, *MOMENTS), (weight, *moments), strict=True):
            held = read(engine, parameter, key)
            if held is None or not torch.equal(held.cpu(), value):
                wrong.append(f"{key} of {name}")
    if wrong:
        raise RuntimeError(f"{folder}: {len(wrong)} tensors were not restored, the first is {wrong[0]}")


def _tensor(path: Path, parameter: nn.Parameter) -> torch.Tensor:
    """A weight or moment in the shape of `parameter`; the converter writes it flat at stage 3."""
    loaded = _read(path)
    value = loaded["param"] if isinstance(loaded, dict) else loaded
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if value.numel() != shape.numel():
        raise ConfigError(f"{path}: {value.numel():,} elements, the model has {shape.numel():,}: it is another model's")
    return value.view(shape)


def _read(path: Path) -> Any:
    return torch.load(path, weights_only=True, map_location="cpu")
