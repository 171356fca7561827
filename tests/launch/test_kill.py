"""A study killed again and again ends in the run table of a study that was left alone."""

import random
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from configs.rundir import read_metrics, read_status
from tests.processes import bcrit, kill_everything, mentioning, start_bcrit

STUDY = """
name: small
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 64}
  data: {valid_tokens: 2048}
  schedule: {warmup_tokens: 2^10}
  engine: {zero_stage: 0}
  log: {wandb: disabled}
  checkpoint: {every_seconds: 0.5, keep: none}
axes:
  budget_tokens: 2^15..2^17
  batch_tokens: [2^8, 2^9]
  lr: [2^-8, 2^-6, 2^-4]
"""
KILLS = 20
# How long a run took, and on what, may differ; nothing else may.
INCIDENTAL = ["tokens_per_s", "seconds", "startup_seconds", "peak_memory_bytes"]


@pytest.fixture(scope="module")
def first(tmp_path_factory, data_dir) -> tuple[Path, float]:
    """The study, run once from beginning to end, and the seconds until it trained."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "small.yaml").write_text(STUDY)
    began = time.monotonic()
    process = start_bcrit("run", root / "small.yaml", "--out", root / "small", "--data-dir", data_dir)
    while not attempts(root / "small"):
        assert process.poll() is None, "it ended before it trained"
        time.sleep(0.1)
    start_up = time.monotonic() - began
    assert process.wait(timeout=600) == 0
    return root / "small", start_up


@pytest.fixture(scope="module")
def undisturbed(first) -> Path:
    return first[0]


def science(study_dir: Path) -> pd.DataFrame:
    return build_table(study_dir).drop(columns=INCIDENTAL)


def attempts(study_dir: Path) -> int:
    """How often runs were started or resumed so far."""
    return sum(read_status(run_dir).attempt for run_dir in (study_dir / "runs").glob("*"))


def test_twenty_kills_leave_no_trace(first, tmp_path, data_dir):
    """Kills at random moments from start-up on; when a study ends in between, another one takes the next kills."""
    study = tmp_path / "small.yaml"
    study.write_text(STUDY)
    undisturbed, start_up = first
    chance = random.Random(20)
    outs = [tmp_path / "small"]
    kills = kills_in_training = 0
    while kills < KILLS:
        before = attempts(outs[-1] / "small")
        process = start_bcrit("run", study, "--out", outs[-1] / "small", "--data-dir", data_dir)
        time.sleep(start_up * chance.uniform(0.3, 1.7))
        alive = process.poll() is None
        kill_everything(process)
        kills += alive
        kills_in_training += alive and attempts(outs[-1] / "small") > before
        if not alive:
            outs.append(tmp_path / f"again-{kills}")
    print(f"{kills} kills, {kills_in_training} of them in training, in {len(outs)} studies")
    assert kills_in_training > KILLS / 5, "most kills came before any training: the test shows too little"
    for out in outs:
        done = bcrit("run", study, "--out", out / "small", "--data-dir", data_dir)
        assert done.returncode == 0, done.stdout + done.stderr
        pd.testing.assert_frame_equal(science(out / "small"), science(undisturbed), check_exact=True)
        for run_dir in (out / "small" / "runs").glob("*"):
            tokens = [(row["kind"], row["tokens"]) for row in read_metrics(run_dir)]
            assert len(tokens) == len(set(tokens))


def test_a_finished_study_has_nothing_to_do(undisturbed, data_dir):
    files = {path: path.stat().st_mtime_ns for path in undisturbed.glob("runs/*/*") if path.is_file()}
    done = bcrit("run", undisturbed.parent / "small.yaml", "--out", undisturbed, "--data-dir", data_dir)
    assert done.returncode == 0
    assert "Nothing to do: all 6 runs" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_ctrl_c_leaves_a_study_that_goes_on(undisturbed, tmp_path, data_dir):
    study, out = tmp_path / "small.yaml", tmp_path / "small"
    study.write_text(STUDY)
    process = start_bcrit("run", study, "--out", out, "--data-dir", data_dir)
    deadline = time.monotonic() + 60
    while not any(read_status(run_dir).tokens for run_dir in (out / "runs").glob("*")):
        assert time.monotonic() < deadline, "no run started"
        time.sleep(0.2)
    process.send_signal(2)
    assert process.wait(timeout=60) == 130
    states = {read_status(run_dir).state for run_dir in (out / "runs").glob("*")}
    assert "preempted" in states
    assert "running" not in states
    assert not mentioning(str(out)), "a worker outlived the command"
