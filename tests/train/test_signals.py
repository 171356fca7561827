"""Whatever happens to a launch of two ranks: it ends soon, leaves no process, says what it was, and goes on exactly."""

import os
import signal
import time

import pytest

from configs.rundir import read_status
from tests.processes import deepspeed, descendants, kill_everything, mentioning, send, start_deepspeed
from tests.ranks import pretrain, start_ranks, wait_for_ranks
from tests.train.conftest import assert_same_tensors, checkpoints_of, science

RUN = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
lr: 2^-6
batch_tokens: 256
budget_tokens: 2^16
readout_tokens: [2^14]
log: {every_tokens: 2^10, wandb: disabled}
checkpoint: {every_tokens: 2^12}
"""
PATIENCE_S = 180.0  # only for what hangs: nothing below is aimed by time


@pytest.fixture
def launch(tmp_path, data_dir):
    """A launch under way: (process of the runner, launch.py, ranks 0 and 1) once the run has a checkpoint."""
    (tmp_path / "run.yaml").write_text(RUN)
    run_dir, log = tmp_path / "run", tmp_path / "log"
    what = ("--config", tmp_path / "run.yaml", "--run-dir", run_dir, "--data-dir", data_dir)
    runner = start_deepspeed(2, *what, log=log)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not [path for path in checkpoints_of(run_dir) if path.suffix != ".partial"]:
            assert runner.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        launcher, *ranks = descendants(runner.pid)
        assert len(ranks) == 2
        yield runner, launcher, ranks, what
    finally:
        kill_everything(runner.pid)
        send(mentioning(str(run_dir)), signal.SIGKILL)
        runner.wait()


def state_when_all_has_ended(run_dir, runner):
    deadline = time.monotonic() + PATIENCE_S
    while mentioning(str(run_dir)):
        assert time.monotonic() < deadline, f"left behind: {mentioning(str(run_dir))}"
        runner.poll()
        time.sleep(0.2)
    return read_status(run_dir).state


@pytest.mark.parametrize(
    ("number", "target", "state"),
    [
        (signal.SIGTERM, "runner", "preempted"),  # ends it at once; the ranks see that it is gone
        (signal.SIGUSR1, "runner", "preempted"),
        (signal.SIGTERM, "launcher", "preempted"),  # passes it on to the ranks
        (signal.SIGUSR1, "launcher", "preempted"),  # ends it; the runner says 0, the status file does not
        (signal.SIGKILL, "launcher", "preempted"),
        (signal.SIGUSR1, "rank 1", "preempted"),
        (signal.SIGKILL, "rank 1", "failed"),
    ],
)
def test_a_launch_ends_well(launch, tmp_path, number, target, state):
    runner, launcher, ranks, what = launch
    os.kill({"runner": runner.pid, "launcher": launcher, "rank 1": ranks[1]}[target], number)
    assert state_when_all_has_ended(tmp_path / "run", runner) == state
    assert checkpoints_of(tmp_path / "run")
    if (number, target) == (signal.SIGUSR1, "rank 1"):
        assert runner.wait() == 85
        # Once is enough: from here on it is the same path for all.
        assert deepspeed(2, *what).returncode == 0
        whole = (*what[:2], "--run-dir", tmp_path / "whole", *what[4:])
        assert wait_for_ranks(start_ranks(2, pretrain, *whole, log=tmp_path / "log")) == [0, 0]
        assert science(tmp_path / "run") == science(tmp_path / "whole")
        assert_same_tensors(checkpoints_of(tmp_path / "run")[-1], checkpoints_of(tmp_path / "whole")[-1])
    if state == "failed":
        assert runner.wait() != 0
