"""What a running study looks like: runs done, tokens per second, time left, and the runs under way."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.rundir import ENDED, Status, read_status

QUIET_PERIOD_S = 20.0  # between lines where there is no terminal to redraw


@dataclass(frozen=True)
class Snapshot:
    """Where a study stands, in tokens that its runs train themselves.

    Those of a diverged run count as all that it was to train: nothing is left to do.
    """

    states: Counter[str]
    tokens_done: int
    tokens_total: int

    def line(self, rate: float) -> str:
        """One line for people."""
        ended = sum(self.states[state] for state in ENDED)
        shown = sorted((state, count) for state, count in self.states.items() if state != "finished" and count)
        others = ", ".join(f"{count} {state}" for state, count in shown)
        left = f"{clock((self.tokens_total - self.tokens_done) / rate)} left" if rate > 0 else "time left unknown"
        done = f"{ended}/{self.states.total()} runs done" + (f" ({others})" if others else "")
        return f"{done}, {rate:,.0f} tokens/s, {left}"


def snapshots(run_dirs: list[Path], spans: list[tuple[int, int]]) -> Callable[[], Snapshot]:
    """A function that reads where the runs stand; the status of a run that has ended is read once.

    `spans`: tokens at which each run starts (a branch where it leaves its trunk) and its budget.
    """
    ended: dict[Path, Status] = {}

    def look() -> Snapshot:
        states: Counter[str] = Counter()
        done = 0
        for run_dir, (start, budget) in zip(run_dirs, spans, strict=True):
            status = ended.get(run_dir) or read_status(run_dir)
            if status.state in ENDED:
                ended[run_dir] = status
            states[status.state] += 1
            done += budget - start if status.state in ENDED else max(0, status.tokens - start)
        return Snapshot(states, done, sum(budget - start for start, budget in spans))

    return look


@contextmanager
def watching(console: Console, look: Callable[[], Snapshot]) -> Iterator[Callable[[], None]]:
    """Yields a function to call now and then: it redraws a progress bar, or prints a line without a terminal."""
    first, began, printed = look(), time.monotonic(), time.monotonic()
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting workers", total=first.tokens_total, completed=first.tokens_done)

        def watch() -> None:
            nonlocal printed, began
            now = look()
            if now.tokens_done == first.tokens_done:  # start-up is not speed
                began = time.monotonic()
            elapsed = time.monotonic() - began
            line = now.line((now.tokens_done - first.tokens_done) / elapsed if elapsed else 0.0)
            progress.update(task, completed=now.tokens_done, description=line)
            if not console.is_terminal and time.monotonic() - printed >= QUIET_PERIOD_S:
                console.print(line)
                printed = time.monotonic()

        yield watch


@contextmanager
def working(console: Console, what: str) -> Iterator[Callable[[float, float], None]]:
    """Yields advance(work done, work added): a bar with the time left, or a line now and then without a terminal.

    Work that is done at once when it is first reported (kept by an earlier call) is not counted as speed.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    began = printed = time.monotonic()
    done = kept = total = 0.0
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def advance(work: float, more: float) -> None:
            nonlocal done, kept, total, began, printed
            done, total, now = done + work, total + more, time.monotonic()
            if now - began < 1.0 and work:
                kept = done
            progress.update(task, completed=done, total=total)
            if not console.is_terminal and now - printed >= QUIET_PERIOD_S and done > kept:
                left = (total - done) * (now - began) / (done - kept)
                console.print(f"{what}: {100 * done / total:.0f} %, {clock(left)} left")
                printed = now

        yield advance


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
