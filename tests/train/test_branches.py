"""A branch goes on where its trunk was: the same numbers as one uninterrupted run, with what it changes on record."""

import pytest
import torch

from configs.errors import ConfigError
from configs.identity import run_id
from configs.lineage import changed_fields
from configs.plan import Hardware, plan
from configs.rundir import read_config, read_metrics, read_status
from configs.schema import CheckpointConfig, LogConfig
from tests.train.conftest import assert_same_tensors, checkpoints_of, tensors_of
from train.data.batches import open_split, sequences
from train.data.prepare import ensure_embedded
from train.feed import samples

COOLDOWN = ("schedule.kind=wsd", "schedule.decay_fraction=0.25", "budget_tokens=4096")


@pytest.fixture
def trunk(run, tmp_path):
    """A constant run of 3072 tokens with a checkpoint kept at its end, in a directory named after it."""
    run(tmp_path / "trunk", "budget_tokens=3072", "checkpoint.keep=none", "checkpoint.keep_at_tokens=[1024,3072]")
    home = tmp_path / run_id(read_config(tmp_path / "trunk"))
    return (tmp_path / "trunk").rename(home)


def branch_of(trunk, tokens):
    return f"branch={{parent: '{trunk.name}', tokens: {tokens}}}"


@pytest.mark.parametrize("stop_after", [None, 2])
def test_a_cooldown_branch_is_the_whole_run(trunk, run, tmp_path, stop_after):
    run(tmp_path / "whole", *COOLDOWN)
    if stop_after:
        run(tmp_path / "branch", *COOLDOWN, branch_of(trunk, 3072), stop_after=stop_after)
    status = run(tmp_path / "branch", *COOLDOWN, branch_of(trunk, 3072))
    assert status.state == "finished"
    assert [r.tokens for r in status.readouts] == [0, 4096]
    assert [r.loss for r in status.readouts] == [r.loss for r in read_status(tmp_path / "whole").readouts]
    assert_same_tensors(checkpoints_of(tmp_path / "branch")[-1], checkpoints_of(tmp_path / "whole")[-1])
    steps = [row["tokens"] for row in read_metrics(tmp_path / "branch") if row["kind"] == "train"]
    assert min(steps) > 3072


def test_a_branch_may_change_batch_rate_and_betas(trunk, run, tmp_path):
    changes = ("batch_tokens=512", "lr=2^-5", "optimizer.beta1=0.8", "optimizer.beta2=0.9", "log.every_tokens=512")
    status = run(tmp_path / "branch", *changes, "budget_tokens=4096", branch_of(trunk, 1024))
    assert status.state == "finished"
    groups = [value for name, value in groups_of(checkpoints_of(tmp_path / "branch")[-1]) if name == "betas"]
    assert groups == [(0.8, 0.9)] * len(groups)
    assert len(groups) >= 3
    rows = [row for row in read_metrics(tmp_path / "branch") if row["kind"] == "train"]
    assert [(row["tokens"], row["step"], row["lr"]) for row in rows] == [
        (1024 + 512 * k, k, 2**-5) for k in range(1, 7)
    ]
    steps = {
        int(t) for name, t in tensors_of(checkpoints_of(tmp_path / "branch")[-1]).items() if name.endswith("/step")
    }
    assert steps == {4 + 6}, "Adam's count of steps goes on from the trunk's"


def test_a_branch_checkpoints_at_its_own_steps(trunk, run, tmp_path):
    steps = ("batch_tokens=768", "checkpoint.every_tokens=768", "log.every_tokens=768", "budget_tokens=4096")
    run(tmp_path / "branch", *steps, branch_of(trunk, 1024), stop_after=1)
    run(tmp_path / "branch", *steps, branch_of(trunk, 1024), "checkpoint.keep_last=3", stop_after=2)
    assert [int(path.name) for path in checkpoints_of(tmp_path / "branch")] == [1792, 2560, 3328]


def test_the_data_goes_on_where_the_trunk_was(trunk, data_dir, process_group):
    larger = {"batch_tokens": 512, "budget_tokens": 4096, "log": LogConfig(), "checkpoint": CheckpointConfig()}
    config = read_config(trunk).model_copy(update=larger)
    store = open_split(ensure_embedded(data_dir), "train", 32)
    after = samples(store, config, plan(config, Hardware(world_size=1)), 3072)
    assert torch.equal(after, torch.from_numpy(sequences(store, config.seed, 3072 // 32, 512 // 32)))


def test_the_trunk_is_left_as_it_was(trunk, run, tmp_path):
    before = {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()}
    run(tmp_path / "branch", *COOLDOWN, branch_of(trunk, 3072))
    assert {path: path.read_bytes() for path in trunk.rglob("*") if path.is_file()} == before


def test_what_a_branch_changes_is_said(trunk):
    config = read_config(trunk)
    changed = config.model_copy(update={"lr": 0.5, "batch_tokens": 512, "log": config.log.model_copy()})
    assert changed_fields(config, changed) == {"lr": (2**-6, 0.5), "batch_tokens": (256, 512)}


@pytest.mark.parametrize("field", ["seed=1", "model.depth=2", "precision=bf16"])
def test_what_a_branch_may_not_change(trunk, run, tmp_path, field):
    run(tmp_path / "other", field, stop_after=1)
    with pytest.raises(ConfigError, match=f"{field.split('=')[0]} = .* differs from the trunk's"):
        changed_fields(read_config(trunk), read_config(tmp_path / "other"))


def test_a_damaged_trunk_is_named(trunk, run, tmp_path):
    (checkpoints_of(trunk)[-1] / "position.json").unlink()
    with pytest.raises(ConfigError, match=r"position\.json is missing: train the trunk again"):
        run(tmp_path / "branch", *COOLDOWN, branch_of(trunk, 3072))


def groups_of(checkpoint):
    """(key, value) of every optimizer group in a checkpoint."""
    for file in checkpoint.rglob("*optim_states.pt"):
        state = torch.load(file, weights_only=False)["optimizer_state_dict"]
        for group in state["base_optimizer_state"]["param_groups"]:
            yield from group.items()
