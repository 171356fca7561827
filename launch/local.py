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

PRETRAIN = Path(__file__).resolve().parent.parent / "train" / "pretrain.py"
POLL_S = 0.5


@dataclass(frozen=True)
class Layout:
    """How this machine is divided among workers."""

    workers: int
    ranks: int  # processes (devices) of each worker
    devices: tuple[int, ...]  # GPU indices; empty on CPU
    threads: int  # of each process; they decide the order of sums, so they stay when fewer workers have runs left


def layout(workers: int | None, ranks: int) -> Layout:
    """One worker a core (CPU) or a group of devices (GPU), unless told otherwise."""
    devices = tuple(range(gpu_count()))
    cores = len(os.sched_getaffinity(0))
    workers = workers or max(1, (len(devices) or cores) // ranks)
    return Layout(workers, ranks, devices, threads=max(1, cores // (workers * ranks)))


def gpu_count() -> int:
    """GPUs that this process may use, without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([device for device in visible.split(",") if device.strip()])
    if not shutil.which("nvidia-smi"):
        return 0
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def start_worker(study_dir: Path, data_dir: Path, arrangement: Layout, index: int) -> subprocess.Popen:
    """Launch worker `index` in a session of its own; its output goes to the study's logs."""
    first = index * arrangement.ranks
    if arrangement.devices:
        devices = [arrangement.devices[(first + i) % len(arrangement.devices)] for i in range(arrangement.ranks)]
        where = ["--include", "localhost:" + ",".join(map(str, devices))]
    else:
        where = ["--num_gpus", str(arrangement.ranks)]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *where, "--no_local_rank"]
    launcher += ["--master_port", str(free_port())]
    program = [str(PRETRAIN), "--study", str(study_dir), "--data-dir", str(data_dir), "--parent", str(os.getpid())]
    program += ["--launched", str(time.time())]
    threads = str(arrangement.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if not arrangement.devices:
        environment["DS_ACCELERATOR"] = "cpu"
    logs = study_dir / "logs"
    logs.mkdir(exist_ok=True)
    with (logs / f"worker-{index}.log").open("a") as log:
        return subprocess.Popen(
            launcher + program, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def execute(study_dir: Path, data_dir: Path, arrangement: Layout, watch: Callable[[], None]) -> list[int]:
    """Start the workers, call `watch` until they have ended, and return their exit codes.

    A first Ctrl-C (or SIGTERM) makes them checkpoint and stop; a second one kills them. Raises KeyboardInterrupt
    after either.
    """
    stop_file = study_dir / "STOP"
    stop_file.unlink(missing_ok=True)
    presses = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal presses
        presses += 1
        stop_file.touch()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    workers = [start_worker(study_dir, data_dir, arrangement, index) for index in range(arrangement.workers)]
    try:
        while any(worker.poll() is None for worker in workers):
            if presses > 1:
                for worker in workers:
                    _kill_session(worker)
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
