"""What a run is called and looks like in Weights & Biases, and the note beside it of what was sent there.

Line k of a run's history there is row k of `read_metrics`, whoever sends it: the mirror of a live run or `bcrit sync`.
So the number of lines on the server says what is missing, and sending a line again puts it where it was.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.identity import run_id
from configs.rundir import Status, read_json, write_atomic
from configs.schema import RunConfig

Row = dict[str, Any]


@dataclass(frozen=True)
class Described:
    """How a run is found in the workspace."""

    id: str  # content hash of what defines its result: the same in every attempt
    name: str
    group: str  # the study
    tags: tuple[str, ...]
    config: dict[str, Any]


def described(config: RunConfig, study: str) -> Described:
    """Name, group, tags and config of a run. Raises ConfigError if its data is not pinned."""
    return Described(
        id=run_id(config),
        name=f"{study}-N{config.model.width}-B{config.batch_tokens}-lr{config.lr:.3g}-s{config.seed}",
        group=study,
        tags=(config.model.parametrization, config.schedule.kind, config.precision),
        config=config.model_dump(mode="json"),
    )


def keyed(row: Row) -> Row:
    """A metrics row as W&B keys: train/loss, valid/loss, ... beside `tokens`; what is unknown is left out."""
    kind = row["kind"]
    named = {key: value for key, value in row.items() if key not in ("kind", "tokens", "step")}
    return {"tokens": row["tokens"]} | {f"{kind}/{key}": value for key, value in named.items() if value is not None}


def history(rows: Iterable[Row]) -> list[Row]:
    """The lines of a run's history: its metrics rows in order, numbered."""
    return [{"_step": number, **keyed(row)} for number, row in enumerate(rows)]


def outcome(status: Status) -> Row:
    """What a run's summary says beyond the last row: its state, its validation loss, and that at every readout."""
    readouts = {f"loss_{readout.tokens}": readout.loss for readout in status.readouts}
    last = {"loss": status.readouts[-1].loss} if status.state == "finished" and status.readouts else {}
    return {"state": status.state, **last, **readouts}


@dataclass(frozen=True)
class Sent:
    """The note `mirrored.json`: digests of the lines that a place has taken from `bcrit sync`."""

    place: str
    digests: tuple[str, ...] = ()

    def unchanged(self, digests: Sequence[str]) -> int:
        """How many of a history's first lines are what was sent; after a resume that rewound, later ones are not."""
        pairs = enumerate(zip(self.digests, digests, strict=False))
        shorter = min(len(self.digests), len(digests))
        return next((number for number, (known, now) in pairs if known != now), shorter)


def digest(line: Row) -> str:
    """8 hex digits of a line."""
    return hashlib.blake2b(json.dumps(line).encode(), digest_size=4).hexdigest()


def read_sent(run_dir: Path, place: str) -> Sent:
    """The note on `place`; that nothing was sent if there is none that can be read."""
    try:
        note = read_json(run_dir / "mirrored.json")
        return Sent(place, tuple(note["lines"])) if note["place"] == place else Sent(place)
    except (OSError, ValueError, KeyError, TypeError):
        return Sent(place)


def write_sent(run_dir: Path, sent: Sent) -> None:
    """Replace the note."""
    write_atomic(run_dir / "mirrored.json", json.dumps({"place": sent.place, "lines": sent.digests}) + "\n")


def place_of(server: str, entity: str, project: str) -> str:
    """A project on a server, as the note names it."""
    return f"{server.rstrip('/')}/{entity}/{project}"


def split_project(text: str | None) -> tuple[str | None, str | None]:
    """Entity and project of `[ENTITY/]PROJECT`. Raises ConfigError."""
    if not text:
        return None, None
    entity, _, project = text.rpartition("/")
    if not project or "/" in entity:
        raise ConfigError(f"{text}: write it as PROJECT or ENTITY/PROJECT")
    return entity or None, project
