"""Studies with trunks: who shares what, in which order, and what comes out."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.table import build_table
from configs.errors import ConfigError
from configs.identity import run_id
from configs.manifest import Manifest
from configs.plan import Hardware, flops_per_token, readouts
from configs.rundir import Status, manifest_ids, run_dir_of, write_status
from configs.schema import RunConfig, StudyConfig
from launch.advice import advise
from launch.execute import pin_data, write_study
from launch.study import PlannedStudy, planned_study
from tests.ranks import run_bcrit

COOLDOWN = {
    "name": "cooldown",
    "base": {"schedule": {"kind": "wsd", "warmup_tokens": 2**12}},  # decays over the last 20 %
    "trunk": {},
    "axes": {"budget_tokens": "2^16..2^18", "batch_tokens": "2^10..2^11", "lr": ["2^-8", "2^-7"]},
}
BRANCHED_BATCH = {
    "name": "branched",
    "trunk": {"at": "2^17", "fields": {"batch_tokens": "2^12", "lr": "2^-7"}},
    "axes": {
        "model.width": [64, 128],
        "budget_tokens": ["2^18", "2^19"],
        "batch_tokens": "2^9..2^13",
        "lr": ["2^-8", "2^-7"],
    },
}
LEAVES = {2**10: (52_224, 104_448, 208_896), 2**11: (51_200, 104_448, 208_896)}  # 80 % of T, in whole steps of B


def planned(study: dict[str, Any], **changes: Any) -> PlannedStudy:
    return planned_study(StudyConfig.model_validate({**study, **changes}), Hardware(world_size=1))


def corpus(fingerprint: str = "f" * 16) -> Manifest:
    split = {"tokens": 2**24, "documents": 1, "shards": []}
    return Manifest.model_validate(
        {
            "source": "",
            "tokenizer": "bytes",
            "tokenizer_sha256": "",
            "vocab_size": 257,
            "eod_token": 256,
            "dtype": "uint16",
            "train": split,
            "valid": split,
            "fingerprint": fingerprint,
            "directory": Path(),
        }
    )


def families(runs: tuple[RunConfig, ...]) -> dict[str, list[RunConfig]]:
    """The branches of each trunk, by its id."""
    found: dict[str, list[RunConfig]] = {}
    for run in runs:
        if run.branch:
            found.setdefault(run.branch.parent, []).append(run)
    return found


def test_a_cooldown_study_has_one_trunk_for_the_budgets_of_a_batch_and_learning_rate():
    study = planned(COOLDOWN)
    runs = pin_data(study, corpus())
    trunks, branches = runs[: study.n_trunks], runs[study.n_trunks :]
    assert [(t.batch_tokens, t.lr) for t in trunks] == [(b, lr) for b in (2**10, 2**11) for lr in (2**-8, 2**-7)]
    assert set(families(runs)) == {run_id(trunk) for trunk in trunks}
    for trunk in trunks:
        leaving = LEAVES[trunk.batch_tokens]
        assert trunk.branch is None
        assert (trunk.schedule.kind, trunk.schedule.warmup_tokens) == ("constant", 2**12)
        assert (trunk.budget_tokens, readouts(trunk)) == (leaving[-1], leaving[-1:])
        assert (trunk.checkpoint.keep, trunk.checkpoint.keep_at_tokens) == ("none", leaving)
        family = families(runs)[run_id(trunk)]
        assert {(run.batch_tokens, run.lr) for run in family} == {(trunk.batch_tokens, trunk.lr)}
        assert [(r.budget_tokens, r.branch.tokens) for r in family if r.branch] == [
            (2**16, leaving[0]),
            (2**17, leaving[1]),
            (2**18, leaving[2]),
        ]
    # But for where they start, the branches are the runs of the same study without trunks.
    scratch = pin_data(planned(COOLDOWN, trunk=None), corpus())
    assert tuple(run.model_copy(update={"branch": None}) for run in branches) == scratch
    for run, plan in zip(branches, study.plans[study.n_trunks :], strict=True):
        assert plan.steps * run.batch_tokens == run.budget_tokens - plan.start_tokens


def test_a_branched_batch_study_has_one_trunk_a_width():
    study = planned(BRANCHED_BATCH)
    runs = pin_data(study, corpus())
    trunks = runs[: study.n_trunks]
    assert [(t.model.width, t.batch_tokens, t.lr, t.budget_tokens) for t in trunks] == [
        (64, 2**12, 2**-7, 2**17),
        (128, 2**12, 2**-7, 2**17),
    ]
    for trunk in trunks:
        family = families(runs)[run_id(trunk)]
        assert {run.model.width for run in family} == {trunk.model.width}
        assert {(r.batch_tokens, r.lr) for r in family} == {(2**k, lr) for k in range(9, 14) for lr in (2**-8, 2**-7)}
        # The constant schedule still reads both budgets out of one run.
        assert [readouts(run) for run in family] == [(2**18, 2**19)] * 10
    steps = {run.batch_tokens: plan.steps for run, plan in zip(study.runs, study.plans, strict=True) if run.branch}
    assert steps == {2**k: (2**19 - 2**17) // 2**k for k in range(9, 14)}


def test_budgets_that_leave_at_different_tokens_are_not_one_run():
    study = planned({"name": "s", "trunk": {"at": "budget_tokens / 2"}, "axes": {"budget_tokens": ["2^16", "2^17"]}})
    assert [(run.budget_tokens, run.branch and run.branch.tokens) for run in study.runs] == [
        (2**16, None),
        (2**16, 2**15),
        (2**17, 2**16),
    ]
    assert study.trunk_of == (None, 0, 0)


def test_what_does_not_touch_the_trunk_does_not_split_it():
    """The shape of the decay is the branch's, and how a run is logged defines no result."""
    axes = {"schedule.decay_fraction": [0.1, 0.2], "schedule.final_ratio": [0, 0.1], "log.wandb": ["offline", "online"]}
    study = planned(COOLDOWN, axes=axes)
    assert study.n_trunks == 1
    assert study.runs[0].checkpoint.keep_at_tokens == (208_896, 235_520)  # of 2^18: 80 % and 90 %, in steps of 2^11
    assert len(study.runs) == 1 + 8


def test_seeds_and_widths_have_trunks_of_their_own():
    study = planned(COOLDOWN, axes={"seed": [0, 1], "model.width": [64, 128], "optimizer.beta2": [0.9, 0.95]})
    assert study.n_trunks == 8
    assert sorted(study.trunk_of[8:]) == list(range(8))
    same_beta = planned(
        COOLDOWN,
        axes={"seed": [0, 1], "optimizer.beta2": [0.9, 0.95]},
        trunk={"fields": {"optimizer.beta2": 0.95, "schedule.kind": "constant"}},
    )
    assert same_beta.trunk_of == (None, None, 0, 0, 1, 1)


def test_ids_depend_on_what_defines_the_result_alone():
    def ids(fingerprint: str = "f" * 16, **changes: Any) -> set[str]:
        return {run_id(run) for run in pin_data(planned(COOLDOWN, **changes), corpus(fingerprint))}

    assert len(ids()) == 4 + 12
    assert ids() == ids(base={**COOLDOWN["base"], "engine": {"zero_stage": 0}, "log": {"wandb": "disabled"}})
    assert ids() == ids(trunk={"at": "decay", "fields": {"checkpoint.every_seconds": 5}})
    assert ids() < ids(axes={**COOLDOWN["axes"], "lr": ["2^-8", "2^-7", "2^-6"]})
    assert not ids() & ids("e" * 16)
    # Another trunk is another start: the branches are not the runs that they were.
    assert not ids() & ids(trunk={"fields": {"optimizer.beta1": 0.8}})


def test_the_decimals_of_a_decay_fraction_are_taken_as_written():
    """1 - 0.9 is a little below 0.1 in floating point; the step would be lost."""
    base = {"schedule": {"kind": "wsd", "decay_fraction": 0.9}, "batch_tokens": 2**10, "budget_tokens": 10 * 2**10}
    assert planned({"name": "s", "base": base, "trunk": {}}).runs[0].budget_tokens == 2**10


@pytest.mark.parametrize("at", ["decay", "2^14"])  # branches that are shorter, or longer, than their trunk
def test_trunks_come_before_their_branches_and_what_most_hangs_on_first(tmp_path: Path, at: str):
    axes = {"budget_tokens": ["2^16", "2^18"], "batch_tokens": "2^10..2^11", "model.width": [64, 128]}
    study = planned(COOLDOWN, axes=axes, trunk={"at": at})
    runs = pin_data(study, corpus())
    write_study(study, runs, tmp_path)
    by_id = {run_id(run): run for run in runs}
    order = manifest_ids(tmp_path)
    assert sorted(order) == sorted(by_id)
    for place, identity in enumerate(order):
        if branch := by_id[identity].branch:
            assert order.index(branch.parent) < place
    assert [by_id[identity].model.width for identity in order[:2]] == [128, 128]
    # A trunk is worth its own tokens to the last branch and that branch's; a branch its own.
    worth = [
        flops_per_token(run.model) * (run.budget_tokens - run.branch.tokens if run.branch else 2**18)
        for run in map(by_id.__getitem__, order)
    ]
    assert worth == sorted(worth, reverse=True)
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line.get("parent") for line in lines] == [b.parent if (b := by_id[i].branch) else None for i in order]
    plans = {run_id(run): plan for run, plan in zip(runs, study.plans, strict=True)}
    assert [line["flops"] for line in lines] == [plans[identity].flops for identity in order]


def finished_trunk(study_dir: Path, *kept: int, state: str = "finished") -> tuple[PlannedStudy, tuple[RunConfig, ...]]:
    """A study of one trunk and one branch in its directory, where the trunk stands at `state` with checkpoints."""
    study = planned({**COOLDOWN, "axes": {}})
    runs = pin_data(study, corpus())
    trunk = run_dir_of(study_dir, run_id(runs[0]))
    for tokens in kept:
        (trunk / "checkpoints" / f"{tokens:015d}").mkdir(parents=True)
    trunk.mkdir(parents=True, exist_ok=True)
    write_status(trunk, Status.model_validate({"state": state}))
    return study, runs


@pytest.mark.parametrize(
    ("state", "kept"), [("finished", (2**12,)), ("preempted", (2**12, 2**18)), ("finished", ())], ids=str
)
def test_a_branch_that_comes_too_late_for_its_trunk_is_refused_before_anything_is_written(
    tmp_path: Path, state: str, kept: tuple[int, ...]
):
    study, runs = finished_trunk(tmp_path, *kept, state=state)
    with pytest.raises(ConfigError) as raised:
        write_study(study, runs, tmp_path)
    trunk = run_dir_of(tmp_path, run_id(runs[0]))
    assert str(raised.value) == (
        f"{trunk}: this trunk is past 208896 tokens, where a branch is to leave it, and kept no checkpoint there: "
        "remove that directory to train it again"
    )
    assert not (tmp_path / "manifest.jsonl").exists()


def test_a_trunk_that_diverged_before_its_branch_is_no_mistake(tmp_path: Path):
    study, runs = finished_trunk(tmp_path)
    trunk = run_dir_of(tmp_path, run_id(runs[0]))
    write_status(trunk, Status(state="diverged", tokens=208_896 + 2**11))
    with pytest.raises(ConfigError, match="is past 208896 tokens"):
        write_study(study, runs, tmp_path)
    write_status(trunk, Status(state="diverged", tokens=208_896))
    write_study(study, runs, tmp_path)
    assert len(manifest_ids(tmp_path)) == 2


@pytest.mark.parametrize("state", ["pending", "running", "preempted", "finished"])
def test_a_trunk_that_has_the_checkpoint_or_will_have_it_is_in_time(tmp_path: Path, state: str):
    write_study(*finished_trunk(tmp_path, *([208_896] if state == "finished" else [2**12]), state=state), tmp_path)
    assert len(manifest_ids(tmp_path)) == 2


def test_a_branch_that_has_left_its_trunk_needs_it_no_more(tmp_path: Path):
    study, runs = finished_trunk(tmp_path)
    branch = run_dir_of(tmp_path, run_id(runs[1]))
    branch.mkdir(parents=True)
    write_status(branch, Status(state="preempted", attempt=1))
    write_study(study, runs, tmp_path)
    assert len(manifest_ids(tmp_path)) == 2


def test_runs_from_scratch_are_told_of_trunks_and_branches_are_not():
    def told(study: PlannedStudy) -> list[str]:
        return [w for w in advise(study.runs[study.n_trunks :]) if "needs a run per budget" in w]

    assert told(planned(COOLDOWN)) == []
    (text,) = told(planned(COOLDOWN, trunk=None))
    assert text.endswith("with wsd and `trunk: {}` the budgets share what lies before their decay.")


def test_a_drop_of_the_learning_rate_at_the_branch_is_pointed_out():
    def warned(at: str, **base: Any) -> list[str]:
        study = planned({"name": "s", "base": base, "trunk": {"at": at}, "axes": {"seed": [0, 1]}})
        return [w for w in advise(study.runs[study.n_trunks :]) if "leave their trunk after" in w]

    assert warned("208896", schedule={"kind": "wsd"}) == []
    assert warned("2^17") == []
    (text,) = warned("210944", schedule={"kind": "wsd"})
    assert text.startswith("2 of 2 branches leave their trunk after their own schedule has begun to decay")
    assert warned("2^17", schedule={"kind": "cosine"})


SMALL = """
name: small
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 64}
  data: {valid_tokens: 2048}
  schedule: {kind: wsd, warmup_tokens: 2^11}
  engine: {zero_stage: 0}
  log: {wandb: disabled}
  checkpoint: {keep: none}
axes:
  budget_tokens: 2^13..2^14
  lr: [2^-7, 2^-5]
"""


def test_cooldowns_from_trunks_give_the_losses_of_runs_from_scratch(tmp_path: Path, data_dir: Path):
    tables, trained = {}, {"trunks": 2 * (12_288 + 2**13 - 6144 + 2**14 - 12_288), "scratch": 2 * (2**13 + 2**14)}
    for name, text in (("trunks", SMALL + "trunk: {}\n"), ("scratch", SMALL)):
        (tmp_path / f"{name}.yaml").write_text(text)
        command = ("run", tmp_path / f"{name}.yaml", "--out", tmp_path / name, "--data-dir", data_dir)
        code, said = run_bcrit(*command, log=tmp_path / f"{name}.log")
        assert code == 0, said
        assert f"{trained[name]:,} tokens in " in said
        tables[name] = build_table(tmp_path / name).sort_values(["tokens", "lr"], ignore_index=True)
    assert len(manifest_ids(tmp_path / "trunks")) == 2 + 4
    measured = ["tokens", "lr", "status", "loss", "train_loss", "loss_init", "rms_residual", "rms_residual_init"]
    pd.testing.assert_frame_equal(tables["trunks"][measured], tables["scratch"][measured], check_exact=True)
    assert tables["trunks"]["loss"].notna().all()
    assert list(tables["trunks"]["branch_tokens"]) == [6144, 6144, 12_288, 12_288]  # 80 %, in whole steps of 2^11
    assert list(tables["scratch"]["branch_tokens"]) == [0] * 4
