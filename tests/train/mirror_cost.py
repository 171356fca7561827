"""What the live mirror costs a step, in % of its time: `python -m tests.train.mirror_cost [BLOCKS]`.

One run is trained with a row at every fourth step, mirrored by the real client to a server on loopback. In every second
block of steps the mirror and its client are stopped (SIGSTOP), so that the machine's other work falls on both alike.
Printed is the median over pairs of neighbouring blocks of how much longer a step takes with the mirror, and its 95 %
interval by bootstrap. `stall` is what the worker itself spends on the mirror: telling it of the run's begin and end.
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from configs.load import load_run
from configs.plan import Hardware, plan
from configs.rundir import create_run, read_status
from tests.processes import descendants
from tests.train.conftest import pinned
from tests.wandb_server import Server, serving
from train.build import built
from train.data.batches import open_split
from train.data.prepare import ensure_embedded
from train.engine import start_distributed
from train.loop import train
from train.mirror import mirroring

STEPS = 10  # of a block
WARMUP = 400  # steps until the client runs
BATCH_TOKENS = 2**9
RUN = f"""
model: {{width: 32, base_width: 32, depth: 2, head_dim: 16, seq_len: 64}}
data: {{valid_tokens: 2^12}}
batch_tokens: {BATCH_TOKENS}
log: {{every_tokens: 2^11, wandb: online}}
checkpoint: {{keep: none}}
"""


def main(blocks: int) -> None:
    """Train, switch the mirror on and off, print."""
    with tempfile.TemporaryDirectory() as where, serving_elsewhere() as (server, environment):
        os.environ |= environment
        start_distributed()
        config_file, run_dir = Path(where) / "run.yaml", Path(where) / "run"
        config_file.write_text(RUN)
        corpus = ensure_embedded(Path("runs/data"))
        tokens = BATCH_TOKENS * (WARMUP + STEPS * blocks + 1)
        config = pinned(load_run(config_file, [f"budget_tokens={tokens}"]), corpus)
        create_run(run_dir, config)
        planned = plan(config, Hardware(world_size=1))
        stores = (open_split(corpus, "train", config.model.seq_len), open_split(corpus, "valid", config.model.seq_len))
        ends: list[float] = []

        with mirroring() as tell, built(config, planned) as (engine, rows):
            began = time.perf_counter()
            tell(run_dir=run_dir, study="cost", attempt=1)
            stall = time.perf_counter() - began

            def step_ended() -> bool:
                step = len(ends) - WARMUP
                ends.append(time.perf_counter())
                if step >= 0 and step % STEPS == 0:
                    switch(set(descendants(os.getpid())) - {server}, on=step // STEPS % 2 == 0)
                    ends[-1] = time.perf_counter()
                return False

            before = read_status(run_dir)
            try:
                train(engine, rows, config, planned, stores, run_dir, before, step_ended, lambda row: None)
            finally:  # what is stopped would stay for ever
                mirrors = set(descendants(os.getpid())) - {server}
                switch(mirrors, on=True)
            busy = sum(map(cpu_seconds, mirrors))
            began = time.perf_counter()
            tell(ended=run_dir)
            stall += time.perf_counter() - began
    steps = np.diff(ends)[WARMUP : WARMUP + STEPS * (blocks // 2 * 2)].reshape(-1, 2, STEPS)
    print(report(np.median(steps, axis=2), stall, busy, float(np.sum(np.diff(ends)))))


def report(blocks: np.ndarray, stall_s: float, busy_s: float, total_s: float) -> str:
    """`blocks`: seconds a step with and without the mirror, (pairs, 2)."""
    ratios = blocks[:, 0] / blocks[:, 1] - 1
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return (
        f"a step of {1e3 * np.median(blocks[:, 1]):.1f} ms takes {100 * np.median(ratios):+.2f} % "
        f"[{100 * low:+.2f}, {100 * high:+.2f}] longer with the mirror ({len(ratios)} pairs of blocks); "
        f"stall {1e3 * stall_s:.1f} ms, {100 * stall_s / total_s:.3f} % of the run; "
        f"the mirror used {busy_s:.1f} s of another core in {total_s:.0f} s"
    )


@contextmanager
def serving_elsewhere() -> Iterator[tuple[int, dict[str, str]]]:
    """The server in a process of its own, and what leads the client there."""
    read, write = os.pipe()
    if not (pid := os.fork()):
        with serving(Server()) as server, open(write, "w") as pipe:
            pipe.write(json.dumps(server.environment) + "\n")
            pipe.flush()
            signal.pause()
    try:
        with open(read) as pipe:
            yield pid, json.loads(pipe.readline())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def switch(pids: Iterable[int], on: bool) -> None:
    """Let the mirror and its client run, or stop them."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if on else signal.SIGSTOP)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
