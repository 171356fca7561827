"""DeepSpeed against a plain PyTorch loop, in every supported layout of the same run.

The table is printed at the end; `tests.parity.noise` says what is compared, and where the tolerances come from.
"""

import json

import pytest
import yaml

from configs.rundir import read_metrics, read_status
from tests.parity.cells import CELLS, STEPS, config_of, layout, lr_at, read_batches
from tests.parity.defects import DEFECTS
from tests.parity.noise import QUANTITIES
from tests.parity.reference import Loop, run
from tests.parity.table import full
from tests.processes import deepspeed
from train.model import skeleton
from train.parametrization import table

FAR = 10.0  # times the tolerance


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_deepspeed_follows_the_plain_loop(cell, results):
    row = next(row for row in results.rows if row.cell == cell)
    for view, found in (("step", row.step), ("run", row.run)):
        limit = results.tolerances[cell.precision][view]
        assert {key: found[key] for key in QUANTITIES if not found[key] <= limit[key]} == {}, (view, limit)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_far_outside_the_tolerance_of_a_step(name, results):
    assert results.defects[name]["step"] > FAR


@pytest.mark.parametrize("name", [name for name, (precision, *_) in DEFECTS.items() if precision == "fp32"])
def test_in_fp32_it_is_far_outside_the_tolerance_of_the_run(name, results):
    assert results.defects[name]["run"] > FAR


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_every_group_keeps_its_rate_decay_eps_and_betas(cell, measured):
    config, plan = layout(cell)
    assert (plan.accumulation, plan.world_size) == (cell.accumulation, cell.world_size)
    at_start, at_end = measured[str(cell)]["groups"]
    for groups, lr in ((at_start, config.lr), (at_end, lr_at(config, STEPS - 1))):
        held = {name: group for group in groups for name in group["names"]}
        rows = table(skeleton(config.model), config)
        assert sorted(held) == sorted(row.name for row in rows)
        assert len({(g["lr"], g["weight_decay"]) for g in groups}) == 3
        for row in rows:
            group = held[row.name]
            assert group["lr"] == pytest.approx(lr * row.rule.lr_multiplier, rel=1e-12)
            assert group["weight_decay"] == config.optimizer.weight_decay * row.rule.weight_decay_multiplier
            assert group["eps"] == config.optimizer.eps * row.rule.eps_multiplier
            assert tuple(group["betas"]) == (config.optimizer.beta1, config.optimizer.beta2)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_probe_sees_the_norm_before_clipping(cell, measured):
    assert measured[str(cell)]["probed"] == pytest.approx(measured[str(cell)]["norms"], rel=1e-5)


def test_the_run_clips_some_steps_and_not_others(measured):
    norms, clip_norm = measured[str(CELLS[0])]["norms"], config_of("fp32").optimizer.clip_norm
    assert min(norms) < 0.95 * clip_norm < 1.05 * clip_norm < max(norms)


def test_the_table_is_printed(results, record_property):
    table = full(results)
    record_property("parity: relative deviation from a plain PyTorch loop", table)
    assert [str(cell) for cell in CELLS if str(cell) not in table] == []


def test_the_records_of_a_launched_run_are_those_of_the_plain_loop(data_dir, tmp_path, results):
    """The trainer as a user starts it, against the same plain loop: its own batches, loop and records."""
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
