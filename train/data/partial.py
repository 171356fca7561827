"""A corpus in the making: its shards, a journal of what of them is good, and who writes it.

It lies beside the corpus to be, as .NAME.partial: corpus/ becomes the corpus, journal.json says how much of it belongs
to how much of the source. The journal is replaced after the shards are on disk, so it never promises what a kill or a
power cut could take away; what was written beyond it is dropped when the work goes on.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from configs.claims import claim, heartbeat, release
from configs.errors import ConfigError
from configs.manifest import Split, SplitName
from configs.rundir import sync, write_atomic
from configs.schema import Frozen
from train.data.documents import Position
from train.data.pack import NOTHING, SplitWriter, make_parent, writable

JOURNAL = "journal.json"
Identity = dict[str, str | int | float | None]


class Journal(Frozen):
    """What is done of a corpus, and of which one."""

    version: Literal[1] = 1
    identity: Identity  # all that decides the tokens
    stage: int = 0  # number of the source that is being read
    position: Position = Position()
    train: Split = NOTHING
    valid: Split = NOTHING


def partial_of(out: Path) -> Path:
    """Where the corpus `out` is made."""
    return out.with_name(f".{out.name}.partial")


def remove_published(out: Path) -> None:
    """Remove what is left beside `out` of a call that was killed right after `out` had become complete."""
    partial = partial_of(out)
    if (partial / JOURNAL).exists() and not (partial / "corpus").exists():
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def working(out: Path, identity: Identity) -> Iterator[tuple[Path, Journal]]:
    """The partial directory of `out`, for this process alone, and how far it got.

    It is removed at the end, unless the block fails after something was journalled: then the same call goes on there.
    Raises ConfigError if another process works on it, if it holds another corpus than `identity` defines, or if it
    cannot be written.
    """
    partial = partial_of(out)
    with writable(out):
        make_parent(out)
        partial.mkdir(exist_ok=True)
        claimed = claim(partial)
    if not claimed:
        raise ConfigError(
            f"out: another process prepares {out}; wait for it, or, if it was killed on another machine, 5 minutes"
        )
    try:
        with writable(out):
            if not (partial / "corpus").exists():  # what is journalled was published, and is gone
                (partial / JOURNAL).unlink(missing_ok=True)
            journal = _read(partial) or Journal(identity=identity)
            _check(journal.identity, identity)
            (partial / "corpus").mkdir(exist_ok=True)
            with heartbeat(partial):
                yield partial, journal
        shutil.rmtree(partial, ignore_errors=True)
    except ConfigError as error:
        kept = f"{partial} keeps what is done: go on as it was begun, or remove it to start again"
        raise ConfigError(f"{error}; {kept}" if (partial / JOURNAL).exists() else str(error)) from error
    finally:
        if (partial / JOURNAL).exists():
            release(partial)
        else:
            shutil.rmtree(partial, ignore_errors=True)


def save(partial: Path, journal: Journal, writers: dict[SplitName, SplitWriter]) -> None:
    """Make what was written so far the state to go on from; `journal` says where in the sources that is."""
    train, valid = writers["train"].flush(), writers["valid"].flush()
    sync(partial / "corpus")
    done = journal.model_copy(update={"train": train, "valid": valid})
    write_atomic(partial / JOURNAL, done.model_dump_json(indent=1) + "\n")


def _read(partial: Path) -> Journal | None:
    path = partial / JOURNAL
    try:
        return Journal.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"{path}: not a journal of this version") from error


def _check(begun: Identity, asked: Identity) -> None:
    for name in begun | asked:
        if begun.get(name) != asked.get(name):
            raise ConfigError(f"{name}: it was begun with {begun.get(name)!r}, not {asked.get(name)!r}")
