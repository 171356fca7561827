"""Documents of local files or of a Hugging Face dataset, in their order and from any position on."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

from configs.errors import ConfigError
from configs.schema import Frozen

_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_BATCH_ROWS = 32  # read at a time: few enough for whole books, and far cheaper a row than one at a time
_PARQUET_ROWS = 256  # of a row group that are in memory at a time

TextUnit = Literal["file", "paragraph", "line"]
_SAMPLE_BY = {"file": "document", "paragraph": "paragraph", "line": "line"}


@dataclass(frozen=True)
class Source:
    """Rows with a text in them. `version` differs if the rows may: "revision <commit>" of the hub, "files <digest>"."""

    name: str
    text_field: str
    rows: Any  # datasets.IterableDataset of Arrow tables
    version: str
    n_rows: int | None  # where it is known
    n_bytes: int | None  # of text; about right for local files that are not compressed, else unknown
    files: tuple[str, ...]  # local ones, one a shard of `rows`


class Position(Frozen):
    """How far a source was read, and where reading goes on."""

    rows: int = 0
    documents: int = 0  # rows whose text is neither null nor empty
    bytes: int = 0  # of text, about
    state: dict[str, Any] | None = None  # of the datasets.IterableDataset; None: the beginning


def open_source(
    name: str,
    *,
    text_field: str = "text",
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
    text_unit: TextUnit = "file",
) -> Source:
    """The rows of local files or of a dataset; nothing is downloaded but what describes them.

    `name` is a file, a directory or a glob pattern (.txt, .jsonl, .json, .parquet, possibly compressed), or the name
    of a dataset on the hub, of which `subset`, `split` and `revision` are chosen. A text file is one document unless
    `text_unit` cuts it; its line ends become "\\n". Raises ConfigError for whatever is missing or unreadable.
    """
    import datasets

    with _readable(name, ()):
        if files := local_files(name):
            reader = str(_format(files[0]))
            options = {"text": {"sample_by": _SAMPLE_BY[text_unit]}, "parquet": {"batch_size": _PARQUET_ROWS}}
            builder: Any = datasets.load_dataset_builder(reader, data_files=files, **options.get(reader, {}))
            version, n_rows, n_bytes = f"files {_digest(files)}", _parquet_rows(files), _text_bytes(files)
        else:
            builder = datasets.load_dataset_builder(name, subset, revision=revision)
            known = (builder.info.splits or {}).get(split)
            version, n_rows, n_bytes = f"revision {builder.hash}", known and known.num_examples, None
        rows = builder.as_streaming_dataset("train" if files else split).with_format("arrow")
    return Source(name, text_field, rows, version, n_rows or None, n_bytes or None, tuple(files))


def read(source: Source, position: Position, limit: int | None = None) -> Iterator[tuple[list[str], Position]]:
    """Documents from `position` on, some at a time, each time with the position behind them; null and empty ones are
    skipped. It ends at the `limit`-th document of the source. Raises ConfigError for what cannot be read.
    """
    with _readable(source.name, source.files, source.rows.state_dict):
        if position.state is not None:
            source.rows.load_state_dict(position.state)
        for table in source.rows.iter(_BATCH_ROWS):
            left = None if limit is None else limit - position.documents
            if left == 0:
                return
            texts = [text for text in _texts(table, source, position.rows) if text][:left]
            position = Position(
                rows=position.rows + len(table),
                documents=position.documents + len(texts),
                bytes=position.bytes + table.column(source.text_field).nbytes,
                state=source.rows.state_dict(),
            )
            yield texts, position


def _texts(table: Any, source: Source, first_row: int) -> list[str | None]:
    field = source.text_field
    if field not in table.column_names:
        has = ", ".join(sorted(table.column_names))
        raise ConfigError(f"text_field: {source.name!r} has no {field!r}, it has {has}")
    try:
        texts = table.column(field).to_pylist()
    except UnicodeDecodeError as error:  # the JSON reader lets it through
        where = f"rows {first_row} to {first_row + len(table) - 1} of {source.name!r}"
        raise ConfigError(f"source: {where} are not all UTF-8 ({error}); convert it") from error
    for row, text in enumerate(texts, first_row):
        if not isinstance(text, str | None):
            shown = f"{text!r:.40} in row {row} of {source.name!r}"
            raise ConfigError(f"text_field: {field!r} is {shown}, not text; name another field")
    return texts


def share_read(source: Source, position: Position, limit: int | None) -> float | None:
    """Estimated part of `source`, or of its first `limit` documents, that lies before `position`: 0 to 1, or unknown.

    By rows where their number is known, else by bytes of text, else by files.
    """
    of_limit = position.documents / limit if limit else 0.0
    if source.n_rows:
        part = position.rows / source.n_rows
    elif source.n_bytes:
        part = position.bytes / source.n_bytes
    elif source.rows.num_shards > 1 and (shard := _shard(position.state)) is not None:
        part = shard / source.rows.num_shards
    elif limit:
        part = 0.0
    else:
        return None
    return min(max(part, of_limit), 1.0)


def _shard(state: Any) -> int | None:
    """The file that an IterableDataset reads, found in the innermost part of its state."""
    if not isinstance(state, dict):
        return None
    return state["shard_idx"] if "shard_idx" in state else _shard(state.get("examples_iterable"))


@contextmanager
def _readable(name: str, files: tuple[str, ...], state: Any = lambda: None) -> Iterator[None]:
    """One line for whatever the network, the hub, pyarrow or a reader raise, each with types of its own."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        shard = _shard(state())
        where = repr(files[shard] if files and shard is not None else name)
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"source: {where} is not UTF-8 ({error}); convert it or leave it out") from error
        if isinstance(error, StopIteration):  # from the JSON reader
            raise ConfigError(f"source: {where} is empty; name files with documents in them") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"source: cannot read {where}: {reason}; check name, split, format and network") from error


def local_files(source: str) -> list[str]:
    """The files that `source` names, sorted; empty if it can only be the name of a dataset.

    Raises ConfigError if it names a path that is not there, or files of no or several known formats.
    """
    path = Path(source).expanduser()
    found = [f for f in path.rglob("*") if _format(f.name)] if path.is_dir() else map(Path, glob(str(path)))
    names = sorted(str(file) for file in found if file.is_file())
    if not names:
        if path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1 or _format(source):
            raise ConfigError(f"source: no file of {', '.join(_FORMATS)} at {source!r}; check the path")
        return []
    formats = {_format(name) for name in names}
    if formats == {None} or len(formats) > 1:
        kinds = ", ".join(sorted(kind or "unknown" for kind in formats))
        raise ConfigError(
            f"source: {source!r} holds files of the kinds {kinds}; name files of one kind of {', '.join(_FORMATS)}"
        )
    return names


def _format(name: str) -> str | None:
    """The reader for a file name; endings like .gz after the format do not matter."""
    return next((_FORMATS[suffix] for suffix in reversed(Path(name).suffixes) if suffix in _FORMATS), None)


def _digest(files: Iterable[str]) -> str:
    stats = [(name, (stat := Path(name).stat()).st_size, stat.st_mtime_ns) for name in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


def _parquet_rows(files: list[str]) -> int | None:
    import pyarrow.parquet

    if all(Path(name).suffix == ".parquet" for name in files):
        return sum(pyarrow.parquet.read_metadata(name).num_rows for name in files)
    return None


def _text_bytes(files: list[str]) -> int | None:
    if all(Path(name).suffix in (".txt", ".jsonl", ".json") for name in files):
        return sum(Path(name).stat().st_size for name in files)
    return None
