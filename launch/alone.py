"""Benchmarks in processes of their own: `copies` of a run side by side, each of `ranks` processes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from launch.local import free_ports


@dataclass(frozen=True)
class Alone:
    """What processes of their own tell; of several, the slowest start and step, and the largest peak."""

    startup_s: float  # from the launch to the first step
    step_s: float
    peak_bytes: int
    tokens_per_s: float  # of all copies together


def alone(
    config: RunConfig, loop: str, steps: int, data_dir: Path, *, ranks: int = 1, copies: int = 1, threads: int = 1
) -> Alone:
    """Time `steps` steps of a loop of `train.bench` after as many to warm up; all copies start together.

    Raises RuntimeError with the end of its output if a process fails.
    """
    asked = {"config": config.model_dump(mode="json"), "loop": loop, "steps": steps, "data_dir": str(data_dir)}
    processes = [
        process
        for port in free_ports(copies)
        for process in (_start(rank, ranks, port, threads) for rank in range(ranks))
    ]
    try:
        for process in processes:
            _tell(process, json.dumps(asked | {"launched": time.time()}))
        ready = [_answer(process) for process in processes]
        for process in processes:
            _tell(process, "go")
        timed = [_answer(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    step_s = [answer["step_s"] for answer in timed]
    return Alone(
        startup_s=max(answer["startup_s"] for answer in ready),
        step_s=max(step_s),
        peak_bytes=max(answer["peak_bytes"] for answer in timed),
        tokens_per_s=sum(config.batch_tokens / seconds for seconds in step_s[::ranks]),
    )


def _start(rank: int, ranks: int, port: int, threads: int) -> "subprocess.Popen[str]":
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    where |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return subprocess.Popen(
        [sys.executable, "-m", "train.bench.alone"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {name: str(value) for name, value in where.items()},
    )


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark process failed: {process.stderr.read()[-2000:]}")
    return json.loads(line)
