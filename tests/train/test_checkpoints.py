"""At every moment there is a whole checkpoint, a damaged one is known for it, and what is kept is what was asked."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import pytest

from configs.errors import ConfigError
from configs.rundir import read_config, read_status
from tests.train.conftest import assert_same_tensors, checkpoints_of, science
from train import checkpoints, intact, universal, worker
from train.engine import Engine


def names(run_dir):
    return [int(path.name) for path in checkpoints_of(run_dir)]


def contents(run_dir):
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.fixture
def cut(run, tmp_path):
    """A run stopped at tokens 512, 1024 and 1536, of whose checkpoints two are left."""
    for _ in range(3):
        run(tmp_path / "cut", stop_after=2)
    assert names(tmp_path / "cut") == [1024, 1536]
    return tmp_path / "cut"


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip, truncate, os.unlink])
@pytest.mark.parametrize("which", ["*model_states.pt", "*optim_states.pt", "position.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over(cut, run, capsys, harm, which):
    harm(next(checkpoints_of(cut)[-1].rglob(which)))
    status = run(cut, stop_after=1)
    assert status.tokens == 1024 + 256
    warning = capsys.readouterr().out
    assert "warning" in warning
    assert f"{1536:015d} is passed over" in warning


def test_a_run_that_fell_back_is_still_the_same_run(cut, run, tmp_path):
    flip(next(checkpoints_of(cut)[-1].rglob("*optim_states.pt")))
    run(cut)
    run(tmp_path / "whole")
    assert science(cut) == science(tmp_path / "whole")
    assert_same_tensors(checkpoints_of(cut)[-1], checkpoints_of(tmp_path / "whole")[-1])


def test_a_half_written_checkpoint_is_not_used(cut, run):
    shutil.copytree(checkpoints_of(cut)[-1], cut / "checkpoints" / f"{2048:015d}.partial")
    (checkpoints_of(cut)[1] / "manifest.json").unlink()  # what a removal cut short may leave
    assert run(cut, stop_after=1).tokens == 1024 + 256


def test_when_all_are_damaged_nothing_is_touched(cut, run):
    for path in checkpoints_of(cut):
        flip(next(path.rglob("*model_states.pt")))
    before = contents(cut)
    with pytest.raises(ConfigError, match="no checkpoint is intact; remove that directory to start the run again"):
        run(cut)
    assert contents(cut) == before


def test_a_checkpoint_of_another_run_is_refused(cut, run, tmp_path):
    run(tmp_path / "other", "seed=1", stop_after=7)
    shutil.copytree(checkpoints_of(tmp_path / "other")[-1], cut / "checkpoints" / f"{1792:015d}")
    before = contents(cut)
    with pytest.raises(ConfigError, match=r"belongs to run [0-9a-f]{12}, not to [0-9a-f]{12}"):
        run(cut)
    assert contents(cut) == before


def test_a_checkpoint_of_another_size_is_refused(cut, run, tmp_path):
    run(tmp_path / "wide", "model.width=64", stop_after=7)
    shutil.copytree(checkpoints_of(tmp_path / "wide")[-1], cut / "checkpoints" / f"{1792:015d}")
    with pytest.raises(ConfigError, match="of a model with width = 64, here it is 32"):
        run(cut)


def test_another_stage_asks_for_a_universal_checkpoint(cut, run, tmp_path, data_dir):
    asked = "written by 1 rank.* at ZeRO-1, resumed by 1 at ZeRO-2: run `bcrit universal .*cut` first"
    with pytest.raises(ConfigError, match=asked):
        run(cut, "engine.zero_stage=2")
    assert worker.run_claimed("study", [cut], data_dir, lambda: False, 0.0, 0.0) == 1
    assert (read_status(cut).state, read_status(cut).tokens) == ("preempted", 1536), "a refusal is no failure"
    assert "run `bcrit universal" in read_status(cut).message
    universal.convert(checkpoints_of(cut)[-1])
    status, whole = run(cut, "engine.zero_stage=2"), run(tmp_path / "whole")
    assert status.state == "finished"
    assert [r.loss for r in status.readouts] == pytest.approx([r.loss for r in whole.readouts], rel=1e-6)


def test_a_config_of_an_older_version_is_refused(cut):
    path = cut / "config.json"
    old = json.loads(path.read_text())
    old["checkpoint"]["keep_final"] = True
    path.write_text(json.dumps(old))
    before = contents(cut)
    with pytest.raises(ConfigError, match=r"config\.json: .*keep_final: unknown field.*written by another version"):
        read_config(cut)
    assert contents(cut) == before


def test_a_disk_without_room_is_seen_before_anything_is_written(cut, run, monkeypatch):
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    kept = contents(cut / "checkpoints")
    with pytest.raises(ConfigError, match=r"1e-06 GB free, a checkpoint may need .* GB: make room and resume"):
        run(cut, stop_after=1)
    assert contents(cut / "checkpoints") == kept


def test_a_disk_that_fills_up_in_between_costs_no_checkpoint(cut, run, monkeypatch):
    kept = contents(cut / "checkpoints")
    sync = intact.sync

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(intact, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        run(cut, stop_after=1)
    assert contents(cut / "checkpoints") == kept
    monkeypatch.setattr(intact, "sync", sync)
    assert run(cut).state == "finished"


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (["checkpoint.keep=none"], []),
        (["checkpoint.keep=final"], [4096]),
        (["checkpoint.keep=readouts", "readout_tokens=[1024,2048]"], [1024, 2048, 4096]),
        (["checkpoint.keep=none", "checkpoint.keep_at_tokens=[768,3072]"], [768, 3072]),
    ],
)
def test_what_is_kept_for_good(run, tmp_path, settings, left):
    assert run(tmp_path / "run", "checkpoint.every_tokens=512", *settings).state == "finished"
    assert names(tmp_path / "run") == left


def test_the_last_ones_are_kept_while_training(run, tmp_path):
    settings = ("checkpoint.every_tokens=256", "checkpoint.keep_last=3", "checkpoint.keep_at_tokens=[512]")
    run(tmp_path / "run", *settings, stop_after=9)
    assert names(tmp_path / "run") == [512, 1792, 2048, 2304]


def test_a_damaged_checkpoint_does_not_take_the_place_of_a_whole_one(cut, run):
    flip(next(checkpoints_of(cut)[-1].rglob("*model_states.pt")))
    run(cut, "checkpoint.keep_last=1", stop_after=1)
    assert names(cut) == [1280]
    assert run(cut).state == "finished"


def test_the_leftovers_of_a_save_that_was_cut_short_are_no_obstacle(cut, run):
    shutil.copytree(checkpoints_of(cut)[0], cut / "checkpoints" / f"{1024:015d}.partial")
    run(cut, stop_after=3)
    assert names(cut) == [1536, 2304]


def test_the_way_back_is_there_until_the_end_is_on_record(cut, run, monkeypatch):
    def killed(run_dir, last, newest, kept):
        assert read_status(cut).state == "finished" or last > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "prune", killed)
    with pytest.raises(KeyboardInterrupt):
        run(cut, "checkpoint.keep=none")
    assert read_status(cut).state == "finished"


def test_at_every_moment_of_a_save_one_is_whole(run, tmp_path, monkeypatch):
    """Whenever a file is synced, renamed or removed, what a reader would then take as newest is intact."""
    run_dir = tmp_path / "run"
    run(run_dir, stop_after=1)
    seen = []

    def look(original):
        def watched(*arguments, **options):
            seen.append(checkpoints.newest_intact(run_dir) is not None)
            done = original(*arguments, **options)
            seen.append(checkpoints.newest_intact(run_dir) is not None)
            return done

        return watched

    monkeypatch.setattr(intact, "sync", look(intact.sync))
    monkeypatch.setattr(checkpoints, "sync", look(checkpoints.sync))
    monkeypatch.setattr(checkpoints.os, "rename", look(os.rename))
    monkeypatch.setattr(checkpoints.shutil, "rmtree", look(shutil.rmtree))
    run(run_dir, "checkpoint.every_tokens=256", "checkpoint.keep_last=1", stop_after=3)
    assert len(seen) > 50
    assert all(seen)


def test_a_read_only_run_directory_is_one_clear_error(cut, run, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints.Path, "mkdir", refuse)
    engine: Engine = SimpleNamespace(module=SimpleNamespace(parameters=lambda: []))
    with pytest.raises(ConfigError, match="Permission denied; choose another path"):
        checkpoints.save(engine, cut, read_config(cut), checkpoints.Position(tokens=2048), None)
    assert read_status(cut).state == "preempted"
