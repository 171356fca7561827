"""Data, disks and corpora that cannot be used: one clear line each, and every file stays as it was."""

import errno
import gzip
import json
import os
import resource
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from configs.errors import ConfigError
from configs.load import load_run
from configs.manifest import read_manifest
from configs.plan import check_tokens
from configs.schema import DataConfig
from tests.data.corpora import TEXTS
from train.data import pack as pack_module
from train.data import prepare as module
from train.data.documents import Position
from train.data.encode import Chunk, encode_chunks
from train.data.open import open_corpus
from train.data.partial import partial_of, working
from train.data.prepare import prepare
from train.data.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
LATIN = "naïve".encode("latin-1")


@pytest.fixture
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {text}"}) + "\n" for i in range(5) for text in TEXTS))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", LATIN, r"source: '.*a\.txt' is not UTF-8 \(.*0xef in position 2.*\); convert it"),
        ("a.jsonl", b'{"text": "%s"}\n' % LATIN, r"source: rows 0 to 0 of '.*a\.jsonl' are not all UTF-8 .*; convert"),
        ("a.txt", b"", "source: .*a.txt .* gives 0 training and 0 validation documents; give more"),
        ("a.jsonl", b"", r"source: '.*a\.jsonl' is empty; name files with documents"),
        ("a.jsonl", b'{"text": null}\n{"text": ""}\n', "gives 0 training and 0 validation documents"),
        ("a.jsonl.gz", b"not compressed", r"source: cannot read '.*a\.jsonl\.gz': Not a gzipped file"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-9],
            "source: cannot read .*: Compressed file ended",
        ),
        ("a.parquet", b"PAR1 and nothing else", r"source: cannot read '.*a\.parquet'"),
    ],
)
def test_files_that_hold_no_documents(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(str(tmp_path / name), tmp_path / "out", words)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([], pa.string()), "gives 0 training and 0 validation documents"),
        (pa.array([b"a"], pa.binary()), "text_field: 'text' is b'a' in row 0 of .*, not text"),
    ],
)
def test_parquet_that_holds_no_text(tmp_path, column, words):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    refused(str(tmp_path / "a.parquet"), tmp_path / "out", words)


def test_the_bad_one_of_many_files_is_named(tmp_path):
    for number in range(70):
        (tmp_path / f"{number:02d}.txt").write_text(f"document {number}")
    (tmp_path / "67.txt").write_bytes(LATIN)
    refused(str(tmp_path), tmp_path / "out", r"source: '.*/67\.txt' is not UTF-8")


def refused(source: str, out: Path, words: str, **options) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        prepare(source, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.fixture
def journalling(monkeypatch):
    """A chunk a document, and a journal entry wherever reading can go on."""
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 1)
    monkeypatch.setattr(module, "JOURNAL_SECONDS", 0.0)


def test_a_full_disk_costs_nothing_but_time(source, tmp_path, journalling, monkeypatch):
    undisturbed = prepare(source, tmp_path / "undisturbed")
    out, write, writes = tmp_path / "out", pack_module._write_all, []

    def full(file, data: bytes) -> None:
        writes.append(data)
        if len(writes) > 100:  # a document each
            file.write(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, data)

    monkeypatch.setattr(pack_module, "_write_all", full)
    refused(source, out, r"cannot write the corpus .*out: No space left on device; .*partial keeps what is done: go on")
    monkeypatch.setattr(pack_module, "_write_all", write)
    resumed = prepare(source, out)
    assert resumed.tokens < undisturbed.tokens
    assert resumed.manifest.fingerprint == undisturbed.manifest.fingerprint
    assert read_manifest(out, checksums=True) == resumed.manifest


def test_a_limit_of_the_system_is_like_a_full_disk(source, tmp_path, journalling):
    undisturbed = prepare(source, tmp_path / "undisturbed")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (undisturbed.tokens, limits[1]))  # bytes: half of what is needed
    try:
        refused(source, tmp_path / "out", r"cannot write the corpus .*out: File too large; .* keeps what is done")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert prepare(source, tmp_path / "out").manifest.fingerprint == undisturbed.manifest.fingerprint


def test_a_full_disk_at_the_start_leaves_nothing(source, tmp_path, monkeypatch):
    def full(file, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pack_module, "_write_all", full)
    refused(source, tmp_path / "out", "cannot write the corpus .*out: No space left on device$")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nobody():
    """Root may write everywhere, so root becomes somebody else for the while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_read_only_directory(source, request):
    folder = Path(tempfile.mkdtemp())  # those of pytest are closed to others
    made = prepare(source, folder / "made").manifest
    try:
        folder.chmod(0o555)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        request.getfixturevalue("nobody")
        with pytest.raises(ConfigError, match=r"cannot write the corpus .*/out: Permission denied$"):
            working(folder / "out", {}).__enter__()
        with pytest.raises(ConfigError, match=r"cannot write the corpus .*/out: Permission denied$"):
            pack_module.pack([("train", "a"), ("valid", "b")], folder / "out", source="", tokenizer=BYTES)
        assert read_manifest(folder / "made", checksums=True) == made  # it can be trained on
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_what_a_killed_preparation_left_before_its_first_journal_is_dropped(source, tmp_path):
    left = partial_of(tmp_path / "out") / "corpus"
    left.mkdir(parents=True)
    (left / "train-00007.bin").write_bytes(b"of other options")
    prepare(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "manifest.json",
        "out",
        "train-00000.bin",
        "valid-00000.bin",
    ]


def test_another_tokenizer_in_the_same_directory(source, bpe, tmp_path):
    first = prepare(source, tmp_path / "out").manifest
    with pytest.raises(ConfigError, match=r"out: .* is already there; use it, remove it or choose another"):
        prepare(source, tmp_path / "out", tokenizer=str(bpe))
    assert read_manifest(tmp_path / "out", checksums=True) == first

    shutil.rmtree(tmp_path / "out")
    second = prepare(source, tmp_path / "out", tokenizer=str(bpe)).manifest
    pinned = DataConfig(path=tmp_path / "out", fingerprint=first.fingerprint)
    with pytest.raises(
        ConfigError, match=f"data.fingerprint: {first.fingerprint} is asked for, .*{second.fingerprint}"
    ):
        open_corpus(pinned, tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model(source, bpe, tmp_path):
    manifest = prepare(source, tmp_path / "out", tokenizer=str(bpe)).manifest
    (tmp_path / "run.yaml").write_text("{model: {vocab_size: 257}}")
    run = load_run(tmp_path / "run.yaml", [])
    with pytest.raises(ConfigError, match=r"model\.vocab_size = 257 is below the data's vocabulary of 400"):
        check_tokens(run, 2**40, 2**40, manifest.vocab_size)


def test_a_tokenizer_that_cannot_encode(source, tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0}, unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "words.json"))
    words = r"tokenizer: .*words\.json cannot encode the documents: .*Missing \[UNK\].*; use another"
    refused(source, tmp_path / "out", words, tokenizer=str(tmp_path / "words.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["words.json"]


def _killed(texts: list[str]) -> list[np.ndarray]:
    """What a process without memory meets."""
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_tokenising_process_that_dies():
    chunk = Chunk(["a"], None, 0, Position(), None)
    with pytest.raises(ConfigError, match=r"processes: one of 1 tokenising processes died, .*; use fewer"):
        list(encode_chunks([chunk] * 5, replace(BYTES, encode=_killed), 0.1, processes=1))
