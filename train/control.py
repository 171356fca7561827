"""When to stop: a signal, a STOP file, or the death of a process that this one was started by."""

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from configs.claims import process_alive, process_start

LAUNCHERS = {"deepspeed", "deepspeed.launcher.runner", "deepspeed.launcher.launch", "torchrun", "torch.distributed.run"}
_signalled = False


def catch_signals() -> None:
    """Turn SIGTERM, SIGINT and SIGUSR1 (what SLURM sends before a time limit) into a request to stop after the step."""

    def note(number: int, frame: object) -> None:
        global _signalled
        _signalled = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, note)


def launchers() -> list[int]:
    """The launcher processes above this one.

    A signal to DeepSpeed's runner ends it and leaves its ranks running, and so does SIGUSR1 or SIGKILL to the process
    between, and to SLURM's slurmstepd; the ranks watch for that. A shell above them may end without a meaning.
    """
    found, pid = [], os.getppid()
    while pid > 1 and _is_launcher(pid):
        found.append(pid)
        pid = _parent(pid)
    return found


def stop_watch(stop_files: Iterable[Path], processes: Iterable[int]) -> Callable[[], bool]:
    """A function that says whether to stop: after a signal, when a file exists, or when one of the processes is gone.

    A pid of 0 or less stands for a process that is gone already.
    """
    files = tuple(stop_files)
    started = {pid: process_start(pid) for pid in processes}

    def stop() -> bool:
        if _signalled or any(os.path.exists(path) for path in files):
            return True
        return any(not then or not process_alive(pid, then) for pid, then in started.items())

    return stop


def _is_launcher(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False
    return command[0].startswith("slurmstepd:") or any(Path(part).name in LAUNCHERS for part in command)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
