"""From global sample numbers to token arrays: memory-mapped, stateless, without a loader.

Window i of a split covers its tokens [i * seq_len, i * seq_len + seq_len]: neighbours share one token, so every
token but the first is a target exactly once. Windows cross documents and shards.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from configs.errors import ConfigError
from configs.manifest import Manifest, SplitName, count_sequences
from train.data.order import sequence_index

BLOCK = 1024  # samples whose order is worked out at once: for a few it takes as long, a twentieth of a small run's step


@dataclass(frozen=True)
class TokenStore:
    """One split of a packed corpus, cut into windows."""

    shards: tuple[np.ndarray, ...]  # views of memory maps, concatenated in this order
    starts: tuple[int, ...]  # position of each shard's first token in the split
    seq_len: int
    n_sequences: int


def open_split(manifest: Manifest, split: SplitName, seq_len: int) -> TokenStore:
    """Map the shards of a split; nothing is read yet. Raises ConfigError if it is shorter than one sequence."""
    parts = getattr(manifest, split)
    n_sequences = count_sequences(parts.tokens, seq_len)
    if n_sequences == 0:
        raise ConfigError(
            f"model.seq_len: the {split} split of {manifest.directory} has {parts.tokens:,} tokens, "
            f"too few for one sequence of {seq_len} + 1; lower model.seq_len or prepare more data"
        )
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    maps = [np.memmap(manifest.directory / shard.name, dtype, mode="r") for shard in parts.shards]
    return TokenStore(
        shards=tuple(np.asarray(shard) for shard in maps),  # slicing a plain array is several times faster
        starts=tuple(accumulate((shard.tokens for shard in parts.shards[:-1]), initial=0)),
        seq_len=seq_len,
        n_sequences=n_sequences,
    )


def sequences(store: TokenStore, seed: int, first_sample: int, count: int) -> np.ndarray:
    """Samples first_sample .. first_sample + count - 1 of the pass with this seed: int64 (count, seq_len + 1).

    Inputs are [:, :-1], targets [:, 1:]. Raises IndexError beyond the one pass.
    """
    end = first_sample + count
    if first_sample < 0 or end > store.n_sequences:
        raise IndexError(
            f"samples {first_sample}..{end - 1} are asked for, but there are {store.n_sequences} sequences"
        )
    first = first_sample // BLOCK
    blocks = [_order(store.n_sequences, seed, block) for block in range(first, -(-end // BLOCK))]
    begin = first_sample - first * BLOCK
    return windows(store, np.concatenate(blocks)[begin : begin + count])


@lru_cache(maxsize=16)
def _order(n_sequences: int, seed: int, block: int) -> np.ndarray:
    """Sequence numbers of the samples of a block; not to be changed."""
    return sequence_index(np.arange(block * BLOCK, min((block + 1) * BLOCK, n_sequences)), n_sequences, seed)


def windows(store: TokenStore, indices: np.ndarray) -> np.ndarray:
    """Windows by their place in the split: int64 (len(indices), seq_len + 1).

    The validation set is windows 0 .. valid_tokens / seq_len - 1 of the valid split, in this order, for every run.
    Raises IndexError for a window that is not there.
    """
    tokens = np.empty((len(indices), store.seq_len + 1), dtype=np.int64)
    for row, index in zip(tokens, indices.tolist(), strict=True):
        if not 0 <= index < store.n_sequences:
            raise IndexError(f"window {index} is asked for, but there are {store.n_sequences}")
        _copy(store, index * store.seq_len, row)
    return tokens


def _copy(store: TokenStore, begin: int, out: np.ndarray) -> None:
    """Fill `out` with the tokens of the split from position `begin` on, shard by shard."""
    shard = bisect_right(store.starts, begin) - 1
    filled = 0
    while filled < len(out):
        offset = begin + filled - store.starts[shard]
        piece = store.shards[shard][offset : offset + len(out) - filled]
        out[filled : filled + len(piece)] = piece
        filled += len(piece)
        shard += 1
