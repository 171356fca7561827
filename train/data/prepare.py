"""From a source to a packed corpus: the embedded one, or any documents with any tokenizer."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from configs.errors import ConfigError
from configs.manifest import MANIFEST, Manifest, SplitName, read_manifest
from train.data.corpus import python_roots, python_sources, split_of
from train.data.documents import Position, Source, TextUnit, open_source, read, share_read
from train.data.encode import Chunk, Encoded, encode_chunks
from train.data.pack import SHARD_TOKENS, SplitWriter, open_writers, pack, publish, write_manifest
from train.data.partial import Identity, Journal, remove_published, save, working
from train.data.progress import Report, showing
from train.data.tokenizer import load_tokenizer

EMBEDDED_MAX_BYTES = 2**27  # of text; about 5 s to pack on two cores, and 2 bytes a token on disk
EMBEDDED_VALID_FRACTION = 0.05
CHUNK_CHARACTERS = 2**20  # of text that a process is given at a time
JOURNAL_SECONDS = 5.0  # of work that a kill can cost

Stage = tuple[SplitName | None, Source]  # None: the hash of a document decides


def ensure_embedded(
    root: Path, *, roots: Sequence[Path] | None = None, max_bytes: int = EMBEDDED_MAX_BYTES
) -> Manifest:
    """The embedded corpus in root/embedded, built at the first call: this machine's Python sources, as bytes.

    `roots` replaces the directories that are searched for *.py. Once built it stays as it is, whatever is installed
    later: the runs of a study must share it. Raises ConfigError.
    """
    out = root / "embedded"
    if not (out / MANIFEST).exists():
        texts = python_sources(python_roots() if roots is None else roots, max_bytes)
        try:
            return pack(
                ((split_of(text, EMBEDDED_VALID_FRACTION), text) for text in texts),
                out,
                source="Python sources of the standard library and of installed packages",
                tokenizer=load_tokenizer("bytes"),
            )
        except FileExistsError:
            pass  # another process built it meanwhile
    return read_manifest(out)


@dataclass(frozen=True)
class Prepared:
    """A corpus, and how fast it was made."""

    manifest: Manifest
    tokens: int  # written by this call: fewer than the manifest's if an earlier one was interrupted
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of this call, from its start to its end."""
        return self.tokens / self.seconds


def prepare(
    source: str,
    out: Path,
    *,
    tokenizer: str = "bytes",
    eod: str | None = None,
    text_field: str = "text",
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    valid: str | None = None,
    valid_fraction: float = 0.05,
    limit_documents: int | None = None,
    text_unit: TextUnit = "file",
    processes: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Prepared:
    """Tokenise `source` once into the new directory `out`, on all cores, with a progress line on stderr.

    source, text_field, subset, split, revision, text_unit: see `documents.open_source`.
    tokenizer, eod: see `tokenizer.load_tokenizer`.
    valid: where held-out documents come from: another path if `source` is a path, another split if it is a dataset.
    valid_fraction: without `valid`, the share of documents that is held out, chosen by a hash of their content.
    limit_documents: read only so many documents of `source`, and of `valid`.
    processes: how many tokenise; all cores by default. The corpus does not depend on it.

    A call that was interrupted, or that failed on the way, goes on where it was when it is repeated, and the corpus
    is that of a call that was not. A script that calls it needs the guard `if __name__ == "__main__"`, since the
    processes import it. Raises ConfigError if anything is missing, unreadable or already there.
    """
    began = time.monotonic()
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if not 0 < valid_fraction < 1:
        raise ConfigError(f"valid_fraction: {valid_fraction} is not between 0 and 1; 0.05 holds out 5 % of documents")
    for name, value in (("limit_documents", limit_documents), ("processes", processes)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {value} is not positive; leave it out for all")
    if out.exists():
        remove_published(out)
        raise ConfigError(f"out: {out} is already there; use it, remove it or choose another directory")

    def opened(name: str, split: str) -> Source:
        return open_source(
            name, text_field=text_field, subset=subset, split=split, revision=revision, text_unit=text_unit
        )

    main = opened(source, split)
    stages: list[Stage] = [(None, main)]
    if valid is not None:
        held = opened(valid, split) if main.files else opened(source, valid)
        stages = [("train", main), ("valid", held)]
    encoder = load_tokenizer(tokenizer, eod)
    identity: Identity = {
        "source": f"{source} ({main.version})",
        "text_field": text_field,
        "text_unit": text_unit,
        "subset": subset,
        "split": split,
        "valid": valid and f"{valid} ({stages[1][1].version})",
        "valid_fraction": valid_fraction,
        "limit_documents": limit_documents,
        "tokenizer": f"{tokenizer} (sha256 {encoder.sha256[:16]})",
        "eod": encoder.eod_token,
        "shard_tokens": shard_tokens,
        "datasets": version("datasets"),
        "tokenizers": version("tokenizers"),
    }
    with working(out, identity) as (partial, journal):
        corpus = partial / "corpus"
        writers = open_writers(corpus, encoder, shard_tokens, journal.train, journal.valid)
        documents_before, tokens_before = _totals(writers)
        chunks = _chunks(stages, journal, limit_documents)
        with (
            showing(documents_before, tokens_before) as report,
            closing(encode_chunks(chunks, encoder, valid_fraction, processes)) as encoded,
        ):
            _write(encoded, writers, partial, journal, report)
        name = f"{source} ({split})" if main.files else f"{source} ({split}, {main.version})"
        write_manifest(corpus, writers, name, encoder)
        try:
            publish(corpus, out)
        except FileExistsError as error:
            raise ConfigError(f"out: {out} was made by another process meanwhile; use it or choose another") from error
    return Prepared(read_manifest(out), _totals(writers)[1] - tokens_before, time.monotonic() - began)


def _chunks(stages: Sequence[Stage], journal: Journal, limit: int | None) -> Iterator[Chunk]:
    """What is left of the sources, in pieces of one or two CHUNK_CHARACTERS; a longer document is a piece of its own.

    Reading can go on where a batch of rows ends, so pieces end there, unless a batch makes several.
    """
    for stage, (split, source) in list(enumerate(stages))[journal.stage :]:
        position = journal.position if stage == journal.stage else Position()
        share: float | None = None
        held: list[str] = []
        size = 0
        for texts, position in read(source, position, limit):  # noqa: B020
            share = share_read(source, position, limit)
            several = False
            for text in texts:
                if size + len(text) > 2 * CHUNK_CHARACTERS and held:
                    yield Chunk(held, split, stage, None, share)
                    held, size, several = [], 0, True
                held.append(text)
                size += len(text)
            if held and (size >= CHUNK_CHARACTERS or several):
                yield Chunk(held, split, stage, position, share)
                held, size = [], 0
        if held:
            yield Chunk(held, split, stage, position, share)


def _write(
    encoded: Iterable[tuple[Chunk, dict[SplitName, Encoded]]],
    writers: dict[SplitName, SplitWriter],
    partial: Path,
    journal: Journal,
    report: Report,
) -> None:
    """Append chunk after chunk and keep the journal."""
    saved = time.monotonic()
    for chunk, parts in encoded:
        for split, part in parts.items():
            writers[split].write(part.tokens, part.documents)
        report(*_totals(writers), chunk.share)
        if chunk.position is not None and time.monotonic() - saved >= JOURNAL_SECONDS:
            save(partial, journal.model_copy(update={"stage": chunk.stage, "position": chunk.position}), writers)
            saved = time.monotonic()


def _totals(writers: dict[SplitName, SplitWriter]) -> tuple[int, int]:
    """Documents and tokens of both splits."""
    return sum(w.documents for w in writers.values()), sum(w.tokens for w in writers.values())
