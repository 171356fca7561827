"""Any source, any tokenizer: what was packed decodes to what was read, and mistakes are refused in one line."""

import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
import transformers

from configs.errors import ConfigError
from configs.manifest import read_manifest
from tests.data.corpora import TEXTS, documents_of
from train.data.prepare import prepare as prepare_and_time
from train.data.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def jsonl(tmp_path_factory):
    path = tmp_path_factory.mktemp("jsonl") / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text, "number": i}) + "\n" for i, text in enumerate(TEXTS)))
    return path


def prepare(source, out, **options):
    return prepare_and_time(source, out, **options).manifest


def decoded(manifest, decode):
    return [decode(ids) for split in ("train", "valid") for ids in documents_of(manifest, split)]


def as_bytes(ids):
    return bytes(ids).decode()


def test_jsonl_with_bytes(jsonl, tmp_path):
    manifest = prepare(str(jsonl), tmp_path / "out", text_field="body", valid_fraction=0.2)
    assert sorted(decoded(manifest, as_bytes)) == sorted(TEXTS)
    assert 2 <= manifest.valid.documents <= 24
    assert read_manifest(tmp_path / "out", checksums=True) == manifest


def test_parquet_and_compressed_jsonl_are_the_same_documents(jsonl, tmp_path):
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "texts.parquet")
    with gzip.open(tmp_path / "texts.jsonl.gz", "wb") as file:
        file.write(jsonl.read_bytes())
    sources = {"a": jsonl, "b": tmp_path / "texts.parquet", "c": tmp_path / "texts.jsonl.gz"}
    made = {prepare(str(path), tmp_path / name, text_field="body").fingerprint for name, path in sources.items()}
    assert len(made) == 1


def test_a_text_file_is_a_document(tmp_path):
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i:02d}.txt").write_text(text)
    directory = prepare(str(tmp_path), tmp_path / "a")
    pattern = prepare(str(tmp_path / "*.txt"), tmp_path / "b")
    assert sorted(decoded(directory, as_bytes)) == sorted(TEXTS)
    assert directory.fingerprint == pattern.fingerprint


def test_paragraphs_of_one_file_and_another_to_validate(tmp_path):
    (tmp_path / "train.txt").write_text("one\n\ntwo\nlines\n\nthree")
    (tmp_path / "valid.txt").write_text("held\n\nout")
    valid = str(tmp_path / "valid.txt")
    manifest = prepare(str(tmp_path / "train.txt"), tmp_path / "out", valid=valid, text_unit="paragraph")
    assert [as_bytes(ids) for ids in documents_of(manifest, "train")] == ["one", "two\nlines", "three"]
    assert [as_bytes(ids) for ids in documents_of(manifest, "valid")] == ["held", "out"]


def test_trained_tokenizer_decodes_to_the_source(jsonl, bpe, tmp_path):
    manifest = prepare(str(jsonl), tmp_path / "out", tokenizer=str(bpe), text_field="body", shard_tokens=500)
    tokenizer = tokenizers.Tokenizer.from_file(str(bpe))
    assert sorted(decoded(manifest, tokenizer.decode)) == sorted(TEXTS)
    assert manifest.eod_token == tokenizer.token_to_id("<|endoftext|>")
    assert manifest.vocab_size == tokenizer.get_vocab_size()
    assert manifest.train.tokens + manifest.valid.tokens < 0.7 * sum(len(text.encode()) for text in TEXTS)
    padded = prepare(str(jsonl), tmp_path / "pad", tokenizer=str(bpe), eod="<pad>", text_field="body")
    assert padded.eod_token == tokenizer.token_to_id("<pad>")
    assert padded.fingerprint != manifest.fingerprint


def test_transformers_tokenizer_is_the_same_as_its_file(jsonl, bpe, tmp_path):
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(bpe), eos_token="<|endoftext|>")
    fast.save_pretrained(tmp_path / "fast")
    from_directory = prepare(str(jsonl), tmp_path / "a", tokenizer=str(tmp_path / "fast"), text_field="body")
    from_file = prepare(str(jsonl), tmp_path / "b", tokenizer=str(bpe), text_field="body")
    assert documents_of(from_directory, "train") == documents_of(from_file, "train")


def test_transformers_tokenizer_in_python(jsonl, tmp_path):
    slow = transformers.ByT5Tokenizer()
    slow.save_pretrained(tmp_path / "slow")
    manifest = prepare(str(jsonl), tmp_path / "out", tokenizer=str(tmp_path / "slow"), text_field="body")
    assert sorted(decoded(manifest, slow.decode)) == sorted(TEXTS)
    assert manifest.eod_token == slow.eos_token_id


def test_limit_and_progress(jsonl, tmp_path, capfd):
    manifest = prepare(str(jsonl), tmp_path / "out", text_field="body", limit_documents=40)
    assert manifest.train.documents + manifest.valid.documents == 40
    assert "40 documents" in capfd.readouterr().err


def test_a_literal_name_cannot_end_a_document(jsonl, bpe, tmp_path):
    manifest = prepare(str(jsonl), tmp_path / "out", tokenizer=str(bpe), text_field="body")
    ends = sum(len(documents_of(manifest, split)) for split in ("train", "valid"))
    assert ends == len(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "missing.jsonl"}, "source: no file of .* at 'missing.jsonl'"),
        ({"source": "./missing"}, "source: no file"),
        ({"source": __file__}, "source: .* unknown"),
        ({"text_field": "text"}, "text_field: .* has no 'text', it has body, number"),
        ({"text_field": "number"}, "text_field: 'number' is 0 in row 0 .*, not text"),
        ({"valid": "missing.txt"}, "source: no file of .* at 'missing.txt'"),
        ({"tokenizer": "./missing"}, "tokenizer: cannot load './missing'"),
        ({"tokenizer": __file__}, "tokenizer: cannot load"),
        ({"eod": "</s>"}, "eod: "),
        ({"valid_fraction": 1.0}, "valid_fraction: 1.0"),
        ({"valid_fraction": 1e-9}, "60 training and 0 validation documents"),
        ({"limit_documents": 0}, "limit_documents: 0"),
    ],
)
def test_mistakes_are_refused_in_one_line(jsonl, tmp_path, change, message):
    arguments = {"source": str(jsonl), "text_field": "body", **change}
    with pytest.raises(ConfigError, match=message) as caught:
        prepare(arguments.pop("source"), tmp_path / "out", **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_end_of_document(jsonl, bpe, tmp_path):
    with pytest.raises(ConfigError, match="eod: '<stop>' is not in the vocabulary"):
        prepare(str(jsonl), tmp_path / "out", tokenizer=str(bpe), eod="<stop>", text_field="body")


def test_broken_line(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(ConfigError, match=r"source: cannot read '.*texts\.jsonl'"):
        prepare(str(tmp_path / "texts.jsonl"), tmp_path / "out")


def test_an_existing_corpus_is_kept(jsonl, tmp_path):
    first = prepare(str(jsonl), tmp_path / "out", text_field="body")
    with pytest.raises(ConfigError, match=r"out: .* is already there"):
        prepare(str(jsonl), tmp_path / "out", text_field="body", limit_documents=20)
    assert read_manifest(tmp_path / "out", checksums=True) == first


def test_dataset_without_a_network(tmp_path):
    code = "import sys, pathlib; from train.data.prepare import prepare; prepare('a/b', pathlib.Path(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("configs.errors.ConfigError: source: cannot read 'a/b'")
    assert not (tmp_path / "out").exists()


def test_a_corpus_keeps_its_tokenizer(jsonl, bpe, tmp_path):
    manifest = prepare(str(jsonl), tmp_path / "out", text_field="body", tokenizer=str(bpe))
    kept = load_tokenizer(str(tmp_path / "out" / "tokenizer.json"))
    assert kept.sha256 == manifest.tokenizer_sha256
    assert kept.encode(TEXTS[:1])[0].tolist() == load_tokenizer(str(bpe)).encode(TEXTS[:1])[0].tolist()
