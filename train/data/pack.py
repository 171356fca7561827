"""Tokenise once: documents in, a directory of memory-mappable shards and their manifest out, all or nothing."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from configs.errors import ConfigError
from configs.manifest import MANIFEST, Manifest, Shard, Split, SplitName, fingerprint, read_manifest
from train.data.tokenizer import Tokenizer

SHARD_TOKENS = 2**27
_BATCH_DOCUMENTS = 256  # keeps a parallel tokenizer busy and fits in memory
_STALE_SECONDS = 86_400  # a living writer starts a new shard, and so touches its directory, far more often


def pack(
    documents: Iterable[tuple[SplitName, str]],
    out: Path,
    *,
    source: str,
    tokenizer: Tokenizer,
    shard_tokens: int = SHARD_TOKENS,
    report: Callable[[int, int], None] = lambda documents, tokens: None,
) -> Manifest:
    """Write the packed corpus `out` and return its manifest; `report(documents, tokens)` hears the totals so far.

    `out` appears complete or not at all. Raises FileExistsError if another process made it meanwhile, ConfigError if
    a split stays empty or the directory cannot be written.
    """
    try:
        with _appearing(out) as directory:
            _write(documents, directory, source, tokenizer, shard_tokens, report)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot write the corpus {out}: {error.strerror or error}") from error
    return read_manifest(out)


def _write(
    documents: Iterable[tuple[SplitName, str]],
    directory: Path,
    source: str,
    tokenizer: Tokenizer,
    shard_tokens: int,
    report: Callable[[int, int], None],
) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    writers: dict[SplitName, _SplitWriter] = {
        "train": _SplitWriter(directory, "train", dtype, shard_tokens),
        "valid": _SplitWriter(directory, "valid", dtype, shard_tokens),
    }
    remaining = iter(documents)
    while batch := list(islice(remaining, _BATCH_DOCUMENTS)):
        for (split, _), ids in zip(batch, tokenizer.encode([text for _, text in batch]), strict=True):
            writers[split].write(np.append(ids, tokenizer.eod_token))
        report(sum(w.documents for w in writers.values()), sum(w.tokens for w in writers.values()))
    train, valid = writers["train"].finish(), writers["valid"].finish()
    if not (train.documents and valid.documents):
        raise ConfigError(
            f"source: {source} gives {train.documents} training and {valid.documents} validation documents; "
            "give more documents, another valid_fraction, or held-out documents as `valid`"
        )
    manifest = Manifest(
        source=source,
        tokenizer=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        eod_token=tokenizer.eod_token,
        dtype=dtype,
        train=train,
        valid=valid,
        fingerprint=fingerprint(tokenizer.sha256, tokenizer.vocab_size, tokenizer.eod_token, dtype, train, valid),
        directory=directory,
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


class _SplitWriter:
    """Appends documents to the shards of one split."""

    def __init__(self, directory: Path, split: SplitName, dtype: str, shard_tokens: int) -> None:
        self.directory, self.split, self.shard_tokens = directory, split, shard_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.documents = self.tokens = 0
        self.shards: list[Shard] = []
        self.file: BinaryIO | None = None
        self.filled = 0  # tokens in the open shard
        self.sha256 = hashlib.sha256()

    def write(self, document: np.ndarray) -> None:
        """Append a document's tokens, its end included; full shards are closed on the way."""
        self.documents += 1
        self.tokens += len(document)
        rest = document.astype(self.dtype)
        while len(rest):
            if self.file is None:
                self.file = (self.directory / self._name()).open("wb")
            piece, rest = np.split(rest, [self.shard_tokens - self.filled])
            self.file.write(piece.tobytes())
            self.sha256.update(piece.tobytes())
            self.filled += len(piece)
            if self.filled == self.shard_tokens:
                self._close()

    def finish(self) -> Split:
        """Close the last shard and describe the split."""
        self._close()
        return Split(tokens=self.tokens, documents=self.documents, shards=tuple(self.shards))

    def _name(self) -> str:
        return f"{self.split}-{len(self.shards):05d}.bin"

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.shards.append(Shard(name=self._name(), tokens=self.filled, sha256=self.sha256.hexdigest()))
            self.file, self.filled, self.sha256 = None, 0, hashlib.sha256()


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A new directory beside `out` that is renamed to it, on disk and complete, if the block succeeds.

    Rename is the only step others can see, so writers need no lock: the first one wins, the others get
    FileExistsError. What a killed writer leaves behind is hidden, and removed by a later one after a day.
    """
    if out.parent.is_file():  # mkdir would call this FileExistsError, as if the corpus were there
        raise NotADirectoryError(errno.ENOTDIR, f"{out.parent} is a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(stale, ignore_errors=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            _flush(path)
        try:
            partial.rename(out)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(error.errno, "already there", str(out)) from error
            raise
        _flush(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _flush(path: Path) -> None:
    """Force a file or directory to disk: a rename must not outlive a power cut that its contents do not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
