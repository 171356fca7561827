"""Run directories -> the run table: one row per run and budget, the only thing the laws are fitted to."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.noise_scale import Moments, last_scale
from analysis.stability import catapults
from analysis.trajectories import trajectory
from configs.expressions import number_text
from configs.fields import NOT_SCIENCE, values
from configs.moments import half_life_tokens
from configs.plan import n_params, start_tokens
from configs.rundir import (
    Status,
    manifest_ids,
    read_config,
    read_json,
    read_metrics,
    read_status,
    run_dir_of,
    write_atomic,
)
from configs.schema import RunConfig

KINDS = ("embedding", "attention", "ffn", "residual", "logits")

COLUMNS: dict[str, str] = {
    "run_id": "content hash of what defines the run's result",
    "study": "name of the study",
    "status": "finished, diverged, or where an unfinished run stands",
    "width": "N: residual width",
    "depth": "number of blocks",
    "n_params": "number of parameters",
    "seq_len": "tokens of a sequence",
    "batch_tokens": "B: tokens per optimizer step",
    "lr": "peak learning rate at base width",
    "seed": "seed of the initialisation and the data order",
    "tokens": "T: tokens seen at this row's readout, a branch's with those of its trunk",
    "loss": "validation loss in nats; empty if the run diverged or has not come this far",
    "ema_loss": "validation loss of the averaged weights, if the run keeps an average",
    "train_loss": "mean training loss in nats since the previous training record",
    "loss_init": "validation loss before the first step",
    "step_noise": "B_noise in tokens, as `bcrit surge` measured it by line search at this readout; empty if it did not",
    "budget_tokens": "tokens of the whole run",
    "parent": "run id of the trunk that the run branches off, which has no rows itself; empty if from scratch",
    "branch_tokens": "tokens at which it left its trunk; 0 if from scratch",
    "schedule": "kind of learning-rate schedule",
    "parametrization": "mup or sp",
    "setting": "fields in which runs of the study differ at the same N, T, B, lr and seed; empty if there are none",
    "optimizer": "kind of optimizer",
    "second_moment": "Adam's second moment before the first step: zero, gradient (GI-Adam) or random",
    "warmup": "what the warmup starts from and follows: linear, critical or catapult",
    "warmup_tokens": "length of the warmup that was asked for; 0: none",
    "lr_start": "critical: the rate before the first step; empty for linear, as are the next three",
    "warmup_passes": "forward passes that the search for critical rates took",
    "reached_tokens": "T_reach: tokens after which the rate was the peak; empty if it never was",
    "saved_tokens": "T_save: tokens saved of a linear warmup, a forward pass counted as half a step",
    "sharpness_init": "largest Hessian eigenvalue before the first step, if the run has sharpness probes",
    "preconditioned_init": "that of Adam's P^-1 H",
    "catapults": "times that the probe batch's loss rose by 5 % when P^-1 H was above its threshold",
    "vocab_size": "rows of the embedding",
    "precision": "compute precision",
    "zero_stage": "DeepSpeed ZeRO stage",
    "world_size": "number of ranks",
    "data_fingerprint": "hash of the packed data",
    "code_version": "commit that trained it",
    "noise_scale": "gradient noise scale in tokens, smoothed up to this readout, if the run logs its noise",
    "noise_scale_low": "lower end of its 95 % interval",
    "noise_scale_high": "upper end; this and the scale itself are empty if the mean gradient may be zero",
    "noise_of": "gradients of all parameters, or of the norms' gains",
    "spikes": "steps whose training loss stood out (spike_ratio)",
    "skipped": "steps left out because of it (on_spike)",
    "tokens_per_s": "training speed of the last attempt",
    "seconds": "seconds in training and validation over all attempts, without the trunk's",
    "startup_seconds": "seconds from the launch of the worker to its first run; 0 for its later runs",
    "peak_memory_bytes": "most memory the process held",
    **{f"rms_{kind}": f"RMS of {kind} activations at this readout" for kind in KINDS},
    **{f"rms_{kind}_init": f"RMS of {kind} activations before the first step" for kind in KINDS},
}


def build_table(study_dir: Path) -> pd.DataFrame:
    """The run table of a study, in the manifest's order; runs that never started have rows without a loss.

    A trunk is no point of the grid: its loss, under another schedule, is left out, and named by its branches' rows.
    Raises ConfigError if `study_dir` holds no study.
    """
    run_dirs = [run_dir_of(study_dir, identity) for identity in manifest_ids(study_dir)]
    configs = {run_dir: read_config(run_dir) for run_dir in run_dirs}
    trunks = {config.branch.parent for config in configs.values() if config.branch}
    grid = {run_dir: config for run_dir, config in configs.items() if run_dir.name not in trunks}
    about = {"study": study_dir.name}
    settings = _settings(list(grid.values()))
    rows = [
        row
        for (run_dir, config), setting in zip(grid.items(), settings, strict=True)
        for row in _rows(run_dir, config, about | {"setting": setting})
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_table(table: pd.DataFrame, study_dir: Path) -> tuple[Path, Path]:
    """Write table.parquet and table.csv, each atomically; return their paths."""
    parquet, csv = study_dir / "table.parquet", study_dir / "table.csv"
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(parquet, buffer.getvalue())
    write_atomic(csv, table.to_csv(index=False))
    return parquet, csv


def _settings(configs: list[RunConfig]) -> list[str | None]:
    """What tells runs apart that are at the same place of the grid, such as `hidden_init_std=0.125`; None if nothing.

    A field that always moves with N, T, B, lr or seed names no setting, nor does what defines no result.
    """
    flat = [{k: v for k, v in values(config).items() if not k.startswith(NOT_SCIENCE)} for config in configs]
    places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for config, fields in zip(configs, flat, strict=True):
        place = (config.model.width, config.budget_tokens, config.batch_tokens, config.lr, config.seed)
        places.setdefault(place, []).append(fields)
    varied = [name for name in (flat or [{}])[0] if any(len({f[name] for f in here}) > 1 for here in places.values())]
    shown = [" ".join(f"{name.rpartition('.')[2]}={_short(fields[name])}" for name in varied) for fields in flat]
    return [text or None for text in shown]


def _short(value: Any) -> str:
    return number_text(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _rows(run_dir: Path, config: RunConfig, about_study: dict[str, Any]) -> list[dict[str, Any]]:
    status = read_status(run_dir)
    by_tokens = {readout.tokens: readout for readout in status.readouts}
    start = by_tokens.get(0)
    noise = _noise(run_dir) if config.log.noise else []
    rows = []
    for tokens in dict.fromkeys((*config.readout_tokens, config.budget_tokens)):
        readout = by_tokens.get(tokens)
        rows.append(
            about_study
            | _about_run(run_dir, config, status)
            | {
                "tokens": tokens,
                "loss": readout.loss if readout else None,
                "ema_loss": readout.ema_loss if readout else None,
                "train_loss": readout.train_loss if readout else None,
                "loss_init": start.loss if start else None,
                "step_noise": _step_noise(run_dir, tokens),
            }
            | (_noise_scale(noise, config, tokens) if readout else {})
            | {f"rms_{kind}": value for kind, value in (readout.rms if readout else {}).items()}
            | {f"rms_{kind}_init": value for kind, value in (start.rms if start else {}).items()}
        )
    return rows


def _noise(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(run_dir) if row["kind"] == "noise"]


def _noise_scale(noise: list[dict[str, Any]], config: RunConfig, tokens: int) -> dict[str, Any]:
    """Of the records of the gradient's noise up to `tokens`; nothing without any."""
    seen = [row for row in noise if row["tokens"] <= tokens]
    if not seen:
        return {}
    start, at = start_tokens(config), np.array([row["tokens"] for row in seen], float)
    moments = Moments(*(np.array([row[name] for row in seen], float) for name in Moments._fields))
    scale = last_scale(at, moments, half_life_tokens(config.budget_tokens - start), start=start)
    return {
        "noise_scale": scale.value,
        "noise_scale_low": scale.low,
        "noise_scale_high": scale.high,
        "noise_of": seen[-1]["of"],
    }


def _about_run(run_dir: Path, config: RunConfig, status: Status) -> dict[str, Any]:
    return {
        "run_id": run_dir.name,
        "status": status.state,
        "width": config.model.width,
        "depth": config.model.depth,
        "n_params": n_params(config.model),
        "seq_len": config.model.seq_len,
        "batch_tokens": config.batch_tokens,
        "lr": config.lr,
        "seed": config.seed,
        "budget_tokens": config.budget_tokens,
        "parent": config.branch.parent if config.branch else None,
        "branch_tokens": start_tokens(config),
        "schedule": config.schedule.kind,
        "parametrization": config.model.parametrization,
        "optimizer": config.optimizer.kind,
        "second_moment": config.optimizer.second_moment,
        "warmup": config.schedule.warmup,
        "warmup_tokens": config.schedule.warmup_tokens,
        **_about_warmup(run_dir, config, status),
        "vocab_size": config.model.vocab_size,
        "precision": config.precision,
        "zero_stage": status.zero_stage,
        "world_size": status.world_size,
        "data_fingerprint": config.data.fingerprint,
        "code_version": _code_version(run_dir),
        "spikes": status.spikes,
        "skipped": status.skipped,
        "tokens_per_s": status.tokens_per_s,
        "seconds": status.seconds,
        "startup_seconds": status.startup_seconds,
        "peak_memory_bytes": status.peak_memory_bytes,
    }


def _step_noise(run_dir: Path, tokens: int) -> float | None:
    path = run_dir / "surge" / f"{tokens:015d}" / "surge.json"
    return read_json(path)["measured"]["noise_from_drop"]["value"] if path.exists() else None


def _about_warmup(run_dir: Path, config: RunConfig, status: Status) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if status.warmup:
        found = {
            "lr_start": status.warmup.lr_start,
            "warmup_passes": status.warmup.passes,
            "reached_tokens": status.warmup.reached_tokens,
            "saved_tokens": status.warmup.saved_tokens,
        }
    probes = trajectory(run_dir, config) if config.log.sharpness.every_tokens else pd.DataFrame()
    if len(probes):
        first = probes.iloc[0]
        found |= {"sharpness_init": first["sharpness"], "preconditioned_init": first["preconditioned"]}
        found["catapults"] = len(catapults(probes["loss"].tolist(), probes["ratio"].tolist()).starts)
    return found


def _code_version(run_dir: Path) -> str | None:
    try:
        return json.loads((run_dir / "provenance.json").read_text())["code_version"]
    except FileNotFoundError:
        return None
