"""The order of the data: which sequence is sample number i of a run, from (seed, i) alone."""

import hashlib
from math import isqrt

import numpy as np


def sequence_index(samples: np.ndarray, n_sequences: int, seed: int) -> np.ndarray:
    """Sequence numbers of the given global sample numbers: int64 in [0, n_sequences), same shape (n,).

    A pseudo-random permutation of [0, n_sequences) that needs no memory and no state, so the order depends on neither
    batch size, micro-batch nor world size, and resuming needs nothing but the number of samples seen. Sample numbers
    outside [0, n_sequences) raise IndexError: one pass, no repetition.

    Generalised Feistel network with cycle walking (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"):
    the sequences are laid out on the smallest rectangle near a square; each round shifts every row (column) by a
    hash of its number, which permutes the cells; the few cells beyond n_sequences are permuted on until inside.
    """
    samples = np.asarray(samples, dtype=np.int64)
    if samples.size and (samples.min() < 0 or samples.max() >= n_sequences):
        raise IndexError(
            f"samples {samples.min()}..{samples.max()} are asked for, but there are {n_sequences} sequences"
        )
    keys = _round_keys(seed)
    cells = _permute(samples.astype(np.uint64), n_sequences, keys)
    while (outside := np.flatnonzero(cells >= np.uint64(n_sequences))).size:
        cells[outside] = _permute(cells[outside], n_sequences, keys)
    return cells.astype(np.int64)


def _round_keys(seed: int) -> np.ndarray:
    """Eight 64-bit round keys, uint64 (8,)."""
    return np.frombuffer(hashlib.sha512(f"bcrit order {seed}".encode()).digest(), dtype="<u8")


def _permute(cells: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Bijection of the rectangle rows x columns >= n onto itself."""
    rows = np.uint64(isqrt(max(n - 1, 0)) + 1)
    columns = np.uint64(-(-n // int(rows)))
    row, column = cells // columns, cells % columns
    for row_key, column_key in keys.reshape(-1, 2):
        row = (row + _mix(column ^ row_key) % rows) % rows
        column = (column + _mix(row ^ column_key) % columns) % columns
    return row * columns + column


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): every input bit flips every output bit half the time."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
