"""Two ranks: killed again and again they end with the same parameters, bit for bit; one that fails tells its error.

KILLS=50 python -m pytest tests/train/test_ranks.py takes about five minutes.
"""

import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from configs.rundir import read_status
from launch.local import free_ports
from tests.train.conftest import assert_same_tensors, checkpoints_of, science

RUN = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
lr: 2^-6
batch_tokens: 256
budget_tokens: 2^17
readout_tokens: [2^14]
engine: {zero_stage: 2}
ema_half_life_tokens: 2^12
log: {every_tokens: 2^10, wandb: disabled}
checkpoint: {every_tokens: 1024}
"""
KILLS = int(os.environ.get("KILLS", "10"))
PATIENCE_S = 120.0
GRACE_S = 10.0  # a rank that lost the other one while they met for the first time would wait for it much longer
# Ranks are forked from a process that has imported everything: the launcher's twenty seconds a start would be two
# thirds of an hour here. tests/train/test_signals.py and tests/launch/test_kill.py kill real launches.
ranks = multiprocessing.get_context("forkserver")
ranks.set_forkserver_preload(["train.worker"])


def rank(number: int, port: int, config_file: Path, run_dir: Path, data_dir: Path) -> None:
    """One rank of the run, from joining the other one to the end."""
    from train.engine import start_distributed
    from train.worker import run_single

    where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()})
    with open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)
        os.dup2(quiet.fileno(), 2)
    start_distributed()
    try:
        code = run_single(config_file, [], run_dir, data_dir, time.time())
    except Exception:
        code = 1
    os._exit(code)


def start(entry: Callable, config_file: Path, run_dir: Path, data_dir: Path) -> list:
    port = free_ports(1)[0]
    processes = [ranks.Process(target=entry, args=(i, port, config_file, run_dir, data_dir)) for i in range(2)]
    for process in processes:
        process.start()
    return processes


def wait_for_all(processes: list) -> list[int]:
    """Exit codes. When one rank has ended, the others get GRACE_S, then what a launcher gives them."""
    sentinels = [process.sentinel for process in processes]
    assert multiprocessing.connection.wait(sentinels, PATIENCE_S), "the run hangs"
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def test_kills_leave_no_trace(tmp_path, data_dir):
    """Rank 0, rank 1 or both, at a random moment; when a run ends in between, another one takes the next kills."""
    config_file, whole = tmp_path / "run.yaml", tmp_path / "whole"
    config_file.write_text(RUN)
    assert wait_for_all(start(rank, config_file, whole, data_dir)) == [0, 0]
    began = time.monotonic()
    assert wait_for_all(start(rank, config_file, whole, data_dir)) == [0, 0]  # nothing to do: this is start-up
    start_up = time.monotonic() - began
    chance = random.Random(50)
    runs, kills, in_training = [tmp_path / "run-0"], 0, 0
    while kills < KILLS:
        before = read_status(runs[-1])
        processes = start(rank, config_file, runs[-1], data_dir)
        if chance.random() < 0.7:  # in training, else while it starts
            while all(process.is_alive() for process in processes) and read_status(runs[-1]).attempt == before.attempt:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.2 * read_status(whole).seconds))
        else:
            time.sleep(chance.uniform(0.3, 1) * start_up)
        alive = all(process.is_alive() for process in processes)
        for victim in chance.choice([processes, processes[:1], processes[1:]]):
            if victim.is_alive():
                os.kill(victim.pid, signal.SIGKILL)
        wait_for_all(processes)
        kills += alive
        in_training += alive and read_status(runs[-1]).attempt > before.attempt
        if read_status(runs[-1]).state == "finished":
            runs.append(tmp_path / f"run-{len(runs)}")
    print(f"{kills} kills, {in_training} of them in training, in {len(runs)} runs")
    assert in_training > KILLS / 2, "most kills came before any training: the test shows too little"
    for run_dir in runs:
        if read_status(run_dir).state != "finished":
            assert wait_for_all(start(rank, config_file, run_dir, data_dir)) == [0, 0]
        assert science(run_dir) == science(whole)
        assert_same_tensors(checkpoints_of(run_dir)[-1], checkpoints_of(whole)[-1])


def failing_rank(number: int, *where: object) -> None:
    """A rank whose data fails on rank 1 in the middle of the run."""
    from train import loop

    honest = loop.samples

    def samples(store, config, plan, begin):
        if number == 1 and begin == 2**13:
            raise ValueError("a bad sector")
        return honest(store, config, plan, begin)

    loop.samples = samples
    rank(number, *where)


def test_the_error_of_the_rank_that_failed_is_on_record(tmp_path, data_dir):
    (tmp_path / "run.yaml").write_text(RUN)
    codes = wait_for_all(start(failing_rank, tmp_path / "run.yaml", tmp_path / "run", data_dir))
    assert 0 not in codes
    status = read_status(tmp_path / "run")
    assert (status.state, status.message) == ("failed", "rank 1: ValueError: a bad sector")
    assert checkpoints_of(tmp_path / "run")[-1].name == f"{2**13:015d}"
