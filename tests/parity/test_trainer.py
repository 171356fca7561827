"""The trainer as a user starts it, against the same plain loop: its own batches, loop and records."""

import json

import pytest
import yaml

from configs.rundir import read_metrics, read_status
from tests.parity.cells import STEPS, config_of, lr_at, read_batches
from tests.parity.reference import Loop, run
from tests.processes import deepspeed


def test_the_records_of_a_launched_run_are_those_of_the_plain_loop(data_dir, tmp_path, results):
    config = config_of("fp32", zero_stage=1, micro_batch_seqs=8)
    logged = config.model_dump(mode="json") | {"log": {"every_tokens": config.batch_tokens, "wandb": "disabled"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(logged))
    run_dir = tmp_path / "run"
    done = deepspeed(2, "--config", tmp_path / "run.yaml", "--run-dir", run_dir, "--data-dir", data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((run_dir / "plan.json").read_text())
    assert (plan["world_size"], plan["accumulation"]) == (2, 2)
    assert read_status(run_dir).state == "finished"
    plain, limits = run(config, list(read_batches(data_dir)), Loop()), results.tolerances["fp32"]["run"]
    rows = [row for row in read_metrics(run_dir) if row["kind"] == "train"]
    assert [row["loss"] for row in rows] == pytest.approx(plain.losses, rel=limits["loss"])
    assert [row["grad_norm"] for row in rows] == pytest.approx(plain.norms, rel=limits["norm"])
    assert [row["lr"] for row in rows] == [lr_at(config, step) for step in range(STEPS)]
