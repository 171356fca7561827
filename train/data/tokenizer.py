"""Tokenizers of three kinds behind one record: raw bytes, a `tokenizers` JSON file, a transformers tokenizer."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from configs.errors import ConfigError

# What common tokenizers call the end of a document; the first one that is in the vocabulary is used.
_KNOWN_EOD = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids; `encode` adds no special tokens and reads their names in a text as plain text.

    It can be pickled, so that other processes encode by the same definition.
    """

    name: str
    sha256: str
    vocab_size: int  # the end of document included
    eod_token: int
    encode: Callable[[list[str]], list[np.ndarray]]
    definition: str | None = None  # the tokenizer.json, of which sha256 is the checksum, where there is such a thing

    @property
    def dtype(self) -> Literal["uint16", "uint32"]:
        """The smallest type that holds every token id on disk."""
        return "uint16" if self.vocab_size <= 2**16 else "uint32"


def load_tokenizer(name: str, eod: str | None = None) -> Tokenizer:
    """`"bytes"`, a tokenizer.json file, or whatever transformers.AutoTokenizer accepts (a directory or a hub name).

    `eod` names the vocabulary's end-of-document token. By default it is the tokenizer's own end-of-sequence token,
    or one of the usual names, or, where there is none, a new id after the last one. Raises ConfigError.
    """
    if name == "bytes":
        if eod is not None:
            raise ConfigError("eod: the bytes tokenizer ends documents with its own token 256; leave eod out")
        return Tokenizer("bytes", hashlib.sha256(b"bytes").hexdigest(), 257, 256, _encode_bytes)
    try:
        return _from_file(name, eod) if Path(name).is_file() else _from_transformers(name, eod)
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"tokenizer: cannot load {name!r} ({reason}); name a tokenizer.json file, a directory or `bytes`"
        ) from error


def _encode_bytes(texts: list[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]


def _from_file(name: str, eod: str | None) -> Tokenizer:
    import tokenizers

    return _from_backend(name, tokenizers.Tokenizer.from_file(name), eod)


def _from_transformers(name: str, eod: str | None) -> Tokenizer:
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    eod = eod or tokenizer.eos_token
    if tokenizer.is_fast:
        return _from_backend(name, tokenizer.backend_tokenizer, eod)
    vocabulary = tokenizer.get_vocab()
    definition = json.dumps([type(tokenizer).__name__, sorted(vocabulary.items())])
    return _with_eod(name, definition, vocabulary, eod, partial(_encode_slow, tokenizer))


def _encode_slow(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return [np.array(row, dtype=np.int64) for row in ids]


def _from_backend(name: str, tokenizer: Any, eod: str | None) -> Tokenizer:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    definition = tokenizer.to_str()
    loaded = _with_eod(name, definition, vocabulary, eod, partial(_encode_fast, tokenizer))
    return replace(loaded, definition=definition)


def _encode_fast(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    tokenizer.encode_special_tokens = True  # a document that quotes "<|endoftext|>" must not end there; not pickled
    batch = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in batch]


def _with_eod(
    name: str,
    definition: str,
    vocabulary: dict[str, int],
    eod: str | None,
    encode: Callable[[list[str]], list[np.ndarray]],
) -> Tokenizer:
    if eod is not None and eod not in vocabulary:
        raise ConfigError(f"eod: {eod!r} is not in the vocabulary of {name}; name one of its tokens or leave eod out")
    size = max(vocabulary.values()) + 1  # ids may have gaps
    known = [token for token in (eod, *_KNOWN_EOD) if token in vocabulary]
    eod_token = vocabulary[known[0]] if known else size
    sha256 = hashlib.sha256(definition.encode()).hexdigest()
    return Tokenizer(name, sha256, max(size, eod_token + 1), eod_token, encode)
