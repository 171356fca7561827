"""Warmups: their formulas, what they find on real engines, and that a resumed one goes on as if nothing had been."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.load import load_run
from configs.plan import Hardware, plan
from configs.rundir import read_metrics
from configs.schema import ScheduleConfig
from tests.train.conftest import RUN, assert_same_tensors, checkpoints_of, science
from train import warmup as warmups
from train.critical_lr import CriticalLr
from train.schedules import shape
from train.warmup import Warmup, advance_warmup, start_warmup, summary

T = 2**16
NO_ENGINE: Any = SimpleNamespace(module=None)
SHARP = (  # the critical rate before the first step is 0.16
    *("optimizer.kind=sgd", "optimizer.beta1=0.5", "optimizer.clip_norm=0", "model.output_multiplier=8"),
    *("lr=0.5", "explode_ratio=100"),
)
CATAPULT = (*SHARP, "schedule.warmup=catapult", "schedule.warmup_tokens=2048")


def rows_of(run_dir, kind):
    return [row for row in read_metrics(run_dir) if row["kind"] == kind]


@pytest.mark.parametrize(
    ("warmup", "found", "shapes"),
    [
        ("linear", 0.0, [0, 0.25, 0.5, 1, 1]),
        ("critical", 0.4, [0.4, 0.65, 0.9, 1, 1]),  # as steep as from 0; at the peak after 0.6 of the length
        ("critical", 1.0, [1, 1, 1, 1, 1]),
        ("catapult", 0.3, [0.3, 0.3, 0.3, 0.3, 0.3]),
    ],
)
def test_the_table_of_shapes(warmup, found, shapes):
    schedule = ScheduleConfig(warmup=warmup, warmup_tokens=1024)
    assert [shape(schedule, T, tokens, found) for tokens in (0, 256, 512, 1024, T)] == pytest.approx(shapes)
    decaying = schedule.model_copy(update={"kind": "linear"})
    half = (1024 + T) / 2
    assert shape(decaying, T, half, found) == pytest.approx(shapes[-1] / 2)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    return load_run(tmp_path / "run.yaml", ["schedule.warmup=critical", "lr=1"])


def played(monkeypatch, high, losses=()):
    """The engine replaced by what searches would find, and what the loss would be when it is looked at."""
    found, seen = iter(high), iter(losses)
    searches = []

    def search(loss_after, loss, start, target):
        searches.append((start, target))
        return CriticalLr("found", 0.0, max(start, next(found)), loss, ((0.0, 0.0),) * 3)

    monkeypatch.setattr(warmups, "trial_steps", lambda *_: (None, 5.0))
    monkeypatch.setattr(warmups, "critical_lr", search)
    monkeypatch.setattr(warmups, "look_ahead", lambda *_: next(seen))
    return searches


@pytest.mark.parametrize(
    ("critical", "reached", "saved"),
    [
        (0.25, 768, 1024 - 768 - 4 * 128),  # T_wrm (1 - lr_c / peak); 4 forward passes at half a step of 256 each
        (0.6, 512, 1024 - 512 - 512),  # the step nearest to 410
        (1.0, 256, 1024 - 256 - 512),  # lr_c at the peak or above: one step
    ],
)
def test_what_a_critical_start_saves(config, monkeypatch, critical, reached, saved):
    searches = played(monkeypatch, [critical], [5.0])
    found, row = start_warmup(NO_ENGINE, config, [])
    assert searches == [(0.25, 1.0)]  # where a linear warmup of four steps would start; the peak
    told = summary(found, config)
    assert (told.lr_start, told.passes, told.reached_tokens, told.saved_tokens) == (critical, 4, reached, saved)
    assert (row["kind"], row["high"], row["tokens"]) == ("critical_lr", critical, 0)


def test_the_catapult_is_raised_only_after_the_loss_has_come_down(config, monkeypatch):
    """Algorithm 3 on a given course of the loss."""
    config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"warmup": "catapult"})})
    looks = [5.0, 6.0, 5.5, 5.0, 4.9, 4.9, 4.8, 4.8]  # at the start; then one a step, and one after each search
    searches = played(monkeypatch, [0.3, 0.5, 0.4], looks)
    found, _ = start_warmup(NO_ENGINE, config, [])
    course = [found.found]
    raised = []
    for step in range(5):  # 6.0 5.5 5.0 4.9 4.8
        row = advance_warmup(found, NO_ENGINE, config, [], step)
        raised += [step] if row else []
        course.append(found.found)
    assert raised == [3, 4]  # 5.0 is not below 5.0
    assert course == [0.3, 0.3, 0.3, 0.3, 0.5, 0.5]  # a search that finds less than there is leaves it
    assert [start for start, _ in searches] == [0.25, 0.3, 0.5]
    assert summary(found, config).reached_tokens is None
    assert summary(found, config).saved_tokens is None
    assert asdict(Warmup(**asdict(found))) == asdict(found)


def test_a_critical_start_on_a_run(run, tmp_path):
    status = run(tmp_path / "run", "schedule.warmup=critical", *SHARP)
    (search,) = rows_of(tmp_path / "run", "critical_lr")
    assert search["outcome"] == "found"
    assert status.warmup.lr_start == search["high"] < 0.5
    assert status.warmup.passes == search["passes"]
    assert status.warmup.reached_tokens == round((1 - search["high"] / 0.5) * 4) * 256
    first = rows_of(tmp_path / "run", "train")[0]
    assert first["lr"] == pytest.approx(min(0.5, search["high"] + 0.5 * (512 + 128) / 1024))
    linear = run(tmp_path / "linear", *SHARP)
    assert linear.warmup is None
    assert rows_of(tmp_path / "linear", "critical_lr") == []


def test_a_search_does_not_touch_the_run(run, tmp_path):
    """With the peak so low that the critical rate is above it, critical is no warmup: the same run, bit for bit."""
    run(tmp_path / "searched", "schedule.warmup=critical", "lr=2^-16")
    run(tmp_path / "none", "schedule.warmup_tokens=0", "lr=2^-16")
    rest = [row for row in science(tmp_path / "searched") if row["kind"] != "critical_lr"]
    assert rest == science(tmp_path / "none")
    assert_same_tensors(checkpoints_of(tmp_path / "searched")[-1], checkpoints_of(tmp_path / "none")[-1])


def test_a_catapult_climbs_to_the_peak(run, tmp_path):
    status = run(tmp_path / "run", *CATAPULT, "log.every_tokens=256")
    lrs = [row["lr"] for row in rows_of(tmp_path / "run", "train")]
    assert lrs == sorted(lrs)
    assert lrs[0] == status.warmup.lr_start < lrs[-1]
    searches = rows_of(tmp_path / "run", "critical_lr")
    assert len(searches) > 2
    assert all(row["loss"] < searches[0]["loss"] for row in searches[1:])
    assert (status.warmup.reached_tokens is None) == (lrs[-1] < 0.5)


@pytest.mark.parametrize("warmup", [CATAPULT, ("schedule.warmup=critical", *SHARP, "lr=0.25")])
def test_a_stopped_warmup_goes_on_bit_for_bit(run, tmp_path, warmup):
    whole = run(tmp_path / "whole", *warmup)
    for steps in (2, 3, None):
        status = run(tmp_path / "cut", *warmup, stop_after=steps)
    assert status.attempt == 3
    assert (status.state, status.tokens, status.warmup) == (whole.state, whole.tokens, whole.warmup)
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert_same_tensors(checkpoints_of(tmp_path / "cut")[-1], checkpoints_of(tmp_path / "whole")[-1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.warmup_tokens=0"], "schedule.warmup = critical with schedule.warmup_tokens = 0: .*give its length"),
        (["optimizer.svag=2", "optimizer.clip_norm=0"], "schedule.warmup = critical with optimizer.svag = 2"),
        (["branch={parent: 0123456789ab, tokens: 2048}"], "schedule.warmup = critical in a branch: .*from scratch"),
    ],
)
def test_warmups_that_cannot_be_are_refused(tmp_path, overrides, message):
    (tmp_path / "run.yaml").write_text(RUN)
    config = load_run(tmp_path / "run.yaml", ["schedule.warmup=critical", *overrides])
    with pytest.raises(ConfigError, match=message):
        plan(config, Hardware(world_size=1))
