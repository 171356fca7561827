"""Weights & Biases as a mirror of the run directory, under the run's hash; the only file that knows wandb.

Online, rows are sent as they come. Offline, the whole run is written once, when it has ended: offline segments of a
resumed run overlap and are merged wrongly by `wandb sync`, a replay of the run directory is not.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.identity import run_id
from configs.rundir import Status, read_metrics
from configs.schema import RunConfig

log = logging.getLogger(__name__)


def live_mirror(config: RunConfig, run_dir: Path, study: str) -> tuple[Callable[[dict], None], Callable[[Status], None]]:
    """Functions (on each row, at the end) that mirror a run as `config.log.wandb` asks.

    A mirror that fails says so once and is dropped: nothing here stops or fails a run.
    """
    if config.log.wandb == "online":
        return _guarded_online(config, run_dir, study)
    if config.log.wandb == "offline":
        return (lambda row: None), (lambda status: _replay(config, run_dir, study, status))
    return (lambda row: None), (lambda status: None)


def _guarded_online(
    config: RunConfig, run_dir: Path, study: str
) -> tuple[Callable[[dict], None], Callable[[Status], None]]:
    mirror = _open(config, run_dir, study, "online")

    def on_row(row: dict) -> None:
        nonlocal mirror
        if mirror is not None:
            try:
                mirror.log(_metrics(row))
            except Exception as error:
                log.warning("wandb stopped for %s: %s", run_dir.name, error)
                mirror = None

    def at_end(status: Status) -> None:
        if mirror is not None:
            _close(mirror, status, run_dir)

    return on_row, at_end


def _replay(config: RunConfig, run_dir: Path, study: str, status: Status) -> None:
    if status.state not in ("finished", "diverged"):
        return
    mirror = _open(config, run_dir, study, "offline")
    if mirror is None:
        return
    for row in read_metrics(run_dir):
        mirror.log(_metrics(row))
    _close(mirror, status, run_dir)


def _open(config: RunConfig, run_dir: Path, study: str, mode: str) -> Any:
    try:
        import wandb

        mirror = wandb.init(
            mode=mode,  # pyright: ignore[reportArgumentType]
            dir=str(run_dir),
            id=run_id(config),
            resume="allow" if mode == "online" else None,
            project=config.log.wandb_project,
            entity=config.log.wandb_entity,
            group=study,
            tags=[config.model.parametrization, config.schedule.kind],
            name=f"{study}-N{config.model.width}-B{config.batch_tokens}-lr{config.lr:.3g}-s{config.seed}",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True, init_timeout=30, x_disable_stats=True),
        )
        mirror.define_metric("*", step_metric="tokens")
        return mirror
    except Exception as error:
        log.warning("wandb is not available for %s: %s", run_dir.name, error)
        return None


def _close(mirror: Any, status: Status, run_dir: Path) -> None:
    try:
        mirror.summary.update({"state": status.state, **{f"loss_{r.tokens}": r.loss for r in status.readouts}})
        mirror.finish(exit_code=0)
    except Exception as error:
        log.warning("wandb could not finish %s: %s", run_dir.name, error)


def _metrics(row: dict) -> dict[str, Any]:
    """A metrics row as W&B keys: train/loss, valid/loss, ... beside `tokens`."""
    kind = row["kind"]
    return {"tokens": row["tokens"]} | {
        f"{kind}/{key}": value for key, value in row.items() if key not in ("kind", "tokens", "step")
    }
