"""Runs that share a device: each is what it is alone."""

import subprocess

import pandas as pd

from analysis.table import build_table
from tests.processes import ENVIRONMENT, bcrit_command

STUDY = """
name: s
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 64}
  data: {valid_tokens: 1024}
  engine: {zero_stage: 0}
  log: {wandb: disabled}
  explode_ratio: 1.5
axes: {budget_tokens: [2^13], batch_tokens: [2^9], lr: [2^-8, 2^-6, 2^6]}
"""
INCIDENTAL = ["tokens_per_s", "seconds", "startup_seconds", "peak_memory_bytes"]


def test_three_runs_on_one_core_are_what_they_are_alone(tmp_path, data_dir):
    """One of them diverges: the others do not notice."""
    (tmp_path / "s.yaml").write_text(STUDY)
    tables = []
    for workers in (1, 3):
        out = tmp_path / str(workers) / "s"
        words = bcrit_command("run", tmp_path / "s.yaml", "--out", out, "--data-dir", data_dir, "--workers", workers)
        done = subprocess.run(
            ["taskset", "-c", "0", *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((out / "logs").glob("worker-*.log"))) == workers
        tables.append(build_table(out).drop(columns=INCIDENTAL))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert sorted(tables[0]["status"]) == ["diverged", "finished", "finished"]
