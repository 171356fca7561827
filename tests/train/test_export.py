"""An exported run is the trainer's model, for anyone who has transformers and nothing else."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, GraniteForCausalLM, Qwen3ForCausalLM

from configs.identity import run_id
from configs.load import load_run
from configs.rundir import create_run, read_config, read_status, run_dir_of
from tests.processes import ENVIRONMENT, ROOT
from tests.ranks import pretrain, start_ranks, wait_for_ranks
from tests.train.conftest import RUN, held_out, pinned
from train.data.prepare import ensure_embedded
from train.export import export
from train.folding import fold
from train.model import loss_of


@pytest.mark.parametrize(
    ("precision", "stage"),
    [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)],
)
def test_the_exported_model_is_the_trainers(trained, tmp_path, data_dir, precision, stage):
    run_dir, tokens = tmp_path / "run", held_out(ensure_embedded(data_dir))
    trainer = trained(run_dir, f"precision={precision}", f"engine.zero_stage={stage}")
    out = export(run_dir, None, None)
    assert out == run_dir / "model"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {p.name for p in out.iterdir()}
    network = AutoModelForCausalLM.from_pretrained(out)
    assert type(network) is GraniteForCausalLM
    weights = dict(network.named_parameters())
    assert weights.keys() == trainer.master_weights.keys()
    assert [name for name in weights if weights[name].dtype != torch.float32] == []
    assert [name for name in weights if not torch.equal(weights[name], trainer.master_weights[name])] == []
    if precision == "bf16":  # the trainer computes with these weights rounded, and the positions are not
        assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())
        network = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = network(input_ids=tokens[:, :-1]).logits.float()
        loss = loss_of(network, tokens).item()
    torch.testing.assert_close(logits, trainer.logits, rtol=0, atol=1e-5)
    assert loss == pytest.approx(trainer.status.readouts[-1].loss, rel=1e-6)


TIED = ("model.tied=true", "model.embedding_init_std=0.25", "model.embedding_multiplier=3", "model.output_multiplier=2")
QK_NORM = ("model.qk_norm=true", "model.residual_multiplier=0.6", "model.depth=2", "model.base_depth=1")
EVERY = (*TIED, *QK_NORM, "model.head_dim=32", "model.base_head_dim=16")


@pytest.mark.parametrize(
    ("fields", "precision", "stage"),
    [
        *((TIED, "fp32", stage) for stage in (0, 1, 2, 3)),
        (TIED, "bf16", 1),  # whose files know of no other name of the tensor
        (QK_NORM, "fp32", 1),
        (EVERY, "fp32", 3),
        (EVERY, "bf16", 1),
    ],
)
def test_tied_and_normalised_models_compute_the_same_in_transformers(
    trained, tmp_path, data_dir, fields, precision, stage
):
    run_dir, tokens = tmp_path / "run", held_out(ensure_embedded(data_dir))
    how = (f"precision={precision}", f"engine.zero_stage={stage}", "budget_tokens=2048", *fields)
    trainer = trained(run_dir, *how, *(("ema_half_life_tokens=512",) if stage < 3 else ()))
    out = export(run_dir, None, None)
    network = AutoModelForCausalLM.from_pretrained(out)
    assert type(network) is (GraniteForCausalLM if fields == TIED else Qwen3ForCausalLM)
    tied = fields != QK_NORM
    assert ("lm_head.weight" in trainer.master_weights, network.config.tie_word_embeddings) == (not tied, tied)
    assert (network.lm_head.weight is network.model.embed_tokens.weight) == tied
    expected = fold(trainer.master_weights, read_config(run_dir).model)
    weights = network.state_dict()
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []

    # In bf16 a factor that is no power of two rounds other numbers: 8 bits of them. Seen: 4e-7, 7e-3; 1e-7, 1e-3.
    tolerance = {"fp32": (2e-6, 1e-6), "bf16": (2e-2, 5e-3)}[precision]
    if precision == "bf16":
        network = AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    last = trainer.status.readouts[-1]
    with torch.no_grad():
        logits, loss = network(input_ids=tokens[:, :-1]).logits.float(), loss_of(network, tokens).item()
    assert (logits - trainer.logits).abs().max() < tolerance[0] * trainer.logits.abs().max()
    assert loss == pytest.approx(last.loss, rel=tolerance[1])
    if last.ema_loss is not None:
        average = AutoModelForCausalLM.from_pretrained(export(run_dir, None, None, ema=True))
        assert abs(last.ema_loss / last.loss - 1) > 2 * tolerance[1]
        assert loss_of(average, tokens).item() == pytest.approx(last.ema_loss, rel=tolerance[1])


def test_many_ranks_without_a_process_group(tmp_path, data_dir):
    """Three ranks, which divide no tensor evenly; exported by a process that joins no group."""
    (tmp_path / "run.yaml").write_text(RUN)
    corpus = ensure_embedded(data_dir)
    layouts = (
        ("engine.zero_stage=2",),
        ("engine.zero_stage=3", *EVERY),
        ("precision=bf16", *TIED),
    )
    shorter = ("batch_tokens=384", "budget_tokens=2304", "schedule.warmup_tokens=768", "log.every_tokens=768")
    configs = [pinned(load_run(tmp_path / "run.yaml", (*shorter, *layout)), corpus) for layout in layouts]
    study = tmp_path / "study"
    run_dirs = [run_dir_of(study, run_id(config)) for config in configs]
    for config, run_dir in zip(configs, run_dirs, strict=True):
        create_run(run_dir, config)
    (study / "manifest.jsonl").write_text("".join(json.dumps({"id": run_dir.name}) + "\n" for run_dir in run_dirs))
    log = tmp_path / "log"
    ranks = start_ranks(3, pretrain, "--study", study, "--data-dir", data_dir, log=log)
    assert wait_for_ranks(ranks) == [0, 0, 0], log.read_text()
    program = (
        "import sys; from pathlib import Path; import torch.distributed as dist; from train.export import export\n"
        "for run_dir in sys.argv[1:]: print(export(Path(run_dir), None, None))\n"
        "assert not dist.is_initialized()"
    )
    command = [sys.executable, "-c", program, *map(str, run_dirs)]
    exported = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.split() == [str(run_dir / "model") for run_dir in run_dirs]  # and no chatter of libraries
    assert "%" not in exported.stderr  # nor progress bars
    for run_dir in run_dirs[:2]:
        assert read_status(run_dir).world_size == 3
        with torch.no_grad():
            loss = loss_of(AutoModelForCausalLM.from_pretrained(run_dir / "model"), held_out(corpus)).item()
        assert loss == pytest.approx(read_status(run_dir).readouts[-1].loss, rel=1e-6)
    network = AutoModelForCausalLM.from_pretrained(run_dirs[2] / "model")
    (checkpoint,) = (run_dirs[2] / "checkpoints").iterdir()
    rounded = torch.load(checkpoint / "state" / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    weights = network.state_dict()
    assert weights.keys() == rounded.keys()
    assert [name for name in weights if not torch.equal(weights[name].bfloat16(), rounded[name])] == []


def test_the_average_is_exported_beside_the_weights(trained, tmp_path, data_dir):
    run_dir, tokens = tmp_path / "run", held_out(ensure_embedded(data_dir))
    last = trained(run_dir, "ema_half_life_tokens=1024").status.readouts[-1]
    export(run_dir, None, None)
    out = export(run_dir, None, None, ema=True)
    assert out == run_dir / "model-ema"
    assert last.ema_loss != last.loss
    with torch.no_grad():
        average = loss_of(AutoModelForCausalLM.from_pretrained(out), tokens).item()
        weights = loss_of(AutoModelForCausalLM.from_pretrained(run_dir / "model"), tokens).item()
    assert (average, weights) == (pytest.approx(last.ema_loss, rel=1e-6), pytest.approx(last.loss, rel=1e-6))
    card = ModelCard.load(out / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [last.ema_loss]
    assert f"| 4,096 | {last.loss:.6f} | {last.train_loss:.6f} | {last.ema_loss:.6f} |" in card.text
    assert "half-life 1,024 tokens" in card.text
