import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from configs.identity import run_id
from configs.plan import Hardware, readouts
from configs.schema import RunConfig, StudyConfig
from launch.study import count, expand, plan_study


def study(**fields: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "s", **fields})


exponents = st.sets(st.integers(5, 12), min_size=1, max_size=4).map(sorted)


@given(budgets=exponents, batches=exponents, lrs=exponents, seeds=st.integers(1, 3))
def test_a_constant_schedule_reads_every_budget_out_of_one_run(
    budgets: list[int], batches: list[int], lrs: list[int], seeds: int
):
    axes = {
        "budget_tokens": [2**k for k in budgets],
        "batch_tokens": [2**k for k in batches],
        "lr": [2.0**-k for k in lrs],
        "seed": list(range(seeds)),
    }
    runs = expand(study(axes=axes))
    wanted = {point for point in itertools.product(*axes.values())}
    assert {(t, r.batch_tokens, r.lr, r.seed) for r in runs for t in readouts(r)} == wanted
    assert len(runs) == len(batches) * len(lrs) * seeds
    assert {r.budget_tokens for r in runs} == {max(axes["budget_tokens"])}
    separate = expand(study(axes=axes, base={"schedule": {"kind": "cosine"}}))
    assert [(r.budget_tokens, r.batch_tokens, r.lr, r.seed) for r in separate] == list(
        itertools.product(*axes.values())
    )
    assert all(readouts(r) == (r.budget_tokens,) for r in separate)


@given(budgets=exponents, batches=exponents)
def test_a_filter_keeps_a_run_for_the_budgets_that_pass_it(budgets: list[int], batches: list[int]):
    axes = {"budget_tokens": [2**k for k in budgets], "batch_tokens": [2**k for k in batches]}
    wanted = {(t, b) for t, b in itertools.product(*axes.values()) if b <= t / 4}
    if not wanted:
        return
    runs = expand(study(axes=axes, where=["batch_tokens <= budget_tokens / 4"]))
    assert {(t, r.batch_tokens) for r in runs for t in readouts(r)} == wanted
    assert len(runs) == len({b for _, b in wanted})


def test_order_is_that_of_the_file_the_last_axis_fastest():
    runs = expand(study(axes={"seed": [1, 0], "lr": [0.5, 0.25]}, zipped=[{"model.width": [64, 128]}]))
    assert [(r.seed, r.lr, r.model.width) for r in runs[:4]] == [
        (1, 0.5, 64),
        (1, 0.5, 128),
        (1, 0.25, 64),
        (1, 0.25, 128),
    ]
    assert expand(study(axes={"seed": [1, 0], "lr": [0.5, 0.25]}, zipped=[{"model.width": [64, 128]}])) == runs


def test_zipped_fields_move_together():
    zipped = [{"model.width": [64, 128], "model.depth": "2^1..2^2"}, {"batch_tokens": ["2^10", "2^11"]}]
    runs = expand(study(zipped=zipped, axes={"seed": [0, 1]}))
    assert len(runs) == 2 * 2 * 2
    assert {(r.model.width, r.model.depth) for r in runs} == {(64, 2), (128, 4)}


def test_no_axes_is_one_run_the_base_itself():
    assert expand(study(base={"lr": 0.5})) == (RunConfig(lr=0.5),)


def test_axes_may_hold_anything_that_the_field_takes():
    runs = expand(study(axes={"schedule.kind": ["wsd", "cosine"], "checkpoint.keep": ["final", "none"]}))
    assert [(r.schedule.kind, r.checkpoint.keep) for r in runs] == [
        ("wsd", "final"),
        ("wsd", "none"),
        ("cosine", "final"),
        ("cosine", "none"),
    ]


def test_readouts_of_the_base_stay_beside_the_budgets():
    runs = expand(study(base={"readout_tokens": ["2^14"]}, axes={"budget_tokens": ["2^15", "2^16"]}))
    assert [r.readout_tokens for r in runs] == [(2**14, 2**15, 2**16)]


def test_runs_of_a_study_have_different_ids():
    base = {"data": {"fingerprint": "f"}}
    runs = expand(study(base=base, axes={"lr": "2^-9..2^-5", "batch_tokens": "2^9..2^11", "seed": [0, 1, 2]}))
    assert len({run_id(r) for r in runs}) == len(runs) == 45


def test_count_of_a_filtered_grid():
    axes = {"model.width": [64, 128], "budget_tokens": "2^12..2^14", "batch_tokens": "2^9..2^11", "lr": [0.1, 0.2]}
    grid = count(expand(study(axes=axes, where=["batch_tokens <= budget_tokens / 4"])))
    assert (grid.widths, grid.budgets, grid.batches, grid.lrs, grid.seeds) == (2, 3, 3, 2, 1)
    assert grid.cells == 2 * (2 + 3 + 3)  # 2^11 does not pass at 2^12
    assert grid.runs == 2 * 3 * 2


def test_plan_study_aligns_plans_with_runs(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\naxes:\n  budget_tokens: 2^14..2^16\n  batch_tokens: 2^9..2^11\n")
    planned = plan_study(path, ["base.engine.micro_batch_seqs=4"], Hardware(world_size=2))
    assert planned.study.name == "s"
    assert [p.steps * r.batch_tokens for r, p in zip(planned.runs, planned.plans, strict=True)] == [2**16] * 3
    assert [(p.step_seqs, p.micro_batch_seqs, p.accumulation) for p in planned.plans] == [
        (4, 2, 1),
        (8, 4, 1),
        (16, 4, 2),
    ]
    assert planned.plans[0].readout_tokens == (2**14, 2**15, 2**16)
