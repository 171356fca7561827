"""Running a study on this machine: workers that share its unfinished runs, watched from here.

Every worker is a `deepspeed` launch that trains one run after another. On CPU the fastest arrangement of small runs
is one single-threaded worker a core; on GPUs one worker per group of `ranks` devices. Workers stop, resumable, when
this process asks them (Ctrl-C), or when it is gone.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

PRETRAIN = Path(__file__).resolve().parent.parent / "train" / "pretrain.py"
POLL_S = 0.5
RESTARTS = 3
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what SLURM sends before a time limit
FINE = (0, 85)  # exit codes of a worker that did its work, or was stopped and can go on


@dataclass(frozen=True)
class Layout:
    """How this machine is divided among workers."""

    workers: int
    ranks: int  # processes (devices) of each worker
    devices: tuple[int, ...]  # GPU indices; empty on CPU
    threads: int  # of each process; they decide the order of sums, so they stay when fewer workers have runs left


def layout(workers: int | None, ranks: int) -> Layout:
    """One worker a core (CPU) or a group of devices (GPU), unless told otherwise.

    Raises ConfigError if a run would need more devices than there are.
    """
    devices = gpus()
    if devices and ranks > len(devices):
        raise ConfigError(f"--ranks {ranks}: this machine offers {len(devices)} GPU(s); use at most {len(devices)}")
    cores = len(os.sched_getaffinity(0))
    workers = workers or max(1, (len(devices) or cores) // ranks)
    return Layout(workers, ranks, devices, threads=max(1, cores // (workers * ranks)))


def gpus() -> tuple[int, ...]:
    """Indices of the GPUs that this process may use, without importing torch. Raises ConfigError for other names."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
        if not all(name.isdigit() for name in names):
            raise ConfigError(f"CUDA_VISIBLE_DEVICES = {visible}: the deepspeed launcher needs indices, such as 0,1")
        return tuple(map(int, names))
    if not shutil.which("nvidia-smi"):
        return ()
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return tuple(range(sum(line.startswith("GPU ") for line in done.stdout.splitlines())))


def start_worker(command: list[str], arrangement: Layout, index: int, port: int, log_file: Path) -> subprocess.Popen:
    """Launch worker `index` in a session of its own; its output is appended to `log_file`."""
    first = index * arrangement.ranks
    environment = os.environ | {name: str(arrangement.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    if arrangement.devices:
        devices = [arrangement.devices[(first + i) % len(arrangement.devices)] for i in range(arrangement.ranks)]
        where = ["--include", "localhost:" + ",".join(map(str, devices))]
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # the launcher would ignore --include beside it
    else:
        where = ["--num_gpus", str(arrangement.ranks)]
        environment["DS_ACCELERATOR"] = "cpu"
    launcher = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        *where,
        "--no_local_rank",
        "--master_port",
        str(port),
    ]
    log_file.parent.mkdir(exist_ok=True)
    with log_file.open("a") as log:
        return subprocess.Popen(
            [*launcher, "--no_local_rank", *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def free_ports(count: int) -> list[int]:
    """Different TCP ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def log_of(study_dir: Path, index: int) -> Path:
    """The log of a study's worker."""
    return study_dir / "logs" / f"worker-{index}.log"


def execute(study_dir: Path, data_dir: Path, arrangement: Layout, watch: Callable[[], None]) -> list[int]:
    """Start the workers, call `watch` until they have ended, and return their exit codes.

    A worker that dies of an error is started again, RESTARTS times at most; it leaves out what failed since this call.
    A first Ctrl-C (or SIGTERM, SIGUSR1) makes the workers checkpoint and stop; a second one kills them. Raises
    KeyboardInterrupt after either.
    """
    stop_file = study_dir / "STOP"
    stop_file.unlink(missing_ok=True)
    presses, since = 0, time.time()

    def on_signal(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        stop_file.touch()

    def start(index: int, port: int) -> subprocess.Popen:
        command = [str(PRETRAIN), "--study", str(study_dir), "--data-dir", str(data_dir), "--parent", str(os.getpid())]
        command += ["--launched", str(time.time()), "--since", str(since)]
        return start_worker(command, arrangement, index, port, log_of(study_dir, index))

    previous = {number: signal.signal(number, on_signal) for number in STOPS}
    workers = [start(index, port) for index, port in enumerate(free_ports(arrangement.workers))]
    restarts = [0] * len(workers)
    try:
        while True:
            for index, worker in enumerate(workers):
                if presses > 1:
                    _kill_session(worker)
                elif not presses and worker.poll() not in (None, *FINE) and restarts[index] < RESTARTS:
                    restarts[index] += 1
                    workers[index] = start(index, free_ports(1)[0])
            if all(worker.poll() is not None for worker in workers):
                break
            watch()
            time.sleep(POLL_S)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    stop_file.unlink(missing_ok=True)
    if presses:
        raise KeyboardInterrupt
    return [worker.returncode for worker in workers]


def _kill_session(worker: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
