"""Sources of documents: the Python sources of this machine, local files, Hugging Face datasets."""

import hashlib
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any, Literal

from configs.errors import ConfigError

_FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_LARGEST_SOURCE = 1_000_000  # bytes; beyond it a .py file is a generated table
# This project's own packages, which may be installed: editing it must not change its data.
_OWN = {"configs", "train", "launch", "analysis"}

TextUnit = Literal["file", "paragraph", "line"]
_SAMPLE_BY = {"file": "document", "paragraph": "paragraph", "line": "line"}


def held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to validation: decided by its content alone, whatever else is in the corpus."""
    tail = hashlib.sha256(text.encode()).digest()[-8:]  # the head orders the embedded corpus
    return int.from_bytes(tail, "big") < fraction * 2**64


def python_roots() -> list[Path]:
    """The directories of the standard library and of the installed packages."""
    paths = sysconfig.get_paths()
    return sorted({Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def python_sources(roots: Sequence[Path], max_bytes: int) -> Iterator[str]:
    """The distinct *.py files under `roots` in the order of their sha256, up to `max_bytes` in all.

    Skipped: files that are empty, larger than 1 MB or not UTF-8; site-packages inside the standard library, which are
    another environment's or a root of their own; this project's own source.
    """
    by_digest: dict[bytes, Path] = {}
    for root in roots:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).parts
            if parts[0] in _OWN or parts[0].startswith("__editable__") or "site-packages" in parts:
                continue
            if (data := _source_bytes(path)) is not None:
                by_digest[hashlib.sha256(data).digest()] = path
    total = 0
    for digest in sorted(by_digest):
        text = by_digest[digest].read_bytes().decode()
        total += len(text.encode())
        if total > max_bytes:
            return
        yield text


def _source_bytes(path: Path) -> bytes | None:
    """The file's bytes if it is a document by the rules of `python_sources`."""
    try:
        if not 0 < path.stat().st_size <= _LARGEST_SOURCE:
            return None
        data = path.read_bytes()
        data.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return data


def dataset_documents(
    source: str,
    *,
    text_field: str = "text",
    subset: str | None = None,
    split: str = "train",
    text_unit: TextUnit = "file",
    streaming: bool = True,
) -> Iterator[str]:
    """Documents of local files or of a Hugging Face dataset, in their order; null and empty ones are skipped.

    `source` is a file, a directory or a glob pattern (.txt, .jsonl, .json, .parquet, possibly compressed), or the
    name of a dataset, of which `subset` and `split` are chosen. A text file is one document unless `text_unit` cuts
    it; its line ends become "\\n". Raises ConfigError for whatever is missing or unreadable.
    """
    import datasets

    load_dataset: Any = datasets.load_dataset  # its overloads tell streaming by a literal
    with _readable(source):
        if files := local_files(source):
            reader = str(_format(files[0]))
            options: dict[str, Any] = {"sample_by": _SAMPLE_BY[text_unit]} if reader == "text" else {}
            rows = load_dataset(reader, data_files=files, split="train", streaming=streaming, **options)
        else:
            rows = load_dataset(source, subset, split=split, streaming=streaming)
    return _texts(rows, text_field, source)


def _texts(rows: Iterable[Any], text_field: str, source: str) -> Iterator[str]:
    with _readable(source):
        for number, row in enumerate(rows):
            if text_field not in row:
                raise ConfigError(f"text_field: {source!r} has no {text_field!r}, it has {', '.join(sorted(row))}")
            text = row[text_field]
            if not isinstance(text, str | None):
                shown = f"{text!r:.40} in row {number} of {source!r}"
                raise ConfigError(f"text_field: {text_field!r} is {shown}, not text; name another field")
            if text:
                yield text


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """One line for whatever the network, the hub, pyarrow or a reader raise, each with types of its own."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"source: cannot read {source!r}: {reason}; check name, split, format and network") from error


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
