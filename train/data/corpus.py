"""The embedded corpus' documents, the Python sources of this machine, and which documents are held out."""

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.manifest import SplitName

_LARGEST_SOURCE = 1_000_000  # bytes; beyond it a .py file is a generated table
# This project's own packages, which may be installed: editing it must not change its data.
_OWN = {"configs", "train", "launch", "analysis"}


def split_of(text: str, valid_fraction: float) -> SplitName:
    """Which split a document belongs to: decided by its content alone, whatever else is in the corpus."""
    tail = hashlib.sha256(text.encode()).digest()[-8:]  # the head orders the embedded corpus
    return "valid" if int.from_bytes(tail, "big") < valid_fraction * 2**64 else "train"


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
