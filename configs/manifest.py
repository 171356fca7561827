"""The packed corpus' manifest: what a directory of tokens contains, and whether it is still intact.

A corpus is a directory: `manifest.json` beside the shards `train-00000.bin`, ..., `valid-00000.bin`, ..., which are
nothing but token ids, little-endian. Planning reads it too, so this file knows neither numpy nor torch.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from configs.errors import ConfigError
from configs.schema import Frozen

MANIFEST = "manifest.json"
TOKEN_BYTES = {"uint16": 2, "uint32": 4}

SplitName = Literal["train", "valid"]


class Shard(Frozen):
    """One file of tokens."""

    name: str
    tokens: int
    sha256: str


class Split(Frozen):
    """Whole documents, each ended by the end-of-document token, one after another over the shards."""

    tokens: int = Field(description="Tokens, the end of each document included.")
    documents: int
    shards: tuple[Shard, ...]


class Manifest(Frozen):
    """Everything that defines the tokens of a packed corpus, and where it lies."""

    version: Literal[1] = 1
    source: str = Field(description="Where the documents came from, for people.")
    tokenizer: str = Field(description="Name of the tokenizer, for people.")
    tokenizer_sha256: str
    vocab_size: int = Field(description="Token ids are below this; the end of document is one of them.")
    eod_token: int
    dtype: Literal["uint16", "uint32"]
    train: Split
    valid: Split
    fingerprint: str = Field(description="Equal for equal tokens, wherever they lie.")
    directory: Path = Field(exclude=True, description="Where the corpus was read from; not part of the file.")


def fingerprint(tokenizer_sha256: str, vocab_size: int, eod_token: int, dtype: str, *splits: Split) -> str:
    """16 hexadecimal digits of a sha256 over all that defines the tokens: not over names of sources or paths."""
    shards = [[(shard.tokens, shard.sha256) for shard in split.shards] for split in splits]
    text = json.dumps([tokenizer_sha256, vocab_size, eod_token, dtype, shards])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def count_sequences(split_tokens: int, seq_len: int) -> int:
    """Sequences of `seq_len` predictions in `split_tokens` tokens; only the very first token is never a target."""
    return max(0, split_tokens - 1) // seq_len


def read_manifest(directory: Path, *, checksums: bool = False) -> Manifest:
    """The manifest of a packed corpus whose files are all there with the right sizes.

    `checksums` also reads every shard and compares its sha256 (seconds per GB).
    Raises ConfigError naming the file that is missing, damaged or of the wrong size.
    """
    manifest = _parse(directory)
    for shard in (*manifest.train.shards, *manifest.valid.shards):
        _check_shard(directory / shard.name, shard, TOKEN_BYTES[manifest.dtype], checksums)
    return manifest


def _parse(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate({**json.loads(path.read_text()), "directory": directory})
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write a corpus with `bcrit data prepare`") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {where}: {first['msg']}; prepare the corpus again") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a manifest ({error}); prepare the corpus again") from error
    m = manifest
    if m.fingerprint != fingerprint(m.tokenizer_sha256, m.vocab_size, m.eod_token, m.dtype, m.train, m.valid):
        raise ConfigError(f"{path}: its fingerprint does not fit its contents; prepare the corpus again")
    return manifest


def _check_shard(path: Path, shard: Shard, token_bytes: int, checksums: bool) -> None:
    try:
        size = path.stat().st_size
        if size != shard.tokens * token_bytes:
            raise ConfigError(
                f"{path}: {size:,} bytes instead of {shard.tokens * token_bytes:,}; prepare the corpus again"
            )
        if checksums:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise ConfigError(f"{path}: its sha256 is not the manifest's; prepare the corpus again")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; prepare the corpus again") from error
