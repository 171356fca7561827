"""Documents to tokens, on one core or on all of them; the tokens and their order are the same."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from configs.errors import ConfigError
from configs.manifest import SplitName
from train.data.corpus import split_of
from train.data.documents import Position
from train.data.tokenizer import Tokenizer

_AHEAD = 2  # chunks a process that are read before they are needed


@dataclass(frozen=True)
class Chunk:
    """Consecutive documents of one source, never none, and where reading goes on behind them."""

    texts: list[str]
    split: SplitName | None  # None: each document's own hash decides
    stage: int  # number of the source
    position: Position | None  # None: reading can go on only behind a later chunk
    share: float | None  # of the source that is read then, where it can be estimated


@dataclass(frozen=True)
class Encoded:
    """The documents of one split among some, in their order."""

    tokens: np.ndarray  # (n,) in the tokenizer's dtype; the end-of-document token after each document
    documents: int


def encode(tokenizer: Tokenizer, texts: Sequence[str], splits: Sequence[SplitName]) -> dict[SplitName, Encoded]:
    """Tokens of documents, by the split of each. Raises ConfigError if the tokenizer fails at one."""
    try:
        ids = tokenizer.encode(list(texts))
    except Exception as error:  # tokenizers raises bare Exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"tokenizer: {tokenizer.name} cannot encode the documents: {reason}; use another") from error
    end = np.array([tokenizer.eod_token], dtype=tokenizer.dtype)
    pieces: dict[SplitName, list[np.ndarray]] = {}
    for split, document in zip(splits, ids, strict=True):
        pieces.setdefault(split, []).extend((document.astype(tokenizer.dtype), end))
    return {split: Encoded(np.concatenate(parts), documents=len(parts) // 2) for split, parts in pieces.items()}


def encode_chunks(
    chunks: Iterable[Chunk], tokenizer: Tokenizer, valid_fraction: float, processes: int
) -> Generator[tuple[Chunk, dict[SplitName, Encoded]], None, None]:
    """Each chunk with its tokens, in the order of the chunks, encoded by `processes` processes.

    Only a few chunks a process are held at a time. A single chunk is not worth a process.
    Raises ConfigError if a process dies.
    """
    remaining = iter(chunks)
    first = list(islice(remaining, 2))
    if len(first) < 2:
        for chunk in first:
            yield chunk, _encode(tokenizer, valid_fraction, chunk.texts, chunk.split)
        return
    # spawned, not forked: a fork would inherit the threads' locks of pyarrow and tokenizers
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(tokenizer, valid_fraction))
    try:
        coming = deque()
        for chunk in chain(first, remaining):
            coming.append((chunk, pool.submit(_encode_given, chunk.texts, chunk.split)))
            if len(coming) > _AHEAD * processes:
                done, future = coming.popleft()
                yield done, future.result()
        for done, future in coming:
            yield done, future.result()
    except BrokenProcessPool as error:
        raise ConfigError(
            f"processes: one of {processes} tokenising processes died, likely of too little memory; use fewer"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_given: tuple[Tokenizer, float]  # of a tokenising process, set once


def _begin(tokenizer: Tokenizer, valid_fraction: float) -> None:
    global _given
    _given = (tokenizer, valid_fraction)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed could not say so, and this process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_given(texts: list[str], split: SplitName | None) -> dict[SplitName, Encoded]:
    return _encode(*_given, texts, split)


def _encode(
    tokenizer: Tokenizer, valid_fraction: float, texts: list[str], split: SplitName | None
) -> dict[SplitName, Encoded]:
    splits: list[SplitName] = [split or split_of(text, valid_fraction) for text in texts]
    return encode(tokenizer, texts, splits)
