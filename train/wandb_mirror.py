"""The process that mirrors a worker's runs to Weights & Biases by the client, one after another; see `train.mirror`.

It reads what the trainer writes. Online, rows are sent while the run goes on, from the first one that the server lacks.
Offline, the whole run is written once, when it has ended: offline segments of a resumed run overlap and are merged
wrongly by `wandb sync`, a replay of the run directory is not.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from configs.mirrored import Row, described, history, outcome
from configs.rundir import ENDED, metrics_path, read_config, read_metrics, read_status
from configs.schema import RunConfig

log = logging.getLogger(__name__)

EVERY_S = 2.0  # between looks at a run's metrics
RETRY_S = 60.0  # until a run that could not be mirrored is tried again
FINISH_S = 20.0  # for the client to send the last rows
INIT_S = 30.0  # for the client to find the server


@dataclass
class Followed:
    """A run that a worker has begun; `ended` is set when its attempt has, or the worker is gone."""

    run_dir: Path
    study: str
    attempt: int
    ended: threading.Event = field(default_factory=threading.Event)


def main() -> None:
    """Mirror what standard input tells of, until it is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # what stops the worker ends in a closed pipe
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(10)
    runs: SimpleQueue[Followed | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(_own_stdin(), runs), daemon=True).start()
    while run := runs.get():
        mirror(run)


def _own_stdin() -> TextIO:
    """Standard input, taken from under the client's service, which would hold the pipe open if this process died."""
    told = os.fdopen(os.dup(sys.stdin.fileno()))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return told


def _listen(lines: Iterable[str], runs: "SimpleQueue[Followed | None]") -> None:
    begun: list[Followed] = []
    for line in lines:
        message = json.loads(line)
        if "ended" in message:
            for run in begun:
                if str(run.run_dir) == message["ended"]:
                    run.ended.set()
        else:
            begun.append(Followed(Path(message["run_dir"]), message["study"], message["attempt"]))
            runs.put(begun[-1])
    for run in begun:  # the worker is gone, whatever it said
        run.ended.set()
    runs.put(None)


def mirror(run: Followed) -> None:
    """Mirror one run as its `log.wandb` asks; what goes wrong is logged, and tried again while the run goes on."""
    while True:
        try:
            config = read_config(run.run_dir)
            if config.log.wandb == "online":
                _follow(run, config)
            else:
                _replay(run, config)
            return
        except Exception as error:  # wandb raises its own, the network's, the disk's and protobuf's
            reason = (str(error).splitlines() or [""])[0]
            log.warning("%s is not mirrored to wandb: %s: %s", run.run_dir.name, type(error).__name__, reason)
        _forget_client()
        if run.ended.is_set():
            return
        run.ended.wait(RETRY_S)


def _follow(run: Followed, config: RunConfig) -> None:
    begun = metrics_path(run.run_dir, run.attempt)
    while not (begun.exists() and begun.stat().st_size):  # until then rows that this attempt undoes would count
        if run.ended.wait(EVERY_S / 4):
            break
    with _client(run, config, "online") as live:
        there, ended = live.starting_step, False
        while not ended:
            ended = run.ended.wait(EVERY_S)  # before the look: what was written until the end is seen
            lines = history(read_metrics(run.run_dir))
            _log(live, lines[there:])
            there = max(there, len(lines))


def _replay(run: Followed, config: RunConfig) -> None:
    run.ended.wait()
    if read_status(run.run_dir).state in ENDED:
        with _client(run, config, "offline") as replay:
            _log(replay, history(read_metrics(run.run_dir)))


@contextlib.contextmanager
def _client(run: Followed, config: RunConfig, mode: str) -> Iterator[Any]:
    """The run as the client knows it, finished at the end of the block as its status says."""
    import wandb

    about = described(config, run.study)
    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=INIT_S,
        finish_timeout=FINISH_S,
        finish_timeout_raises=True,
        x_disable_stats=True,
    )
    client = wandb.init(
        mode=mode,  # pyright: ignore[reportArgumentType]
        dir=str(run.run_dir),
        id=about.id,
        resume="allow" if mode == "online" else None,
        project=config.log.wandb_project,
        entity=config.log.wandb_entity,
        group=about.group,
        tags=list(about.tags),
        name=about.name,
        config=about.config,
        settings=settings,
    )
    client.define_metric("*", step_metric="tokens")
    yield client
    status = read_status(run.run_dir)
    client.summary.update(outcome(status))
    if status.state == "preempted":
        client.mark_preempting()
    client.finish(exit_code=0 if status.state in ENDED else 1)


def _log(client: Any, lines: Iterable[Row]) -> None:
    for line in lines:
        client.log({key: value for key, value in line.items() if key != "_step"}, step=line["_step"], commit=True)


def _forget_client() -> None:
    """End a client that may have lost its service, so that the next run starts another."""
    with contextlib.suppress(Exception):
        import wandb

        wandb.teardown(exit_code=1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    logging.raiseExceptions = False  # on a full disk the client's log says so in thousands of lines
    main()
