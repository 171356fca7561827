"""Small packed corpora whose token at position i of the training split is i: a misplaced token shows."""

from pathlib import Path

import numpy as np

from configs.manifest import Manifest, SplitName
from train.data.pack import pack
from train.data.tokenizer import Tokenizer

TEXTS = [
    f"Chapter {i}. It was the best of times: naïve, 東京 {i * i}!\n\nQuoting <|endoftext|> ends nothing."
    for i in range(60)
]


def counting(directory: Path, train_tokens: int, valid_tokens: int = 2, *, shard_tokens: int = 2**20) -> Manifest:
    """Train split 0, 1, ..., train_tokens - 1 and a like validation split, one document each."""

    def encode(texts: list[str]) -> list[np.ndarray]:
        return [np.arange(int(text) - 1) for text in texts]

    # The end of document is the training split's last number, so that the count goes on through it.
    tokenizer = Tokenizer("counting", "0" * 64, train_tokens, train_tokens - 1, encode)
    documents: list[tuple[SplitName, str]] = [("train", str(train_tokens)), ("valid", str(valid_tokens))]
    return pack(documents, directory, source="numbers", tokenizer=tokenizer, shard_tokens=shard_tokens)


def read_split(manifest: Manifest, split: SplitName) -> np.ndarray:
    """All tokens of a split, read without the code under test."""
    dtype = {"uint16": "<u2", "uint32": "<u4"}[manifest.dtype]
    shards = getattr(manifest, split).shards
    return np.concatenate([np.fromfile(manifest.directory / shard.name, dtype) for shard in shards])


def documents_of(manifest: Manifest, split: SplitName) -> list[list[int]]:
    """The token ids of each document of a split, without the end of document."""
    tokens = read_split(manifest, split)
    ends = np.flatnonzero(tokens == manifest.eod_token)
    assert ends[-1] == len(tokens) - 1
    return [piece[:-1].tolist() for piece in np.split(tokens, ends[:-1] + 1)]
