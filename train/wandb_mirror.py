"""Weights & Biases as a mirror of the run directory, under the run's hash; the only file that knows wandb.

Online, rows are sent as they come. Offline, the whole run is written once, when it has ended: offline segments of a
resumed run overlap and are merged wrongly by `wandb sync`, a replay of the run directory is not.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.identity import run_id
from configs.rundir import ENDED, Status, read_metrics
from configs.schema import RunConfig

log = logging.getLogger(__name__)

OnRow = Callable[[dict[str, Any]], None]
AtEnd = Callable[[Status], None]


def open_mirror(config: RunConfig, run_dir: Path, study: str) -> tuple[OnRow, AtEnd]:
    """What to call on each metrics row and at the end, so that the run is mirrored as `config.log.wandb` asks.

    A mirror that fails says so and is dropped: nothing here stops or fails a run.
    """
    mode, mirror = config.log.wandb, None
    if mode == "online":
        with _harmless(run_dir):
            mirror = _start(config, run_dir, study)

    def on_row(row: dict[str, Any]) -> None:
        nonlocal mirror
        if mirror is not None:
            live, mirror = mirror, None
            with _harmless(run_dir):
                live.log(_keys(row))
                mirror = live

    def at_end(status: Status) -> None:
        with _harmless(run_dir):
            if mirror is not None:
                _finish(mirror, status)
            elif mode == "offline" and status.state in ENDED:
                replay = _start(config, run_dir, study)
                for row in read_metrics(run_dir):
                    replay.log(_keys(row))
                _finish(replay, status)

    return on_row, at_end


@contextmanager
def _harmless(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # wandb raises its own, the network's, the disk's and protobuf's
        log.warning("%s is not mirrored to wandb: %s: %s", run_dir.name, type(error).__name__, error)


def _start(config: RunConfig, run_dir: Path, study: str) -> Any:
    import wandb

    mirror = wandb.init(
        mode="online" if config.log.wandb == "online" else "offline",
        dir=str(run_dir),
        id=run_id(config),
        resume="allow" if config.log.wandb == "online" else None,
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


def _finish(mirror: Any, status: Status) -> None:
    mirror.summary.update({"state": status.state, **{f"loss_{r.tokens}": r.loss for r in status.readouts}})
    mirror.finish(exit_code=0)


def _keys(row: dict[str, Any]) -> dict[str, Any]:
    """A metrics row as W&B keys: train/loss, valid/loss, ... beside `tokens`; what is unknown is left out."""
    kind = row["kind"]
    named = {key: value for key, value in row.items() if key not in ("kind", "tokens", "step")}
    values = {f"{kind}/{key}": value for key, value in named.items() if value is not None}
    return {"tokens": row["tokens"], **values}
