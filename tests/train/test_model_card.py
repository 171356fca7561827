"""The card of an exported model tells where it came from."""

import re

from huggingface_hub import ModelCard

from configs.identity import run_id
from configs.rundir import read_config
from configs.schema import RunConfig
from train.export import export
from train.folding import factors
from train.model import skeleton
from train.model_card import model_card
from train.parametrization import table
from train.provenance import code_version, write_provenance


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
        "optimizer adamw with beta1 0.9, beta2 0.95, eps 1e-08 and weight decay 0.125",
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
