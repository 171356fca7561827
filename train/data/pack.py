"""Tokens in, a directory of memory-mappable shards and their manifest out; what was written can be written on."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from configs.errors import ConfigError
from configs.manifest import MANIFEST, TOKEN_BYTES, Manifest, Shard, Split, SplitName, fingerprint, read_manifest
from configs.rundir import sync
from train.data.encode import encode
from train.data.tokenizer import Tokenizer

SHARD_TOKENS = 2**27
NOTHING = Split(tokens=0, documents=0, shards=())
_BATCH_DOCUMENTS = 256  # keeps a parallel tokenizer busy and fits in memory
_STALE_SECONDS = 86_400  # a living writer starts a new shard, and so touches its directory, far more often


def pack(
    documents: Iterable[tuple[SplitName, str]],
    out: Path,
    *,
    source: str,
    tokenizer: Tokenizer,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Write a small packed corpus `out` in one go and return its manifest.

    `out` appears complete or not at all. Raises FileExistsError if another process made it meanwhile, ConfigError if
    a split stays empty or the directory cannot be written.
    """
    with writable(out), _appearing(out) as directory:
        writers = open_writers(directory, tokenizer, shard_tokens)
        remaining = iter(documents)
        while batch := list(islice(remaining, _BATCH_DOCUMENTS)):
            splits, texts = zip(*batch, strict=True)
            for split, encoded in encode(tokenizer, texts, splits).items():
                writers[split].write(encoded.tokens, encoded.documents)
        write_manifest(directory, writers, source, tokenizer)
    return read_manifest(out)


class SplitWriter:
    """Appends tokens to the shards of one split; all but the last are full."""

    def __init__(self, directory: Path, split: SplitName, dtype: str, shard_tokens: int, done: Split) -> None:
        """Go on behind what was `done`; all that was written beyond it is dropped. Raises ConfigError if it changed."""
        self.directory, self.split, self.shard_tokens = directory, split, shard_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.documents, self.tokens = done.documents, done.tokens
        self.full = list(done.shards)
        self.file: BinaryIO | None = None
        self.filled = 0  # tokens in the open shard
        self.sha256 = hashlib.sha256()
        for path in directory.glob(f"{split}-*.bin"):
            if path.name not in {shard.name for shard in done.shards}:
                path.unlink()
        if done.shards and done.shards[-1].tokens < shard_tokens:
            self._reopen(self.full.pop())
        for shard in self.full:
            if (directory / shard.name).stat().st_size != shard.tokens * TOKEN_BYTES[dtype]:
                raise ConfigError(f"{directory / shard.name}: damaged since it was written")

    def write(self, tokens: np.ndarray, documents: int) -> None:
        """Append the tokens (n,) of whole documents; full shards are closed on the way."""
        self.documents += documents
        self.tokens += len(tokens)
        rest = tokens.astype(self.dtype)
        while len(rest):
            if self.file is None:
                self.file = (self.directory / self._name()).open("wb", buffering=0)
            piece, rest = np.split(rest, [self.shard_tokens - self.filled])
            _write_all(self.file, piece.tobytes())
            self.sha256.update(piece.tobytes())
            self.filled += len(piece)
            if self.filled == self.shard_tokens:
                self.close()

    def flush(self) -> Split:
        """Force to disk what was written, and describe it."""
        last = ()
        if self.file is not None:
            os.fsync(self.file)
            last = (self._shard(),)
        return Split(tokens=self.tokens, documents=self.documents, shards=(*self.full, *last))

    def close(self) -> None:
        """End the open shard."""
        if self.file is not None:
            os.fsync(self.file)
            self.file.close()
            self.full.append(self._shard())
            self.file, self.filled, self.sha256 = None, 0, hashlib.sha256()

    def _reopen(self, shard: Shard) -> None:
        path = self.directory / shard.name
        self.file = path.open("r+b", buffering=0)
        self.file.truncate(shard.tokens * self.dtype.itemsize)
        self.sha256 = hashlib.file_digest(self.file, hashlib.sha256)
        if self.sha256.hexdigest() != shard.sha256:
            raise ConfigError(f"{path}: damaged since it was written")
        self.filled = shard.tokens

    def _name(self) -> str:
        return f"{self.split}-{len(self.full):05d}.bin"

    def _shard(self) -> Shard:
        return Shard(name=self._name(), tokens=self.filled, sha256=self.sha256.hexdigest())


def open_writers(
    directory: Path, tokenizer: Tokenizer, shard_tokens: int, train: Split = NOTHING, valid: Split = NOTHING
) -> dict[SplitName, SplitWriter]:
    """Writers of both splits, to go on behind what is there of each."""
    return {
        "train": SplitWriter(directory, "train", tokenizer.dtype, shard_tokens, train),
        "valid": SplitWriter(directory, "valid", tokenizer.dtype, shard_tokens, valid),
    }


def write_manifest(directory: Path, writers: dict[SplitName, SplitWriter], source: str, tokenizer: Tokenizer) -> None:
    """End the shards and describe them. Raises ConfigError if a split stayed empty."""
    for writer in writers.values():
        writer.close()
    train, valid = writers["train"].flush(), writers["valid"].flush()
    if not (train.documents and valid.documents):
        raise ConfigError(
            f"source: {source} gives {train.documents} training and {valid.documents} validation documents; "
            "give more documents, another valid_fraction, or held-out documents as `valid`"
        )
    t = tokenizer
    manifest = Manifest(
        source=source,
        tokenizer=t.name,
        tokenizer_sha256=t.sha256,
        vocab_size=t.vocab_size,
        eod_token=t.eod_token,
        dtype=t.dtype,
        train=train,
        valid=valid,
        fingerprint=fingerprint(t.sha256, t.vocab_size, t.eod_token, t.dtype, train, valid),
        directory=directory,
    )
    if t.definition:
        (directory / "tokenizer.json").write_text(t.definition)  # for the models that learn this corpus
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")


def publish(directory: Path, out: Path) -> None:
    """Rename a complete corpus to `out`, on disk before it can be seen. Raises FileExistsError if `out` is there."""
    for path in (*directory.iterdir(), directory):
        sync(path)
    try:
        directory.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(error.errno, "already there", str(out)) from error
        raise
    sync(out.parent)


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """One line for whatever the file system raises; only FileExistsError stays what it is."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot write the corpus {out}: {error.strerror or error}") from error


def make_parent(out: Path) -> None:
    """The directory that a corpus is to lie in."""
    if out.parent.is_file():  # mkdir would call this FileExistsError, as if the corpus were there
        raise NotADirectoryError(errno.ENOTDIR, f"{out.parent} is a file")
    out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A new directory beside `out` that becomes it if the block succeeds.

    Rename is the only step others can see, so writers need no lock: the first one wins, the others get
    FileExistsError. What a killed writer leaves behind is hidden, and removed by a later one after a day.
    """
    make_parent(out)
    for stale in out.parent.glob(f".{out.name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(stale, ignore_errors=True)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        yield partial
        publish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_all(file: BinaryIO, data: bytes) -> None:
    """An unbuffered write may stop early; a buffered one would fail again when a full disk's file is closed."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
