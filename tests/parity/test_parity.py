"""DeepSpeed against a plain PyTorch loop, in every supported layout of the same run.

The table is printed at the end; `tests.parity.noise` says what is compared, and where the tolerances come from.
"""

import pytest

from tests.parity.cells import CELLS, STEPS, config_of, layout, lr_at
from tests.parity.defects import DEFECTS
from tests.parity.noise import QUANTITIES
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


def test_the_run_clips_some_steps_and_not_others(measured):
    norms, clip_norm = measured[str(CELLS[0])]["norms"], config_of("fp32").optimizer.clip_norm
    assert min(norms) < 0.95 * clip_norm < 1.05 * clip_norm < max(norms)
