"""When to stop: a signal, a STOP file or the death of the process that started us; all ranks agree before acting."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from configs.claims import process_alive, process_start

_signalled = False


def catch_signals() -> None:
    """Turn SIGTERM, SIGINT and SIGUSR1 (what SLURM sends before a time limit) into a request to stop after the step."""

    def note(number: int, frame: object) -> None:
        global _signalled
        _signalled = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, note)


def stop_watch(stop_files: tuple[Path, ...], parent_pid: int | None) -> Callable[[], bool]:
    """A function that says whether to stop: after a signal, when a file exists, or when the parent is gone."""
    parent_started = process_start(parent_pid) if parent_pid else ""

    def stop() -> bool:
        if _signalled or any(os.path.exists(path) for path in stop_files):
            return True
        return parent_pid is not None and not process_alive(parent_pid, parent_started)

    return stop


def agree(mine: bool, other: bool, device: torch.device) -> tuple[bool, bool]:
    """Two decisions that hold for all ranks: yes to the first if any rank says so, to the second if rank 0 does."""
    if dist.get_world_size() == 1:
        return mine, other
    flags = torch.tensor([mine, other and dist.get_rank() == 0], dtype=torch.int32, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    first, second = flags.tolist()
    return bool(first), bool(second)
