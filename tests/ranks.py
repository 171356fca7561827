"""Ranks without a launcher: each is forked from a process that has imported everything, so that a start costs little.

A launcher and its ranks take twenty seconds of CPU before anything happens. Tests of what launchers do start them as a
user would: tests/train/test_pretrain.py, tests/train/test_signals.py, tests/launch/test_kill.py, tests/parity.
"""

import multiprocessing
import multiprocessing.connection
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch.local import Layout, free_ports

PATIENCE_S = 300.0
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["tests.preloaded"])


def start_ranks(count: int, entry: Callable, *arguments: object, log: Path) -> list:
    """`entry(*arguments)` in processes that know each other as a launcher's do; they write to the end of `log`."""
    port = free_ports(1)[0]
    ranks = [forkserver.Process(target=_rank, args=(i, count, port, log, entry, arguments)) for i in range(count)]
    for rank in ranks:
        rank.start()
    return ranks


def wait_for_ranks(ranks: list, grace_s: float = PATIENCE_S, patience_s: float = PATIENCE_S) -> list[int]:
    """Exit codes. When one rank has ended, the others get `grace_s`, then what a launcher gives them."""
    try:
        assert multiprocessing.connection.wait([rank.sentinel for rank in ranks], patience_s), "the ranks hang"
        deadline = time.monotonic() + grace_s
        for rank in ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks]


def pretrain(*arguments: object) -> int:
    """An entry: `train/pretrain.py ARGUMENTS`."""
    from train.pretrain import main

    sys.argv = ["train/pretrain.py", *map(str, arguments)]
    return main()


def bcrit(*arguments: object) -> int:
    """An entry: the `bcrit` command, whose workers are forked, too."""
    from launch import cli, local

    local.start_worker = _fork_worker
    return cli.main([str(argument) for argument in arguments])


def run_bcrit(*arguments: object, log: Path) -> tuple[int, str]:
    """That command to its end, in a process of its own: exit code and what it wrote."""
    (code,) = wait_for_ranks(start_ranks(1, bcrit, *arguments, log=log), patience_s=600)
    return code, log.read_text()


@dataclass
class Forked:
    """A forked process, for who expects a subprocess.Popen."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code once it has ended."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode


def _fork_worker(command: list[str], arrangement: Layout, index: int, port: int, log_file: Path) -> Forked:
    """launch.local.start_worker for one rank, without a launcher."""
    assert arrangement.ranks == arrangement.threads == 1
    log_file.parent.mkdir(exist_ok=True)
    if pid := os.fork():
        return Forked(pid)
    os.setsid()
    _rank(0, 1, port, log_file, pretrain, tuple(command[1:]))
    raise AssertionError("a rank exits")


def _rank(number: int, count: int, port: int, log: Path, entry: Callable, arguments: tuple[object, ...]) -> None:
    where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    with log.open("a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        code = entry(*arguments)
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)
