import io

import pytest
from rich.console import Console

from configs.identity import run_id
from configs.plan import Hardware, flops_per_token
from configs.schema import ModelConfig, StudyConfig
from launch.plan_table import (
    Cost,
    cost,
    cost_from_scratch,
    duration,
    estimate_seconds,
    measured_flops_per_s,
    print_plan,
)
from launch.study import PlannedStudy, planned_study

COOLDOWN = {"schedule": {"kind": "wsd"}}


def planned(base: object = None, trunk: object = None, **axes: object) -> PlannedStudy:
    given = {"data": {"fingerprint": "f"}, **(base if isinstance(base, dict) else {})}
    study = StudyConfig.model_validate({"name": "demo", "base": given, "trunk": trunk, "axes": axes})
    return planned_study(study, Hardware(1))


def printed(study: PlannedStudy, show_all: bool = False) -> str:
    console = Console(file=io.StringIO(), width=150)
    print_plan(console, study, study.runs, workers=2, show_all=show_all)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_is_printed():
    text = printed(planned(budget_tokens="2^16..2^17", lr="2^-8..2^-7 by 2^0.5"))
    lines = text.splitlines()
    assert "study demo" in lines[0]
    assert sum("2^16 2^17" in line for line in lines) == 3
    assert any("2^-7.5" in line and "16 x 1 x 1" in line for line in lines)
    assert all(run_id(run) in text for run in planned(budget_tokens="2^16..2^17", lr="2^-8..2^-7 by 2^0.5").runs)
    assert "1 width x 2 budgets x 1 batch size x 3 learning rates x 1 seed: 2 cells (N, T, B) from 3 runs" in text
    assert "3.932e+05 tokens (5.898e+05 if every budget were a run of its own)" in text
    assert "rough" in text
    assert "warning  One width (64)" in text


def test_a_long_table_keeps_its_ends_unless_all_is_asked_for():
    study = planned(seed=list(range(100, 150)))
    short, whole = printed(study), printed(study, show_all=True)
    assert "30 more runs (--all)" in short
    for seed, shown in ((100, True), (109, True), (110, False), (139, False), (140, True), (149, True)):
        assert (f"  {seed}  " in short) == shown
        assert f"  {seed}  " in whole


def test_time_is_shared_by_the_workers_but_not_below_the_longest_run():
    study = planned(seed=[0, 1, 2, 3])
    each = study.plans[0].flops / 1e9 + study.plans[0].steps * 0.01
    assert estimate_seconds(study, 1e9, 0.01, 1) == pytest.approx(4 * each)
    assert estimate_seconds(study, 1e9, 0.01, 2) == pytest.approx(2 * each)
    assert estimate_seconds(study, 1e9, 0.01, 99) == pytest.approx(each)


def test_the_longest_run_includes_the_trunk_that_it_waits_for():
    """A cooldown to 2^18 cannot begin before its trunk's 102 of 128 steps of 2^11; the branches are short."""
    study = planned(COOLDOWN, {}, budget_tokens="2^17..2^18")
    step = flops_per_token(ModelConfig()) * 2**11 / 1e9 + 0.01
    assert [plan.steps for plan in study.plans] == [102, 64 - 51, 128 - 102]
    assert estimate_seconds(study, 1e9, 0.01, 1) == pytest.approx((102 + 13 + 26) * step)
    assert estimate_seconds(study, 1e9, 0.01, 99) == pytest.approx(128 * step)


def test_cost_and_saving_of_cooldowns_by_hand():
    """Budgets of 32, 64 and 128 steps of 2^11, left at 80 %: after 25, 51 and 102 steps."""
    study = planned(COOLDOWN, {}, budget_tokens="2^16..2^18", seed=[0, 1])
    steps = 102 + (32 - 25) + (64 - 51) + (128 - 102)
    tokens = 2 * steps * 2**11
    flops = flops_per_token(ModelConfig())
    assert (study.n_trunks, tokens) == (2, 606_208)
    assert cost(study.plans) == Cost(tokens, tokens * flops)
    scratch = 2 * (2**16 + 2**17 + 2**18)
    assert cost_from_scratch(study.plans[2:]) == Cost(scratch, scratch * flops)
    assert cost(planned(COOLDOWN, budget_tokens="2^16..2^18", seed=[0, 1]).plans) == Cost(scratch, scratch * flops)


def test_what_is_printed_of_a_study_with_trunks():
    study = planned(COOLDOWN, {}, budget_tokens="2^16..2^18", seed=[0, 1])
    text = printed(study)
    assert "1 width x 3 budgets x 1 batch size x 1 learning rate x 2 seeds: 3 cells (N, T, B) from 6 runs" in text
    saved = 917_504 - 606_208  # 33.9 % of 917504
    assert f"2 trunks for 6 branches: {saved:.4g} of 9.175e+05 tokens (33.9%) and " in text
    assert "FLOPs saved against every run from scratch" in text
    assert "total    6.062e+05 tokens, " in text
    lines = text.splitlines()
    assert sum("(a trunk)" in line and "208896" in line and "102" in line for line in lines) == 2
    left = [f"{'0' * 12} at {tokens}" for tokens in (51_200, 104_448, 208_896)]
    assert [sum(words in line for line in lines) for words in left] == [2, 2, 2]


def test_warnings_are_about_the_grid_alone():
    """The trunk, of 12 steps, is as short as the first branch's 8."""
    assert "1 of 2 runs have fewer than 16 steps" in printed(planned(COOLDOWN, {}, budget_tokens="2^14..2^15"))


def test_trunks_of_a_branch_each_save_nothing_and_it_is_said():
    text = printed(planned(COOLDOWN, {}, seed=[0, 1]))
    assert "2 trunks for 2 branches: nothing is saved, no two runs have a trunk in common" in text
    assert "total    5.243e+05 tokens, " in text  # 2 x 2^18


def test_both_savings_are_told_apart():
    """A constant schedule reads both budgets out of a branch, and the branches share a trunk."""
    trunk = {"at": "2^16", "fields": {"lr": 2**-8}}
    study = planned(None, trunk, budget_tokens="2^17..2^18", lr="2^-8..2^-7")
    text = printed(study)
    trained = 2**16 + 2 * (2**18 - 2**16)
    assert "1 trunk for 2 branches: 6.554e+04 of 5.243e+05 tokens (12.5%) and " in text
    assert f"total    {trained:.4g} tokens (7.864e+05 if every budget were a run of its own)" in text


def test_without_trunks_nothing_is_said_of_them():
    text = printed(planned(seed=[0, 1]))
    assert "trunk" not in text
    assert "branches off" not in text


def test_the_measured_rate_is_that_of_a_cpu_core():
    assert 1e8 < measured_flops_per_s(0.05) < 1e13


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (9000, "2.5 h"), (5 * 86400, "5 days")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
