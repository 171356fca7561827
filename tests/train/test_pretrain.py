"""One run from the command line, under torchrun: to its end, again, and beside a STOP file."""

import subprocess
import sys
from pathlib import Path

import pytest

from configs.rundir import read_metrics, read_status
from tests.processes import ENVIRONMENT, ROOT
from tests.ranks import pretrain, start_ranks, wait_for_ranks

RUN = """
model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
batch_tokens: 256
budget_tokens: 2048
log: {wandb: offline}
"""


def torchrun(*arguments: object, cwd: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "train" / "pretrain.py"), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, cwd=str(cwd), capture_output=True, text=True, timeout=300)


@pytest.fixture
def arguments(tmp_path, data_dir):
    (tmp_path / "run.yaml").write_text(RUN)
    return ("--config", tmp_path / "run.yaml", "--run-dir", "here", "--data-dir", data_dir)


def test_a_run_ends_once(arguments, tmp_path):
    done = torchrun(*arguments, "lr=2^-8", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = tmp_path / "here"
    status = read_status(run_dir)
    assert (status.state, status.world_size, status.tokens) == ("finished", 2, 2048)
    assert status.startup_seconds > 0
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 1
    assert done.stdout.count("here: finished at 2,048 tokens, validation loss ") == 1, "one rank speaks for all"
    before = read_metrics(run_dir)
    again = (*arguments[:2], "--run-dir", run_dir, *arguments[4:])
    codes, log = ranks(*again, "lr=2^-8", log=tmp_path / "again")
    assert codes == [0, 0]
    assert "nothing to do, it is finished" in log
    assert read_metrics(run_dir) == before
    codes, log = ranks(*again, "lr=2^-9", log=tmp_path / "other")
    assert codes == [1, 1]
    assert log.count(f"error: {run_dir} holds another run") == 1
    assert read_status(run_dir) == status


def ranks(*arguments: object, log: Path) -> tuple[list[int], str]:
    """Exit codes of two ranks without a launcher, and what they wrote."""
    return wait_for_ranks(start_ranks(2, pretrain, *arguments, log=log)), log.read_text()


def test_a_stop_file_keeps_a_run_from_starting(arguments, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "STOP").touch()
    done = torchrun(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert "exitcode  : 85" in done.stderr
    assert "remove that to go on" in done.stdout
    assert read_status(tmp_path / "here").state == "pending"
