"""A study killed again and again ends in the run table of a study that was left alone."""

import random
import signal
import subprocess
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from configs.rundir import read_metrics, read_status, write_status
from launch.cli import main
from tests.processes import bcrit, kill_everything, mentioning, start_bcrit
from tests.ranks import bcrit as forked_bcrit
from tests.ranks import run_bcrit, start_ranks

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
REAL_EVERY = 5  # one kill in so many is of workers under the `deepspeed` launcher, the others of forked ones
# How long a run took, and on what, may differ; nothing else may.
INCIDENTAL = ["tokens_per_s", "seconds", "startup_seconds", "peak_memory_bytes"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """The study, run once from beginning to end."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "small.yaml").write_text(STUDY)
    done = bcrit("run", root / "small.yaml", "--out", root / "small", "--data-dir", data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / "small"


def test_the_report_of_real_runs_passes_a_review(undisturbed: Path, capsys):
    """And does not any more when a run turns out not to have finished."""
    assert main(["report", str(undisturbed)]) == 0
    assert main(["review", str(undisturbed)]) == 0, capsys.readouterr().out
    run_dir = next((undisturbed / "runs").iterdir())
    status = read_status(run_dir)
    write_status(run_dir, status.model_copy(update={"state": "preempted"}))
    try:
        assert main(["review", str(undisturbed)]) == 1
    finally:
        write_status(run_dir, status)
    said = f"run {run_dir.name}: counted as {status.state}, but its status is preempted"
    assert said in capsys.readouterr().out


def science(study_dir: Path) -> pd.DataFrame:
    return build_table(study_dir).drop(columns=INCIDENTAL)


def attempts(study_dir: Path) -> int:
    """How often runs were started or resumed so far."""
    return sum(read_status(run_dir).attempt for run_dir in (study_dir / "runs").glob("*"))


def running(process: subprocess.Popen | BaseProcess) -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def ended(process: subprocess.Popen | BaseProcess) -> None:
    process.wait() if isinstance(process, subprocess.Popen) else process.join()


def test_twenty_kills_leave_no_trace(undisturbed, tmp_path, data_dir):
    """Kills at random moments from start-up on; when a study ends in between, another one takes the next kills."""
    study, log = tmp_path / "small.yaml", tmp_path / "log"
    study.write_text(STUDY)
    chance = random.Random(20)
    training_s = sum(read_status(run_dir).seconds for run_dir in (undisturbed / "runs").glob("*")) / 2
    outs, start_up_s = [tmp_path / "first" / "small"], {}
    kills = kills_in_training = 0
    while kills < KILLS:
        out = outs[-1]
        before, real, began = attempts(out), kills % REAL_EVERY == 0, time.monotonic()
        command = ("run", study, "--out", out, "--data-dir", data_dir)
        process = start_bcrit(*command) if real else start_ranks(1, forked_bcrit, *command, log=log)[0]
        if real not in start_up_s or chance.random() < 0.7:  # in training, else while it starts
            while running(process) and attempts(out) == before:
                time.sleep(0.02)
            start_up_s[real] = time.monotonic() - began
            time.sleep(training_s / 4 * chance.random())
        else:
            time.sleep(start_up_s[real] * chance.random())
        alive = running(process)
        kill_everything(process.pid)
        ended(process)
        kills += alive
        kills_in_training += alive and attempts(out) > before
        if not alive:
            outs.append(tmp_path / f"again-{kills}" / "small")
    print(f"{kills} kills, {kills_in_training} of them in training, in {len(outs)} studies")
    assert kills_in_training > KILLS / 2, "most kills came before any training: the test shows too little"
    for out in outs:
        code, said = run_bcrit("run", study, "--out", out, "--data-dir", data_dir, log=out.parent / "log")
        assert code == 0, said
        pd.testing.assert_frame_equal(science(out), science(undisturbed), check_exact=True)
        for run_dir in (out / "runs").glob("*"):
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
    try:
        while not any(read_status(run_dir).tokens for run_dir in (out / "runs").glob("*")):
            assert process.poll() is None, "it ended before it trained"
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=180) == 130
        states = {read_status(run_dir).state for run_dir in (out / "runs").glob("*")}
        assert "preempted" in states
        assert "running" not in states
        assert not mentioning(str(out)), "a worker outlived the command"
    finally:
        kill_everything(process.pid)
        process.wait()
