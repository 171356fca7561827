"""A corpus appears whole or not at all, whoever dies or races."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.manifest import SplitName, read_manifest
from tests.data.corpora import documents_of, read_split
from train.data.pack import pack
from train.data.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
DOCUMENTS: list[tuple[SplitName, str]] = [("train", "ab"), ("valid", "c"), ("train", "d")]

ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from train.data.pack import pack
from train.data.tokenizer import load_tokenizer

def endless():
    yield "valid", "held out"
    for number in count():
        yield "train", "x" * 1000
        if number > 2000:
            print("going", flush=True)

out, tokenizer = Path(sys.argv[1]), load_tokenizer("bytes")
pack(endless(), out, source="endless", tokenizer=tokenizer, shard_tokens=10**6)
"""


def test_documents_are_ended_and_kept_in_order(tmp_path):
    manifest = pack(DOCUMENTS, tmp_path / "corpus", source="letters", tokenizer=BYTES)
    assert read_split(manifest, "train").tolist() == [97, 98, 256, 100, 256]
    assert documents_of(manifest, "valid") == [[99]]
    assert (manifest.train.documents, manifest.train.tokens, manifest.vocab_size) == (2, 5, 257)


def test_shards_are_filled_to_the_last_token(tmp_path):
    documents: list[tuple[SplitName, str]] = [("valid", "y"), *(("train", "x" * n) for n in range(40))]
    whole = pack(documents, tmp_path / "whole", source="", tokenizer=BYTES)
    cut = pack(documents, tmp_path / "cut", source="", tokenizer=BYTES, shard_tokens=7)
    assert {shard.tokens for shard in cut.train.shards[:-1]} == {7}
    assert np.array_equal(read_split(whole, "train"), read_split(cut, "train"))


def test_permissions_are_those_of_any_new_directory(tmp_path):
    manifest = pack(DOCUMENTS, tmp_path / "corpus", source="", tokenizer=BYTES)
    (tmp_path / "usual").mkdir()
    assert manifest.directory.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_split_without_documents_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 training and 0 validation documents"):
        pack([DOCUMENTS[0], DOCUMENTS[2]], tmp_path / "corpus", source="s", tokenizer=BYTES)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_leaves_nothing(tmp_path):
    def broken() -> Iterator[tuple[SplitName, str]]:
        yield "train", "a"
        raise RuntimeError("source gone")

    with pytest.raises(RuntimeError, match="source gone"):
        pack(broken(), tmp_path / "corpus", source="", tokenizer=BYTES)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot write the corpus .*file/corpus: .*file is a file"):
        pack(DOCUMENTS, tmp_path / "file" / "corpus", source="", tokenizer=BYTES)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_writer_leaves_no_half_corpus(tmp_path, sign):
    out = tmp_path / "corpus"
    command = [sys.executable, "-c", ENDLESS, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        process.send_signal(sign)
    assert not out.exists()
    left = list(tmp_path.glob(".corpus.*.partial"))
    assert len(left) == (1 if sign == signal.SIGKILL else 0)
    for partial in left:  # a day later
        os.utime(partial, (time.time() - 90_000, time.time() - 90_000))
    assert pack(DOCUMENTS, out, source="", tokenizer=BYTES).train.documents == 2
    assert list(tmp_path.iterdir()) == [out]


def test_a_living_writer_is_left_alone_and_the_first_one_wins(tmp_path):
    out = tmp_path / "corpus"

    def overtaken() -> Iterator[tuple[SplitName, str]]:
        yield from DOCUMENTS
        pack([("train", "winner"), ("valid", "w")], out, source="", tokenizer=BYTES)

    with pytest.raises(FileExistsError):
        pack(overtaken(), out, source="", tokenizer=BYTES)
    assert documents_of(read_manifest(out, checksums=True), "train") == [list(b"winner")]
    assert list(tmp_path.iterdir()) == [out]
