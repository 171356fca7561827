"""Two ranks: killed again and again they end with the same parameters, bit for bit; one that fails tells its error.

KILLS=50 python -m pytest tests/train/test_ranks.py takes about five minutes.
"""

import os
import random
import signal
import time
from pathlib import Path

from configs.rundir import read_status
from tests.ranks import pretrain, start_ranks, wait_for_ranks
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
GRACE_S = 10.0  # a rank that lost the other one while they met for the first time would wait for it much longer


def start(entry, config_file: Path, run_dir: Path, data_dir: Path) -> list:
    where = ("--config", config_file, "--run-dir", run_dir, "--data-dir", data_dir)
    return start_ranks(2, entry, *where, log=config_file.with_name("log"))


def wait_for_all(ranks: list) -> list[int]:
    return wait_for_ranks(ranks, GRACE_S)


def test_kills_leave_no_trace(tmp_path, data_dir):
    """Rank 0, rank 1 or both, at a random moment; when a run ends in between, another one takes the next kills."""
    config_file, whole = tmp_path / "run.yaml", tmp_path / "whole"
    config_file.write_text(RUN)
    assert wait_for_all(start(pretrain, config_file, whole, data_dir)) == [0, 0]
    began = time.monotonic()
    assert wait_for_all(start(pretrain, config_file, whole, data_dir)) == [0, 0]  # nothing to do: this is start-up
    start_up = time.monotonic() - began
    chance = random.Random(50)
    runs, kills, in_training = [tmp_path / "run-0"], 0, 0
    while kills < KILLS:
        before = read_status(runs[-1])
        processes = start(pretrain, config_file, runs[-1], data_dir)
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
            assert wait_for_all(start(pretrain, config_file, run_dir, data_dir)) == [0, 0]
        assert science(run_dir) == science(whole)
        assert_same_tensors(checkpoints_of(run_dir)[-1], checkpoints_of(whole)[-1])


def failing_on_rank_1(*arguments: object) -> int:
    """A rank whose data fails on rank 1 in the middle of the run."""
    from train import loop

    honest = loop.samples

    def samples(store, config, plan, begin):
        if os.environ["RANK"] == "1" and begin == 2**13:
            raise ValueError("a bad sector")
        return honest(store, config, plan, begin)

    loop.samples = samples
    return pretrain(*arguments)


def test_the_error_of_the_rank_that_failed_is_on_record(tmp_path, data_dir):
    (tmp_path / "run.yaml").write_text(RUN)
    codes = wait_for_all(start(failing_on_rank_1, tmp_path / "run.yaml", tmp_path / "run", data_dir))
    assert 0 not in codes
    status = read_status(tmp_path / "run")
    assert (status.state, status.message) == ("failed", "rank 1: ValueError: a bad sector")
    assert checkpoints_of(tmp_path / "run")[-1].name == f"{2**13:015d}"
