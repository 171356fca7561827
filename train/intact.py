"""Folders that know their own content: a manifest with the size and sha256 of every file, checked by all ranks."""

import hashlib
import json
from pathlib import Path

from configs.rundir import read_json, sync, write_json
from train.ranks import gathered, on_rank_0, rank, world

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Sync every file below `folder` to disk and write its manifest. Called on all ranks, which share the work."""
    # One list for all: on a network disk ranks may not yet see the same files, and none must fall between them.
    names = on_rank_0(lambda: sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    mine = {}
    for name in names[rank() :: world()]:
        sync(folder / name)
        mine[name] = (folder / name).stat().st_size, sha256_of(folder / name)
    files = {name: entry for part in gathered(mine) for name, entry in part.items()}
    if rank() == 0:
        write_json(folder / MANIFEST, files)
        for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
            sync(inner)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder; None if its files are as written. Called on all ranks, which share them."""
    files = on_rank_0(lambda: _manifest(folder / MANIFEST))
    if isinstance(files, str):
        return files
    problems = (_differs(folder / name, *files[name]) for name in sorted(files)[rank() :: world()])
    found = [problem for problem in gathered(next(filter(None, problems), None)) if problem]
    return found[0] if found else None


def sha256_of(path: Path) -> str:
    """Checksum of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(path: Path) -> dict[str, tuple[int, str]] | str:
    try:
        files = {name: (size, digest) for name, (size, digest) in read_json(path).items()}
        return files or "its manifest is empty"
    except FileNotFoundError:
        return "it has no manifest"
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError):
        return "its manifest cannot be read"


def _differs(path: Path, size: int, sha256: str) -> str | None:
    try:
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size} bytes, not {size}"
        return None if sha256_of(path) == sha256 else f"{path.name} differs from its checksum"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
