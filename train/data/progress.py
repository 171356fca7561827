"""What the making of a corpus looks like: documents, tokens, tokens per second, time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

QUIET_PERIOD_S = 20.0  # between lines where there is no terminal to redraw

Report = Callable[[int, int, float | None], None]


@contextmanager
def showing(documents_before: int, tokens_before: int) -> Iterator[Report]:
    """A bar on stderr, or a line now and then without a terminal, told (documents, tokens, share of the source).

    What was there before is no speed. A share that is unknown is None; one that falls is the next source's. The last
    numbers are shown in any case.
    """
    console = Console(stderr=True)
    if documents_before:
        console.print(f"going on behind {documents_before:,} documents, {tokens_before:,} tokens")
    began = printed = time.monotonic()
    first: tuple[float, float] | None = None  # time and share of this source's first report
    done = "no documents"
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)

        def report(documents: int, tokens: int, share: float | None) -> None:
            nonlocal printed, first, done
            now = time.monotonic()
            done = (
                f"{documents:,} documents, {tokens:,} tokens, {(tokens - tokens_before) / (now - began):,.0f} tokens/s"
            )
            if share is not None and (first is None or share < first[1]):
                first = now, share
            shown = f"{done}, {time_left(first, (now, share))}"
            progress.update(task, total=None if share is None else 1.0, completed=share or 0.0, description=shown)
            if not console.is_terminal and now - printed >= QUIET_PERIOD_S:
                console.print(shown)
                printed = now

        yield report
        progress.update(task, description=done)
    if not console.is_terminal:
        console.print(done)


def time_left(first: tuple[float, float] | None, now: tuple[float, float | None]) -> str:
    """What the way from one (second, share of the work) to another says about the rest."""
    if first is None or now[1] is None or now[1] <= first[1]:
        return "time left unknown"
    seconds = (now[0] - first[0]) * (1 - now[1]) / (now[1] - first[1])
    return f"{timedelta(seconds=round(seconds))} left"
