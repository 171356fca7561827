"""Real processes for the tests: the trainer under the `deepspeed` launcher, and the `bcrit` command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from launch.local import free_ports

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}


def deepspeed(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`deepspeed --num_gpus RANKS train/pretrain.py ARGUMENTS`, to its end."""
    command = _deepspeed(ranks, arguments)
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300)


def start_deepspeed(ranks: int, *arguments: object, log: Path) -> subprocess.Popen:
    """The same in a session of its own, not waited for; its output is appended to `log`."""
    with log.open("a") as out:
        return subprocess.Popen(
            _deepspeed(ranks, arguments), env=ENVIRONMENT, cwd=ROOT, stdout=out, stderr=out, start_new_session=True
        )


def bcrit(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The `bcrit` command, to its end."""
    return subprocess.run(bcrit_command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=900)


def start_bcrit(*arguments: object) -> subprocess.Popen:
    """The `bcrit` command in a session of its own, not waited for."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        bcrit_command(*arguments), env=ENVIRONMENT, stdout=quiet, stderr=quiet, start_new_session=True
    )


def kill_everything(pid: int) -> None:
    """SIGKILL a process and all it started, in whatever session, as the loss of the machine would."""
    found: set[int] = set()
    while new := {pid, *descendants(pid)} - found:
        found |= new
        send(new, signal.SIGSTOP)  # so that none starts another one meanwhile
    send(found, signal.SIGKILL)


def send(pids: Iterable[int], number: int) -> None:
    """A signal to those processes that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(text.split()[0]))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def mentioning(text: str) -> list[int]:
    """Processes with `text` in their command line."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in command.read_bytes():
                found.append(int(command.parent.name))
        except OSError:
            continue
    return found


def _deepspeed(ranks: int, arguments: tuple[object, ...]) -> list[str]:
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks)]
    port = ["--master_port", str(free_ports(1)[0])]
    return [*launcher, *port, str(ROOT / "train" / "pretrain.py"), *map(str, arguments)]


def bcrit_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *map(str, arguments)]
