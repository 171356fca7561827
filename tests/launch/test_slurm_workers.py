"""How a task starts a worker, where its ranks meet, and what is read out of its log."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.slurm import workers
from launch.slurm.workers import (
    attend,
    ending,
    first_error,
    free_port,
    hostfile_text,
    log_since,
    master_address,
    processes,
    worker_command,
)


def test_ports_follow_the_job_and_skip_what_is_taken():
    first = free_port(1234, 0)
    assert first in workers.PORTS
    assert free_port(1235, 0) != first, "neighbours on a node do not race for one port"
    with socket.socket() as taken:
        taken.bind(("", first))
        taken.listen()
        assert free_port(1234, 0) not in (first, None)
        assert free_port(1234, 0) in workers.PORTS


def test_commands_of_the_launchers():
    shape = {"nodes": 2, "per_node": 4, "cpus": 8, "hostfile": Path("/s/hosts")}
    srun = worker_command("srun", "python", ["--study", "s"], **shape)
    assert srun[:4] == ["srun", "--overlap", "--kill-on-bad-exit=1", "--mpi=none"]
    assert srun[4:8] == ["--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=8"]
    assert srun[-2:] == ["--study", "s"]
    *outer, script = worker_command("deepspeed", "python", ["--study", "a b"], **shape)
    assert outer[4:8] == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=32"]
    assert '--hostfile /s/hosts --no_ssh --node_rank "$SLURM_NODEID"' in script
    assert script.endswith("--study 'a b'")
    assert hostfile_text(["n1", "n2"], 4) == "n1 slots=4\nn2 slots=4\n"


def test_one_node_needs_no_names():
    assert master_address(["n1"]) == "127.0.0.1"
    assert master_address(["localhost", "n2"]) == "localhost"


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("fine\nTraceback (most recent):\n  x\nOSError: [Errno 28]\nRuntimeError: later", "OSError: [Errno 28]"),
        ("[rank1]: torch.OutOfMemoryError: CUDA out of memory", "torch.OutOfMemoryError: CUDA out of memory"),
        ("slurmstepd: error: Detected 1 oom_kill event", "slurmstepd: error: Detected 1 oom_kill event"),
        ("error: budget_tokens = 3 is wrong", "error: budget_tokens = 3 is wrong"),
        ("no errors so far\nErrors are ok: 3", ""),
    ],
)  # fmt: skip
def test_the_first_error_of_a_log(log, found):
    assert first_error(log) == found


def test_a_log_from_where_a_launch_began(tmp_path):
    (tmp_path / "log").write_text("before\nafter\n")
    assert log_since(tmp_path / "log", 7) == "after\n"
    assert log_since(tmp_path / "none", 7) == ""


def test_exit_codes_in_words():
    assert ending(137) == ending(-9) == "its worker was ended by SIGKILL"
    assert ending(1) == "its worker ended with exit code 1"
    assert ending(255) == "its worker ended with exit code 255"


def launcher(seconds: float, mark: str = "") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})", mark])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(workers, "LOOK_S", 0.05)
    monkeypatch.setattr(workers, "ALONE_S", 0.5)


def test_a_launcher_whose_ranks_are_gone_is_ended(quick, tmp_path):
    mark = str(tmp_path / "stop")
    rank, alone = launcher(60, mark), launcher(60)
    while not processes(mark):
        time.sleep(0.05)
    began = False

    def asked() -> None:
        nonlocal began
        if not began:
            began = True
            return None  # so that the rank is seen once
        rank.kill()
        rank.wait()

    assert attend(alone, mark, asked, 60) == -9


def test_a_launcher_that_does_not_stop_in_time_is_ended(quick, tmp_path):
    asked_at = time.monotonic() - 100
    assert attend(launcher(60), str(tmp_path), lambda: asked_at, grace_s=90) == -9
    assert attend(launcher(0.2), str(tmp_path), lambda: asked_at, grace_s=1000) == 0
    assert attend(launcher(0.2), str(tmp_path), lambda: None, grace_s=0) == 0
