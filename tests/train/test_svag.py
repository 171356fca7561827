"""SVAG in the trainer: the gradient it steps with, the data it reads, and that a run with l = 1 is a plain one."""

import pytest
import torch

from configs.load import load_run
from configs.plan import Hardware, plan
from configs.svag import batch_weights
from tests.train.conftest import RUN, assert_same_tensors, checkpoints_of, pinned, science
from train.build import built
from train.data.batches import open_split, sequences
from train.data.prepare import ensure_embedded
from train.engine import optimizer_step
from train.feed import micro_batch_weights, samples
from train.model import loss_of

PLAIN = ("optimizer.clip_norm=0", "budget_tokens=2048")


def test_length_one_is_the_plain_run_bit_for_bit(run, tmp_path):
    for kind in ("adamw", "rmsprop"):
        how = (*PLAIN, f"optimizer.kind={kind}")
        plain, one, two = (tmp_path / f"{kind}-{name}" for name in ("plain", "1", "2"))
        run(plain, *how)
        run(one, *how, "optimizer.svag=1")
        run(two, *how, "optimizer.svag=2")
        assert science(one) == science(plain)
        assert science(two) != science(plain)
        assert_same_tensors(checkpoints_of(one)[-1], checkpoints_of(plain)[-1])


@pytest.mark.parametrize("stage", [0, 3])
def test_a_run_cut_in_two_is_the_same_run(run, tmp_path, stage):
    how = (*PLAIN, "optimizer.svag=2", f"engine.zero_stage={stage}", "optimizer.weight_decay=0.1", "budget_tokens=1024")
    assert run(tmp_path / "whole", *how).state == "finished"
    assert run(tmp_path / "cut", *how, stop_after=7).state == "preempted"
    assert run(tmp_path / "cut", *how).state == "finished"
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert_same_tensors(checkpoints_of(tmp_path / "cut")[-1], checkpoints_of(tmp_path / "whole")[-1])


@pytest.mark.parametrize("micro", [2, 8])
def test_a_step_is_taken_with_the_weighted_gradients_of_two_batches(tmp_path, data_dir, process_group, micro):
    (tmp_path / "run.yaml").write_text(RUN)
    manifest = ensure_embedded(data_dir)
    how = (*PLAIN, "optimizer.svag=2", "engine.zero_stage=0", f"engine.micro_batch_seqs={micro}")
    config = pinned(load_run(tmp_path / "run.yaml", how), manifest)
    planned, store = plan(config, Hardware(1)), open_split(manifest, "train", 32)
    begin = 3 * planned.step_tokens
    with built(config, planned) as (engine, _):
        network, read = engine.module, samples(store, config, planned, begin)
        assert torch.equal(read, torch.from_numpy(sequences(store, config.seed, 3 * 16, 16)))
        gradients = []
        for half in read.split(8):
            network.zero_grad()
            loss_of(network, half).backward()
            gradients.append([p.grad.clone() for p in network.parameters()])
        network.zero_grad()
        one, other = batch_weights(2)
        parts = [(one * a + other * b).norm() for a, b in zip(*gradients, strict=True)]
        expected = torch.stack(parts).norm()
        losses = (loss_of(engine, part) for part in read.split(planned.micro_batch_seqs))
        _, norm = optimizer_step(engine, losses, 0.0, micro_batch_weights(config, planned))
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        assert engine.global_steps == 1
