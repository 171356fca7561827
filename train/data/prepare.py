"""From a source to a packed corpus: the embedded one, or any documents with any tokenizer."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from configs.errors import ConfigError
from configs.manifest import MANIFEST, Manifest, SplitName, read_manifest
from train.data.corpus import TextUnit, dataset_documents, held_out, local_files, python_roots, python_sources
from train.data.pack import SHARD_TOKENS, pack
from train.data.tokenizer import load_tokenizer

EMBEDDED_MAX_BYTES = 2**27  # of text; about 5 s to pack on two cores, and 2 bytes a token on disk
EMBEDDED_VALID_FRACTION = 0.05


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
                _divide(texts, EMBEDDED_VALID_FRACTION),
                out,
                source="Python sources of the standard library and of installed packages",
                tokenizer=load_tokenizer("bytes"),
            )
        except FileExistsError:
            pass  # another process built it meanwhile
    return read_manifest(out)


def prepare(
    source: str,
    out: Path,
    *,
    tokenizer: str = "bytes",
    eod: str | None = None,
    text_field: str = "text",
    subset: str | None = None,
    split: str = "train",
    valid: str | None = None,
    valid_fraction: float = 0.05,
    limit_documents: int | None = None,
    text_unit: TextUnit = "file",
    streaming: bool = True,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Tokenise `source` once into the new directory `out`, with a progress line on stderr.

    source, text_field, subset, split, text_unit, streaming: see `corpus.dataset_documents`.
    tokenizer, eod: see `tokenizer.load_tokenizer`.
    valid: where held-out documents come from: another path if `source` is a path, another split if it is a dataset.
    valid_fraction: without `valid`, the share of documents that is held out, chosen by a hash of their content.
    limit_documents: read only so many documents of `source`, and of `valid`.

    Raises ConfigError if anything is missing, unreadable or already there.
    """
    if not 0 < valid_fraction < 1:
        raise ConfigError(f"valid_fraction: {valid_fraction} is not between 0 and 1; 0.05 holds out 5 % of documents")
    if limit_documents is not None and limit_documents < 1:
        raise ConfigError(f"limit_documents: {limit_documents} is not positive; leave it out to read all")
    if out.exists():
        raise ConfigError(f"out: {out} is already there; remove it or choose another directory")

    read = partial(dataset_documents, text_field=text_field, subset=subset, text_unit=text_unit, streaming=streaming)
    texts = islice(read(source, split=split), limit_documents)
    if valid is None:
        documents = _divide(texts, valid_fraction)
    else:
        held = read(valid, split=split) if local_files(source) else read(source, split=valid)
        documents = chain(_label("train", texts), _label("valid", islice(held, limit_documents)))
    with _progress() as report:
        try:
            return pack(
                documents,
                out,
                source=f"{source} ({split})",
                tokenizer=load_tokenizer(tokenizer, eod),
                shard_tokens=shard_tokens,
                report=report,
            )
        except FileExistsError as error:
            raise ConfigError(f"out: {out} was made by another process meanwhile; use it or choose another") from error


def _divide(texts: Iterable[str], valid_fraction: float) -> Iterator[tuple[SplitName, str]]:
    for text in texts:
        yield ("valid" if held_out(text, valid_fraction) else "train"), text


def _label(split: SplitName, texts: Iterable[str]) -> Iterator[tuple[SplitName, str]]:
    for text in texts:
        yield split, text


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A live line on stderr, told (documents, tokens) so far."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("reading")
        started = time.perf_counter()

        def report(documents: int, tokens: int) -> None:
            speed = tokens / (time.perf_counter() - started)
            progress.update(task, description=f"{documents:,} documents, {tokens:,} tokens, {speed:,.0f} tokens/s")

        yield report
