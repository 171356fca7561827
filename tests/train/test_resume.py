"""Stopping and resuming changes nothing, bit for bit; divergence ends a run with a record."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.load import load_run
from configs.plan import Hardware, plan
from configs.rundir import Status, create_run, read_metrics, read_status
from train import checkpoints
from train.data.batches import open_split, windows
from train.data.prepare import ensure_embedded
from train.loop import built, train
from train.model import loss_of

RUN = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
lr: 2^-6
batch_tokens: 256
budget_tokens: 4096
readout_tokens: [1024, 2048]
schedule: {warmup_tokens: 1024}
log: {every_tokens: 768, wandb: disabled}
"""


@pytest.fixture
def run(tmp_path, data_dir, process_group):
    """A function that trains (or goes on training) in a directory, and stops after the given steps of this attempt."""
    config_file = tmp_path / "run.yaml"
    config_file.write_text(RUN)
    manifest = ensure_embedded(data_dir)

    def attempt(run_dir: Path, *overrides: str, stop_after: int | None = None) -> Status:
        config = load_run(config_file, overrides)
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"fingerprint": manifest.fingerprint})}
        )
        create_run(run_dir, config)
        steps = 0

        def stop() -> bool:
            nonlocal steps
            steps += 1
            return steps == stop_after

        stores = (open_split(manifest, "train", 32), open_split(manifest, "valid", 32))
        steps_plan = plan(config, Hardware(world_size=1))
        previous = read_status(run_dir)
        with built(config, steps_plan) as (engine, rows):
            return train(engine, rows, config, steps_plan, stores, run_dir, previous, stop, lambda row: None)

    return attempt


def science(run_dir: Path) -> list[dict]:
    return [{key: row[key] for key in row if key != "tokens_per_s"} for row in read_metrics(run_dir)]


def state_of(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, by file and path."""
    found: dict[str, torch.Tensor] = {}

    def collect(prefix: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                collect(f"{prefix}/{key}", item)
        elif isinstance(value, list | tuple):
            for key, item in enumerate(value):
                collect(f"{prefix}/{key}", item)

    newest = max((run_dir / "checkpoints").iterdir())
    for file in sorted(newest.rglob("*.pt")):
        collect(file.name, torch.load(file, weights_only=False))
    return found


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_cut_anywhere_is_the_same_run(run, tmp_path, stage):
    engine = f"engine.zero_stage={stage}"
    assert run(tmp_path / "whole", engine).state == "finished"
    for stop_after in (1, 2, 4, 5):  # at steps 1, 3, 7, 12: before, on and after records and readouts
        assert run(tmp_path / "cut", engine, stop_after=stop_after).state == "preempted"
    assert run(tmp_path / "cut", engine).state == "finished"
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert read_status(tmp_path / "cut").readouts == read_status(tmp_path / "whole").readouts
    whole, cut = state_of(tmp_path / "whole"), state_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert len(whole) > 10
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_rows_of_a_dead_attempt_are_not_counted_twice(run, tmp_path):
    run(tmp_path / "run", stop_after=6)
    saved = max((tmp_path / "run" / "checkpoints").iterdir())
    run(tmp_path / "run", stop_after=8)  # this attempt's rows are undone by going back to the older checkpoint
    newer = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newer != saved
    checkpoints.remove(tmp_path / "run")  # the checkpoint is lost: the next attempt starts again
    run(tmp_path / "run")
    tokens = [(row["kind"], row["tokens"]) for row in read_metrics(tmp_path / "run")]
    assert len(tokens) == len(set(tokens))


def test_a_half_written_checkpoint_is_not_used(run, tmp_path):
    run(tmp_path / "run", stop_after=5)
    whole = max((tmp_path / "run" / "checkpoints").iterdir())
    (tmp_path / "run" / "checkpoints" / f"{10**6:015d}.partial").mkdir()
    assert run(tmp_path / "run").state == "finished"
    assert not whole.exists()


def test_divergence_ends_the_run_with_a_record(run, tmp_path):
    status = run(tmp_path / "run", "lr=2^8", "optimizer.clip_norm=0", "explode_ratio=1.5")
    assert status.state == "diverged"
    assert "above" in status.message or "not finite" in status.message
    assert 0 < status.tokens < 4096
    assert status.readouts[0].tokens == 0
    assert read_status(tmp_path / "run") == status
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_directory_of_another_run_is_refused(run, tmp_path):
    from configs.errors import ConfigError

    run(tmp_path / "run", stop_after=1)
    with pytest.raises(ConfigError, match="another run"):
        run(tmp_path / "run", "seed=1")


def test_the_final_weights_are_a_plain_hugging_face_model(run, tmp_path, data_dir):
    from transformers import AutoModelForCausalLM

    last = run(tmp_path / "run").readouts[-1]
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    held_out = windows(open_split(ensure_embedded(data_dir), "valid", 32), np.arange(1024 // 32))
    with torch.no_grad():
        assert loss_of(network, torch.from_numpy(held_out)).item() == pytest.approx(last.loss, rel=1e-6)


def test_bf16_follows_fp32(run, tmp_path):
    exact, rounded = run(tmp_path / "fp32"), run(tmp_path / "bf16", "precision=bf16")
    assert rounded.state == "finished"
    for a, b in zip(exact.readouts, rounded.readouts, strict=True):
        assert a.loss != b.loss
        assert b.loss == pytest.approx(a.loss, rel=1e-3)  # seen: 1e-4 at most
