"""A damaged corpus is refused with one line that names the file."""

import json
import shutil

import pytest

from configs.errors import ConfigError
from configs.manifest import MANIFEST, count_sequences, read_manifest
from tests.data.corpora import counting


@pytest.fixture
def corpus(tmp_path):
    return counting(tmp_path / "corpus", 1000, shard_tokens=300).directory


def refused(directory, *, naming, checksums=False):
    with pytest.raises(ConfigError, match=naming) as caught:
        read_manifest(directory, checksums=checksums)
    assert "\n" not in str(caught.value)
    return True


def test_intact_corpus_is_read_back(corpus):
    manifest = read_manifest(corpus, checksums=True)
    assert [shard.tokens for shard in manifest.train.shards] == [300, 300, 300, 100]
    assert (manifest.train.tokens, manifest.train.documents) == (1000, 1)


def test_fingerprint_knows_the_tokens_not_the_place(corpus, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(corpus, moved)
    assert read_manifest(moved).fingerprint == read_manifest(corpus).fingerprint
    other = counting(tmp_path / "other", 1001, shard_tokens=300)
    assert other.fingerprint != read_manifest(corpus).fingerprint


def test_missing_manifest(tmp_path):
    assert refused(tmp_path / "nowhere", naming=r"nowhere/manifest\.json: No such file.*bcrit data prepare")


@pytest.mark.parametrize("text", ["", "[]", "null", '{"version": 2}', "{", "\xff"])
def test_not_a_manifest(corpus, text):
    (corpus / MANIFEST).write_text(text, encoding="latin-1")
    assert refused(corpus, naming=r"manifest\.json")


def test_edited_manifest(corpus):
    content = json.loads((corpus / MANIFEST).read_text())
    (corpus / MANIFEST).write_text(json.dumps({**content, "eod_token": 3}))
    assert refused(corpus, naming=r"manifest\.json: its fingerprint")


def test_missing_shard(corpus):
    (corpus / "train-00002.bin").unlink()
    assert refused(corpus, naming=r"train-00002\.bin: No such file")


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size(corpus, change):
    path = corpus / "valid-00000.bin"
    path.write_bytes(path.read_bytes()[:change] if change < 0 else path.read_bytes() + b"x")
    assert refused(corpus, naming=r"valid-00000\.bin: .* bytes instead of 4")


def test_flipped_bit(corpus):
    path = corpus / "train-00001.bin"
    data = bytearray(path.read_bytes())
    data[77] ^= 4
    path.write_bytes(data)
    read_manifest(corpus)  # sizes alone cannot tell
    assert refused(corpus, naming=r"train-00001\.bin: its sha256", checksums=True)


@pytest.mark.parametrize(("tokens", "sequences"), [(0, 0), (1, 0), (10, 0), (11, 1), (20, 1), (21, 2)])
def test_count_sequences_needs_one_token_more(tokens, sequences):
    assert count_sequences(tokens, seq_len=10) == sequences
