"""A run that fails takes nothing else with it, and a claim changes hands once."""

import json
import os
import subprocess
import sys
import time

from configs.claims import claim, process_start, release
from configs.plan import Hardware
from configs.rundir import Readout, Status, manifest_ids, read_status, run_dir_of, write_status
from launch.execute import pin_data, write_study
from launch.study import plan_study
from tests.processes import ENVIRONMENT, ROOT, bcrit

STUDY = """
name: small
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 32}
  data: {valid_tokens: 1024}
  log: {wandb: disabled}
  batch_tokens: 512
  budget_tokens: 2^12
axes:
  lr: [2^-8, 2^-7, 2^-6]
"""


def test_a_failing_run_with_two_ranks_does_not_stop_the_others(tmp_path, data_dir):
    """A failure of one rank ends the worker, since the others are inside a collective call; it must come back."""
    from train.data.prepare import ensure_embedded

    study, out = tmp_path / "small.yaml", tmp_path / "small"
    study.write_text(STUDY)
    planned = plan_study(study, [], Hardware(world_size=2))
    write_study(planned, pin_data(planned, ensure_embedded(data_dir)), out)
    bad, *good = [run_dir_of(out, identity) for identity in manifest_ids(out)]
    (bad / "metrics.001.jsonl").mkdir()  # rank 0 alone cannot open its record
    done = bcrit("run", study, "--out", out, "--data-dir", data_dir, "--ranks", 2, "--workers", 1)
    assert done.returncode == 1
    assert read_status(bad).state == "failed"
    assert read_status(bad).message.startswith("rank 0: IsADirectoryError")
    assert f"failed: {bad}" in done.stdout.replace("\n", "")
    assert [read_status(run_dir).state for run_dir in good] == ["finished", "finished"]
    assert read_status(good[0]).world_size == 2


def test_a_status_with_infinite_activations_can_be_read(tmp_path):
    status = Status(readouts=(Readout(tokens=0, loss=5.5, train_loss=None, rms={"residual": float("inf")}),))
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status


def test_a_live_claim_is_respected_and_a_stale_one_taken(tmp_path):
    assert claim(tmp_path)
    assert not claim(tmp_path)
    release(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    owner = {"host": os.uname().nodename, "pid": ended.pid, "started": "1", "time": time.time()}
    (tmp_path / "claim.json").write_text(json.dumps(owner))
    assert claim(tmp_path)
    assert json.loads((tmp_path / "claim.json").read_text())["started"] == process_start(os.getpid())


def test_of_many_contenders_for_a_stale_claim_one_wins(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from configs.claims import claim\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "won = claim(Path(sys.argv[1])); print(won, flush=True); time.sleep(2)"
    )
    for _ in range(3):
        (tmp_path / "claim.json").write_text(
            json.dumps({"host": os.uname().nodename, "pid": 1, "started": "stale", "time": 0})
        )
        at = str(time.time() + 1.5)
        command = [sys.executable, "-c", program, str(tmp_path), at]
        contenders = [
            subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(8)
        ]
        answers = [contender.communicate()[0].strip() for contender in contenders]
        assert answers.count("True") <= 1, answers
        assert claim(tmp_path) or answers.count("True") == 1
        release(tmp_path)
