"""A Weights & Biases Report as the client reads it: its words and panels, the runs that its panels show, and the files
of its analysis run, which are a local report."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

FILES = re.compile(r"index\.html|laws\.json|table\.csv|data/[\w-]+\.csv")  # as `bcrit report --wandb` logs them
_ANALYSIS = re.compile(r"analysis-[0-9a-f]{12}")
PAGE = 200  # runs a request


@dataclass(frozen=True)
class LiveRun:
    """A run as the server has it; `loss` by tokens, in nats."""

    state: str
    loss: dict[int, float]


@dataclass(frozen=True)
class Lines:
    """A panel of curves: its title and those of its axes."""

    title: str
    title_x: str
    title_y: str


@dataclass(frozen=True)
class Published:
    """`words`: the text as Markdown. `media`: keys that its media panels show. `run`: the analysis run, which
    `files_of` has put into a directory."""

    words: str
    run: str
    media: frozenset[str] = frozenset()
    lines: tuple[Lines, ...] = ()
    runs: dict[str, LiveRun] = field(default_factory=dict)


def fetch(url: str, folder: Path) -> Published:
    """Read the Report at `url` and put the files of its analysis run into `folder`.

    Raises ConfigError without the Report, its analysis run, a key or the network.
    """
    import wandb
    from wandb_workspaces.reports.v2.interface import Report

    try:
        report: Any = Report.from_url(url)  # annotated there as its inner form
        place = f"{report.entity}/{report.project}"
        panels = [panel for block in _blocks(report.blocks) for panel in getattr(block, "panels", ())]
        named = _ANALYSIS.search(report.description or "") or _ANALYSIS.search(repr(report.blocks))
        if named is None:
            raise ConfigError(f"{url}: it names no analysis run; publish it with `bcrit report --wandb`")
        api = wandb.Api(timeout=60)
        analysis_run = api.run(f"{place}/{named[0]}")
        for file in analysis_run.files():
            if FILES.fullmatch(file.name):
                file.download(root=str(folder), replace=True).close()
        return Published(
            words=words_of(report.blocks),
            run=named[0],
            media=frozenset(key for panel in panels for key in getattr(panel, "media_keys", None) or ()),
            lines=tuple(_lines(panel) for panel in panels if type(panel).__name__ == "LinePlot"),
            runs=_runs(api, place, folder / "table.csv"),
        )
    except ConfigError:
        raise
    except (wandb.Error, OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{url}: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def words_of(blocks: Iterable[Any]) -> str:
    """Markdown, headings, paragraphs and lists of a Report, also those that were edited into blocks of their own."""
    parts = []
    for block in _blocks(blocks):
        match type(block).__name__:
            case "MarkdownBlock":
                parts.append(block.text)
            case "H1" | "H2" | "H3" as kind:
                parts.append(f"{'#' * int(kind[1])} {_text(block.text)}")
            case "P" | "BlockQuote":
                parts.append(_text(block.text))
            case "UnorderedList" | "OrderedList":
                parts.append("\n".join(f"- {_text(item)}" for item in block.items))
    return "\n\n".join(parts)


def _blocks(blocks: Iterable[Any]) -> Iterator[Any]:
    """The blocks with those that are folded below a heading."""
    for block in blocks:
        yield block
        yield from _blocks(getattr(block, "collapsed_blocks", None) or ())


def _text(text: Any) -> str:
    if isinstance(text, list):
        return "".join(map(_text, text))
    return text if isinstance(text, str) else str(getattr(text, "text", ""))


def _lines(panel: Any) -> Lines:
    return Lines(panel.title or "", panel.title_x or "", panel.title_y or "")


def _runs(api: Any, place: str, table: Path) -> dict[str, LiveRun]:
    """The runs of the table's studies, by id."""
    import pandas as pd

    if not table.exists():
        return {}
    runs = pd.read_csv(table, dtype=str)
    studies = sorted(runs["study"].dropna().unique()) if "study" in runs else []
    wanted = {"$or": [{"group": study} for study in studies]}
    found = api.runs(place, filters=wanted, per_page=PAGE, lazy=False) if studies else ()
    return {run.id: LiveRun(run.summary.get("state") or run.state, _losses(run.summary)) for run in found}


def _losses(summary: Any) -> dict[int, float]:
    losses = {key: value for key, value in dict(summary).items() if re.fullmatch(r"loss_\d+", key)}
    return {int(key[5:]): float(value) for key, value in losses.items() if isinstance(value, int | float)}
