"""An exported model reads and writes text as its corpus did, or says why it cannot."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.manifest import Manifest, read_manifest
from train.data.prepare import prepare
from train.data.tokenizer import load_tokenizer
from train.export import export

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
