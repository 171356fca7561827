"""Windows cover the tokens once; which tokens a step sees depends on neither devices nor micro-batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.manifest import count_sequences
from tests.data.corpora import counting
from train.data.batches import open_split, sequences, windows


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(2, 400), seq_len=st.integers(1, 60), shard_tokens=st.integers(1, 150))
def test_every_token_but_the_first_is_a_target_once(tmp_path_factory, tokens, seq_len, shard_tokens):
    manifest = counting(tmp_path_factory.mktemp("c") / "corpus", tokens, shard_tokens=max(shard_tokens, tokens // 8))
    n = count_sequences(tokens, seq_len)
    assert n * seq_len + 1 <= tokens < (n + 1) * seq_len + 1  # nothing but an incomplete window is left out
    if n == 0:
        with pytest.raises(ConfigError, match=r"lower model\.seq_len"):
            open_split(manifest, "train", seq_len)
        return
    store = open_split(manifest, "train", seq_len)
    in_place = windows(store, np.arange(n))
    assert in_place.dtype == np.int64
    assert np.array_equal(in_place[:, 1:].ravel(), np.arange(1, n * seq_len + 1))
    assert np.array_equal(in_place[:, :-1].ravel(), np.arange(n * seq_len))
    shuffled = sequences(store, seed=5, first_sample=0, count=n)
    assert np.array_equal(np.sort(shuffled[:, 1:], axis=None), np.arange(1, n * seq_len + 1))


@pytest.mark.parametrize(
    ("batch_seqs", "world", "micro"), [(4, 1, 4), (4, 1, 1), (8, 2, 2), (24, 3, 4), (48, 4, 12), (96, 1, 32)]
)
def test_tokens_depend_on_neither_batch_nor_devices(tmp_path, batch_seqs, world, micro):
    store = open_split(counting(tmp_path / "corpus", 3001), "train", seq_len=10)
    total = 192
    seen = []
    for step in range(total // batch_seqs):
        parts = [
            sequences(store, 11, step * batch_seqs + (accumulated * world + rank) * micro, micro)
            for rank in range(world)
            for accumulated in range(batch_seqs // (world * micro))
        ]
        batch = sequences(store, 11, step * batch_seqs, batch_seqs)
        assert np.array_equal(np.sort(np.concatenate(parts), axis=0), np.sort(batch, axis=0))
        seen.append(batch)
    assert np.array_equal(np.concatenate(seen), sequences(store, 11, 0, total))


def test_seeds_differ_and_repeat(tmp_path):
    store = open_split(counting(tmp_path / "corpus", 3001), "train", seq_len=10)
    first = sequences(store, 0, 0, 50)
    assert np.array_equal(first, sequences(store, 0, 0, 50))
    assert not np.array_equal(first, sequences(store, 1, 0, 50))


def test_beyond_the_pass(tmp_path):
    store = open_split(counting(tmp_path / "corpus", 101), "train", seq_len=10)
    assert store.n_sequences == 10
    with pytest.raises(IndexError, match="10 sequences"):
        sequences(store, 0, 8, 3)
    with pytest.raises(IndexError, match="there are 10"):
        windows(store, np.array([10]))


def test_wide_vocabularies_keep_their_ids(tmp_path):
    manifest = counting(tmp_path / "corpus", 2**16 + 5)
    assert manifest.dtype == "uint32"
    last = windows(open_split(manifest, "train", 4), np.array([2**14]))
    assert last.tolist() == [[2**16, 2**16 + 1, 2**16 + 2, 2**16 + 3, 2**16 + 4]]
