"""One launch of a task's worker: the command, its address, and what its log says when it dies."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from configs.errors import ConfigError
from launch.slurm import queue

LOOK_S = 1.0
ALONE_S = 15.0  # a launcher without ranks
GRACE_S = 30.0  # ranks without a launcher
PORTS = range(12000, 32000)  # below those that systems hand out by themselves
_ERROR = re.compile(
    r"^(?:\[?rank\d+\]?:? *)?((?:[\w.]*(?:Error|Exception|Interrupt)\b|[Ee]rror: |slurmstepd: error: ).*)"
)


def worker_command(
    launcher: str, python: str, arguments: list[str], *, nodes: int, per_node: int, cpus: int, hostfile: Path
) -> list[str]:
    """What starts the ranks of a worker: one srun task each, or the `deepspeed` launcher on each node, without ssh."""
    trainer = [str(Path(__file__).resolve().parent.parent.parent / "train" / "pretrain.py"), *arguments]
    # Overlapping: a step whose slurmstepd was killed keeps its CPUs until the job ends, and no other would start.
    srun = ["srun", "--overlap", "--kill-on-bad-exit=1", "--mpi=none", f"--nodes={nodes}"]
    if launcher == "srun":
        shape = [f"--ntasks={nodes * per_node}", f"--ntasks-per-node={per_node}", f"--cpus-per-task={cpus}"]
        return [*srun, *shape, python, "-u", *trainer]
    shape = [f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={cpus * per_node}"]
    runner = f"{shlex.quote(python)} -um deepspeed.launcher.runner --hostfile {shlex.quote(str(hostfile))}"
    where = '--no_ssh --node_rank "$SLURM_NODEID" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT"'
    return [*srun, *shape, "bash", "-c", f"exec {runner} {where} --no_local_rank {shlex.join(trainer)}"]


def hostfile_text(hosts: Iterable[str], slots: int) -> str:
    """What the `deepspeed` launcher reads."""
    return "".join(f"{host} slots={slots}\n" for host in hosts)


def master_address(hosts: list[str]) -> str:
    """Where the ranks find rank 0, which runs on the first node; by its address where names are not known."""
    if len(hosts) == 1:
        return "127.0.0.1"
    try:
        socket.getaddrinfo(hosts[0], None)
    except OSError:
        return queue.address_of(hosts[0])
    return hosts[0]


def free_port(job: int, launch: int) -> int:
    """A port derived from the job, so that jobs on one node try different ones first, on which nobody listens now.

    Raises ConfigError if there is none.
    """
    for attempt in range(len(PORTS)):
        port = PORTS[(job * 61 + launch * 7 + attempt) % len(PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on {socket.gethostname()}")


def processes(mark: str) -> list[int]:
    """Processes of a worker on this node, srun left out: those that have `mark` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(mark.encode() in word for word in words) and not words[0].endswith(b"srun"):
            found.append(int(path.parent.name))
    return found


def attend(launcher: subprocess.Popen, mark: str, asked_at: Callable[[], float | None], grace_s: float) -> int:
    """Wait for a worker to end; its launcher's exit code.

    The launcher is killed if it goes on without ranks, as srun does when their slurmstepd has died, or if the ranks
    have not stopped `grace_s` after `asked_at` (time.monotonic; None: they were not asked to).
    """
    seen, last_seen = False, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return launcher.wait(timeout=LOOK_S)
        now = time.monotonic()
        if processes(mark):
            seen, last_seen = True, now
        asked = asked_at()
        if (seen and now - last_seen > ALONE_S) or (asked is not None and now - asked > grace_s):
            launcher.kill()


def end_ranks(key: str, mark: str, stop_file: Path, nodes: int) -> bool:
    """See to it that no rank of a worker is left whose launcher has ended; whether there was one.

    They are asked to checkpoint, and killed after GRACE_S; on other nodes by SLURM, which may know of a step that has
    no process any more, so that nobody waits for it on one node.
    """

    def left() -> bool:
        return bool(processes(mark) or (nodes > 1 and queue.steps(key)))

    if not left():
        return False
    stop_file.touch()
    deadline = time.monotonic() + GRACE_S
    while left() and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    for step in queue.steps(key):
        with contextlib.suppress(ConfigError):
            queue.cancel_step(step)
    for pid in processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while left() and time.monotonic() < deadline + GRACE_S / 2:
        time.sleep(LOOK_S)
    return True


def log_since(path: Path | None, offset: int) -> str:
    """What was written to a log from `offset` bytes on; nothing if it cannot be read."""
    try:
        with open(path or os.devnull, "rb") as file:
            file.seek(offset)
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def first_error(log: str) -> str:
    """The first line of a log that looks like an error; empty if none does."""
    found = (_ERROR.match(line.strip()) for line in log.splitlines())
    return next((match[1].strip() for match in found if match), "")


def ending(code: int) -> str:
    """An exit code in words."""
    number = -code if code < 0 else code - 128 if code > 128 else 0
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    return f"its worker was ended by {name}" if name else f"its worker ended with exit code {code}"
