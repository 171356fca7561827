"""An exported run is the trainer's model, for anyone who has transformers and nothing else."""

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from deepspeed.utils import safe_get_full_fp32_param
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, GraniteForCausalLM, Qwen3ForCausalLM

from configs.errors import ConfigError
from configs.identity import run_id
from configs.load import load_run
from configs.manifest import Manifest, read_manifest
from configs.plan import Hardware, plan
from configs.rundir import Status, create_run, read_config, read_status, run_dir_of
from configs.schema import RunConfig
from tests.processes import ENVIRONMENT, ROOT, deepspeed
from tests.train.conftest import RUN
from train.build import built
from train.data.batches import open_split, windows
from train.data.prepare import ensure_embedded, prepare
from train.data.tokenizer import load_tokenizer
from train.export import export
from train.folding import factors, fold
from train.loop import train
from train.model import loss_of, skeleton
from train.model_card import model_card
from train.parametrization import table
from train.provenance import code_version, write_provenance


@dataclass(frozen=True)
class Trained:
    """What the trainer held in memory at the end of a run."""

    status: Status
    logits: torch.Tensor
    master_weights: dict[str, torch.Tensor]


@pytest.fixture
def trained(tmp_path, data_dir, process_group) -> Callable[..., Trained]:
    """A function that trains a run in a directory to its end and looks into the engine before it is freed."""
    config_file = tmp_path / "run.yaml"
    config_file.write_text(RUN)
    embedded = ensure_embedded(data_dir)

    def train_and_look(run_dir: Path, *overrides: str, corpus: Manifest = embedded) -> Trained:
        config = pinned(load_run(config_file, overrides), corpus)
        create_run(run_dir, config)
        planned = plan(config, Hardware(world_size=1))
        stores = (open_split(corpus, "train", 32), open_split(corpus, "valid", 32))
        with built(config, planned) as (engine, rows):
            status = train(
                engine, rows, config, planned, stores, run_dir, read_status(run_dir), lambda: False, lambda row: None
            )
            with torch.no_grad():
                logits = engine(input_ids=held_out(embedded)[:, :-1]).logits.float()
            weights = {
                name: (safe_get_full_fp32_param(p) if config.engine.zero_stage else p.detach()).clone()
                for name, p in engine.module.named_parameters()
            }
        return Trained(status, logits, weights)

    return train_and_look


def pinned(config: RunConfig, corpus: Manifest) -> RunConfig:
    return config.model_copy(
        update={"data": config.data.model_copy(update={"fingerprint": corpus.fingerprint})},
    )


def held_out(corpus: Manifest) -> torch.Tensor:
    """The validation tokens of the run, (32, 33)."""
    return torch.from_numpy(windows(open_split(corpus, "valid", 32), np.arange(1024 // 32)))


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


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
    """Real launches over 3 ranks, which divide no tensor evenly; exported by a process that joins no group."""
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
    done = deepspeed(3, "--study", study, "--data-dir", data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
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


def test_the_card_tells_the_run(trained, tmp_path, capsys):
    run_dir = tmp_path / "run"
    changes = ("readout_tokens=[1024]", "optimizer.weight_decay=0.125", "seed=7")
    model = ("model.residual_multiplier=0.75", "model.output_multiplier=1", "model.output_init_std=0.125")
    status = trained(run_dir, *changes, *model).status
    config = read_config(run_dir)
    write_provenance(run_dir, str(config.data.fingerprint), 1, None)
    card = ModelCard.load(export(run_dir, None, None) / "README.md")
    assert card.data.license is None
    assert card.data.library_name == "transformers"
    assert [result.metric_value for result in card.data.eval_results] == [status.readouts[-1].loss]
    for expected in (
        f"run id | `{run_id(config)}`",
        f"code version | `{code_version()}`",
        f"data fingerprint | `{config.data.fingerprint}`",
        "Width N = 32 (base width 16)",
        "4,096 of T = 4,096 tokens in steps of B = 256 tokens",
        "peak learning rate 0.015625 at base width on a constant schedule",
        "betas (0.9, 0.95) and weight decay 0.125",
        "seed 7; computed in fp32",
        "| `schedule.warmup_tokens` | 1024 |",
        "| `model.residual_multiplier` | 0.75 |",
        "| hidden | 9,216 | 0.0883883 | 0.5 | 2 | 0.5 | 0.0078125 |",
        "| output | 8,224 | 0.125 | 1 | 1 | 0.5 | 0.015625 |",
        "residual branch 0.75, logits 0.5",
        *(f"| {readout.tokens:,} | {readout.loss:.6f} |" for readout in status.readouts),
    ):
        assert expected in card.text
    assert len(status.readouts) == 3
    assert str(tmp_path) not in card.content
    (example,) = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    exec(example.replace("PATH", str(run_dir / "model")), {})
    assert capsys.readouterr().out.startswith("import ")


def test_the_card_of_a_branch_names_its_trunk():
    config = RunConfig.model_validate(
        {"branch": {"parent": "0123456789ab", "tokens": 4096}, "data": {"fingerprint": "f" * 16}, "lr": 0.5}
    )
    provenance = {"branch": {"changed": {"lr": [0.25, 0.5]}}}
    rows = table(skeleton(config.model), config)
    card = model_card(config, rows, [], provenance, 8192, ema=False, tokenizer="none", has_tokenizer=False)
    assert "| branched off | run `0123456789ab` at 4,096 tokens; `lr` there 0.25, here 0.5 |" in card
    assert ModelCard(card).data.eval_results is None


def test_the_card_tells_what_a_tied_and_normalised_model_became():
    model = {"width": 128, "depth": 1, "tied": True, "qk_norm": True, "embedding_init_std": 0.5}
    multipliers = {"embedding_multiplier": 2, "residual_multiplier": 1, "output_multiplier": 1}
    config = RunConfig.model_validate({"model": model | multipliers, "data": {"fingerprint": "f" * 16}})
    tied = config.model_copy(update={"model": config.model.model_copy(update={"qk_norm": False})})
    cards = [
        model_card(c, table(skeleton(c.model), c), [], {}, 4096, ema=False, tokenizer="none", has_tokenizer=False)
        for c in (tied, config)
    ]
    for card in cards:
        assert "| embedding, and the head | 32,896 | 0.5 | 1 | 0 | 0.5 | 0.0078125 |" in card
        assert "| output |" not in card
        assert "embedding 2, attention 0.25, residual branch 1, logits 0.5" in card
    assert "A Granite decoder of 246,272 parameters" in cards[0]
    assert "all fields of `config.json`" in cards[0]
    assert "A Qwen3 decoder of 246,304 parameters" in cards[1]
    assert ModelCard(cards[1]).data.tags == ["bcrit", "qwen3", "mup"]
    assert "no fields of `config.json`" in cards[1]
    for end, factor in factors(config.model).items():
        assert f"`{end}` x {factor:g}" in cards[1]
    assert "`model.norm.weight` x 0.25" in cards[1]


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


TEXT = "def f(x):\n\treturn 'é漢😀'  # \x00 \x7f </s>" + "".join(map(chr, range(700)))


def test_bytes_are_tokens_as_in_the_corpus(trained, tmp_path):
    run_dir = tmp_path / "run"
    trained(run_dir, "budget_tokens=1024")
    tokenizer = AutoTokenizer.from_pretrained(export(run_dir, None, None))
    assert tokenizer(TEXT)["input_ids"] == load_tokenizer("bytes").encode([TEXT])[0].tolist()
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert (len(tokenizer), tokenizer.eos_token_id) == (257, 256)
    network = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    assert network.config.use_cache
    assert network.generation_config.eos_token_id == 256
    assert network.model.embed_tokens.padding_idx is None
    prompt = tokenizer("import ", return_tensors="pt")
    written = network.generate(**prompt, max_new_tokens=8, min_new_tokens=8)
    assert written.shape == (1, 7 + 8)
    with torch.no_grad():  # greedy, so each token is the most likely one without the cache too
        assert torch.equal(network(input_ids=written[:, :-1], use_cache=False).logits.argmax(-1)[:, 6:], written[:, 7:])


@pytest.fixture
def word_corpus(tmp_path, data_dir) -> Manifest:
    """A corpus of words, whose tokenizer begins every text with <s> if one lets it."""
    words = {word: number for number, word in enumerate(("<s>", "</s>", "a", "b", "c"))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(tmp_path / "words.json"))
    for name, lines in (("train", 3000), ("valid", 600)):
        (tmp_path / f"{name}.txt").write_text("".join(f"a b c {'b ' * (n % 5)}\n" for n in range(lines)))
    prepare(
        str(tmp_path / "train.txt"),
        tmp_path / "words",
        tokenizer=str(tmp_path / "words.json"),
        text_unit="line",
        valid=str(tmp_path / "valid.txt"),
    )
    return read_manifest(tmp_path / "words")


def test_the_tokenizer_of_the_corpus_comes_with_it(trained, tmp_path, word_corpus, capsys):
    kept = word_corpus.directory / "tokenizer.json"
    shutil.copy(tmp_path / "words.json", kept)
    run_dir = tmp_path / "run"
    trained(run_dir, f"data.path={word_corpus.directory}", "budget_tokens=1024", corpus=word_corpus)
    out = export(run_dir, None, None)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("a c b")["input_ids"] == [2, 4, 3]
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</s>", 1)
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == 1
    assert capsys.readouterr().out == ""

    kept.write_text(kept.read_text().replace('"b":3,"c":4', '"b":4,"c":3').replace('"b": 3', '"b": 9'))
    assert "tokenizer.json is not what the corpus was packed with" in exported_without_tokenizer(run_dir, capsys, eos=1)
    kept.unlink()
    assert "keeps no tokenizer.json" in exported_without_tokenizer(run_dir, capsys, eos=1)
    shutil.rmtree(word_corpus.directory)
    note = exported_without_tokenizer(run_dir, capsys, eos=None)
    assert "the corpus is not at hand" in note
    (example,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    exec(example.replace("PATH", str(out)), {})
    assert capsys.readouterr().out == "torch.Size([1, 3, 257])\n"


def exported_without_tokenizer(run_dir: Path, capsys: Any, eos: int | None) -> str:
    """What an export that cannot give the tokenizer says, on the screen and in the card."""
    out = export(run_dir, None, None)
    note = capsys.readouterr().out
    assert note.startswith("note: the tokenizer is")
    assert note.strip().removeprefix("note: the tokenizer is ") in (out / "README.md").read_text()
    assert not (out / "tokenizer.json").exists()
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == eos
    return note


def test_which_checkpoint(trained, tmp_path, data_dir, capsys):
    run_dir, tokens = tmp_path / "run", held_out(ensure_embedded(data_dir))
    kept = ("checkpoint.keep=readouts", "readout_tokens=[1024,2048]")
    readouts = {readout.tokens: readout.loss for readout in trained(run_dir, *kept).status.readouts}

    def exported(at: int | None) -> tuple[int, float]:
        out = export(run_dir, at, None)
        with torch.no_grad():
            loss = loss_of(AutoModelForCausalLM.from_pretrained(out), tokens).item()
        record = json.loads((out / "bcrit.json").read_text())
        assert record["run_id"] == run_id(read_config(run_dir))
        return record["tokens"], loss

    assert exported(1024) == (1024, pytest.approx(readouts[1024], rel=1e-6))
    assert "| 2,048 |" not in (run_dir / "model" / "README.md").read_text()
    assert exported(None) == (4096, pytest.approx(readouts[4096], rel=1e-6))
    with pytest.raises(ConfigError, match="no checkpoint at 3072 tokens: choose of those there, 1024, 2048, 4096"):
        export(run_dir, 3072, None)

    newest = run_dir / "checkpoints" / f"{4096:015d}" / "state" / "mp_rank_00_model_states.pt"
    flipped = bytearray(newest.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    newest.write_bytes(flipped)
    with pytest.raises(ConfigError, match=r"differs from its checksum: choose another .*1024, 2048"):
        export(run_dir, 4096, None)
    assert exported(None) == (2048, pytest.approx(readouts[2048], rel=1e-6))
    assert "is passed over" in capsys.readouterr().out


def test_what_is_there_is_not_overwritten(trained, tmp_path):
    run_dir, other, mine = tmp_path / "run", tmp_path / "other", tmp_path / "mine"
    trained(run_dir, "budget_tokens=1024")
    trained(other, "budget_tokens=1024", "seed=1")
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"mine: already there, something else than an export: .*--out"):
        export(run_dir, None, mine)
    out = export(run_dir, None, tmp_path / "out" / "model")
    with pytest.raises(ConfigError, match=f"already there, the export of run {run_id(read_config(run_dir))}: remove"):
        export(other, None, out)
    before = tree(out)
    (out / "README.md").write_text("older")
    assert tree(export(run_dir, None, out)) == before  # an older export of the same run gives way
    with pytest.raises(ConfigError, match="cannot be written"):
        export(run_dir, None, mine / "thesis.tex" / "model")
    assert tree(mine) == {"thesis.tex": b"x"}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(ConfigError, match=r"model: cannot be written .*: make room"):
            export(run_dir, None, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_what_cannot_be_exported(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: no config.json, so it is not a run"):
        export(tmp_path / "nowhere", None, None)
    study = tmp_path / "study"
    run_dir = study / "runs" / "0123456789ab"
    trained(run_dir, "budget_tokens=1024", "checkpoint.keep=none")
    (study / "manifest.jsonl").write_text('{"id": "0123456789ab"}\n')
    with pytest.raises(ConfigError, match=f"study is a study: name one of its runs, such as {run_dir}"):
        export(study, None, None)
    with pytest.raises(ConfigError, match="no checkpoint at 512 tokens: choose of those there, none"):
        export(run_dir, 512, None)
    with pytest.raises(ConfigError, match=r"it is finished and has no checkpoint \(checkpoint.keep = none\)"):
        export(run_dir, None, None)

    other = tmp_path / "other"
    trained(other, "budget_tokens=1024")
    with pytest.raises(ConfigError, match="no average of the weights: train with ema_half_life_tokens"):
        export(other, None, None, ema=True)
    shutil.copytree(other / "checkpoints", run_dir / "checkpoints")
    (run_dir / "config.json").write_text(
        (other / "config.json")
        .read_text()
        .replace('"seed": 0', '"seed": 1')
        .replace('"keep": "none"', '"keep": "final"')
    )
    with pytest.raises(ConfigError, match="belongs to run"):
        export(run_dir, None, None)
    assert not (run_dir / "model").exists()
