"""The worker's side of the Weights & Biases mirror: a process beside it, told which run is under way.

That process reads the run directory (`train.wandb_mirror`), so that no step ever waits for it: not for a dead network,
a full disk or a killed client, and Python's lock is not shared. What it misses, `bcrit sync` sends later.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "train.wandb_mirror")
PATIENCE_S = 30.0  # for the mirror to finish once the last run has ended
HURRY_S = 2.0  # when other ranks wait for this one to die

Tell = Callable[..., None]


@contextmanager
def mirroring() -> Iterator[Tell]:
    """Yields `tell(run_dir=..., study=..., attempt=...)` for a run that begins and `tell(ended=run_dir)` at its end.

    The process is started when the first run begins, and ended with the block. Nothing here raises or waits, but for
    PATIENCE_S at the end, or HURRY_S after an error.
    """
    process: subprocess.Popen[bytes] | None = None

    def tell(**message: object) -> None:
        nonlocal process
        try:
            if process is None and "ended" in message:
                return
            process = process or _start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
        except OSError as error:  # it was killed (EPIPE), hangs with a full pipe (EAGAIN), or cannot be started
            log.warning("no mirror to wandb: %s; `bcrit sync` will send what is missing", error)
            if process is not None:
                process.kill()
                process = None  # the next run starts another

    patience_s = HURRY_S
    try:
        yield tell
        patience_s = PATIENCE_S
    finally:
        if process is not None:
            _end(process, patience_s)


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # A session of its own: Ctrl-C is for the worker, whose end the mirror sees by its closed pipe.
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, bufsize=0, env=os.environ | {"PYTHONPATH": path}, start_new_session=True
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        log.warning("the mirror to wandb did not finish in %.0f s; `bcrit sync` will send the rest", patience_s)
        process.kill()
        process.wait()
