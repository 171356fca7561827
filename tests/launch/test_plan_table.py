import io

import pytest
from rich.console import Console

from configs.identity import run_id
from configs.plan import Hardware, plan
from configs.schema import StudyConfig
from launch.plan_table import duration, estimate_seconds, measured_flops_per_s, print_plan
from launch.study import PlannedStudy, expand


def planned(**axes: object) -> PlannedStudy:
    base = {"data": {"fingerprint": "f"}}
    study = StudyConfig.model_validate({"name": "demo", "base": base, "axes": axes})
    runs = expand(study)
    return PlannedStudy(study, runs, tuple(plan(run, Hardware(1)) for run in runs))


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
    plans = planned(seed=[0, 1, 2, 3]).plans
    each = plans[0].flops / 1e9 + plans[0].steps * 0.01
    assert estimate_seconds(plans, 1e9, 0.01, 1) == pytest.approx(4 * each)
    assert estimate_seconds(plans, 1e9, 0.01, 2) == pytest.approx(2 * each)
    assert estimate_seconds(plans, 1e9, 0.01, 99) == pytest.approx(each)


def test_the_measured_rate_is_that_of_a_cpu_core():
    assert 1e8 < measured_flops_per_s(0.05) < 1e13


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (9000, "2.5 h"), (5 * 86400, "5 days")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
