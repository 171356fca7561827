"""Stopping and resuming changes nothing, bit for bit; divergence ends a run with a record."""

import functools
import shutil

import pytest
import torch
from torch import nn

from configs.errors import ConfigError
from configs.rundir import read_metrics, read_status
from tests.train.conftest import assert_same_tensors, checkpoints_of, science

READOUTS = "readout_tokens=[1024, 2048]"


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), *((s, p) for s in (1, 2, 3) for p in ("fp32", "bf16"))])
def test_a_run_cut_anywhere_is_the_same_run(run, tmp_path, stage, precision):
    how = (f"engine.zero_stage={stage}", f"precision={precision}", READOUTS)
    if stage < 3:
        how += ("ema_half_life_tokens=1024",)
    assert run(tmp_path / "whole", *how).state == "finished"
    for stop_after in (1, 2, 4, 5):  # at steps 1, 3, 7, 12: before, on and after records and readouts
        assert run(tmp_path / "cut", *how, stop_after=stop_after).state == "preempted"
    assert run(tmp_path / "cut", *how).state == "finished"
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert read_status(tmp_path / "cut").readouts == read_status(tmp_path / "whole").readouts
    assert_same_tensors(checkpoints_of(tmp_path / "cut")[-1], checkpoints_of(tmp_path / "whole")[-1])


def test_every_stage_starts_from_the_same_weights(run, tmp_path):
    losses = {run(tmp_path / str(s), f"engine.zero_stage={s}", stop_after=1).readouts[0].loss for s in (0, 1, 3)}
    assert len(losses) == 1


def test_rows_of_a_dead_attempt_are_not_counted_twice(run, tmp_path):
    run(tmp_path / "run", READOUTS, stop_after=6)
    run(tmp_path / "run", READOUTS, stop_after=8)
    shutil.rmtree(checkpoints_of(tmp_path / "run")[-1])  # as if it died before: its rows are undone by going back
    run(tmp_path / "run", READOUTS)
    run(tmp_path / "whole", READOUTS)
    assert science(tmp_path / "run") == science(tmp_path / "whole")
    tokens = [(row["kind"], row["tokens"]) for row in read_metrics(tmp_path / "run")]
    assert len(tokens) == len(set(tokens))


def test_divergence_ends_the_run_with_a_record(run, tmp_path):
    status = run(tmp_path / "run", "lr=2^8", "optimizer.clip_norm=0", "explode_ratio=1.5")
    assert status.state == "diverged"
    assert "above" in status.message or "not finite" in status.message
    assert 0 < status.tokens < 4096
    assert status.readouts[0].tokens == 0
    assert read_status(tmp_path / "run") == status
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_directory_of_another_run_is_refused(run, tmp_path):
    run(tmp_path / "run", stop_after=1)
    with pytest.raises(ConfigError, match="another run"):
        run(tmp_path / "run", "seed=1")


def test_bf16_follows_fp32(run, tmp_path):
    exact, rounded = run(tmp_path / "fp32"), run(tmp_path / "bf16", "precision=bf16")
    assert rounded.state == "finished"
    for a, b in zip(exact.readouts, rounded.readouts, strict=True):
        assert a.loss != b.loss
        assert b.loss == pytest.approx(a.loss, rel=1e-3)  # seen: 1e-4 at most


def test_recomputing_activations_changes_nothing(run, tmp_path):
    plain, recomputed = run(tmp_path / "plain"), run(tmp_path / "again", "engine.activation_checkpointing=true")
    assert [r.loss for r in recomputed.readouts] == [r.loss for r in plain.readouts]


def test_a_compiled_run_is_resumed_by_one_that_is_not(run, tmp_path, monkeypatch):
    # Dynamo and its guards are the part that can go wrong here; generating code would take most of a minute.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    run(tmp_path / "run", "engine.compile=true", "engine.activation_checkpointing=true", stop_after=8)
    compiled = run(tmp_path / "run")
    plain = run(tmp_path / "plain")
    assert [r.loss for r in compiled.readouts] == pytest.approx([r.loss for r in plain.readouts], rel=1e-6)
    assert compiled.readouts[0].rms == plain.readouts[0].rms


def test_adam_sees_gradients_that_were_summed_in_fp32(run, tmp_path, monkeypatch):
    """DeepSpeed would round them to bf16 for a reduction that one rank does not even need."""
    finer: list[bool] = []  # per gradient: whether it has numbers that bf16 has not
    step = torch.optim.AdamW.step

    def look(optimizer, *arguments, **options):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        finer.extend(not torch.equal(gradient, gradient.bfloat16().float()) for gradient in gradients)
        return step(optimizer, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    for stage in (1, 2, 3):
        finer.clear()
        layout = ("precision=bf16", f"engine.zero_stage={stage}", "engine.micro_batch_seqs=2")
        run(tmp_path / str(stage), *layout, "optimizer.clip_norm=0", stop_after=2)
        assert finer
        assert all(finer)
