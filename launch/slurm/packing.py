"""Which runs share a task of an array, as pure arithmetic on their estimated times."""

import heapq
from collections.abc import Sequence

from configs.errors import ConfigError

STARTUP_SHARE = 0.1  # of a task, at most, is start-up where runs are short


def tasks_wanted(total_s: float, startup_s: float, concurrency: int | None) -> int:
    """How many tasks to make of `total_s` seconds of training: as many as can run at a time.

    But no more than leave start-up at a tenth of each.
    """
    worthwhile = max(1, int(total_s * STARTUP_SHARE / startup_s))
    return min(worthwhile, concurrency or worthwhile)


def pack(seconds: Sequence[float], wanted: int, limit_s: float) -> tuple[tuple[int, ...], ...]:
    """Indices of runs by task: `wanted` tasks of about equal length, or more where they would be above `limit_s`.

    The longest run goes first, always to the task that has least (LPT). A run that is above the limit by itself has a
    task of its own, and goes on when that is requeued. Long tasks come first.
    """
    order = sorted(range(len(seconds)), key=lambda index: (-seconds[index], index))
    least = int(sum(min(length, limit_s) for length in seconds) / limit_s) if limit_s > 0 else len(order)
    count = max(1, wanted, least)
    while True:
        tasks: list[list[int]] = [[] for _ in range(min(count, len(order)))]
        loads = [(0.0, task) for task in range(len(tasks))]
        for index in order:
            load, task = heapq.heappop(loads)
            tasks[task].append(index)
            heapq.heappush(loads, (load + seconds[index], task))
        if all(load <= limit_s or len(tasks[task]) == 1 for load, task in loads):
            return tuple(tuple(task) for task in sorted(tasks, key=lambda task: -sum(seconds[i] for i in task)))
        count += 1


def arrays_of(count: int, max_array_size: int, concurrency: int | None) -> tuple[tuple[range, int | None], ...]:
    """Tasks 0 to `count` - 1 as arrays of at most `max_array_size`, each with its part of `concurrency`.

    The parts add up to `concurrency`, so that never more tasks run at a time. Raises ConfigError if one would be 0.
    """
    pieces = [range(first, min(first + max_array_size, count)) for first in range(0, count, max_array_size)]
    if concurrency is None or not pieces:
        return tuple((piece, None) for piece in pieces)
    if concurrency < len(pieces):
        raise ConfigError(
            f"concurrency = {concurrency}: {count} tasks make {len(pieces)} arrays of at most {max_array_size}, which "
            f"run side by side: use {len(pieces)} or more, or a longer time_limit"
        )
    share, rest = divmod(concurrency, len(pieces))
    return tuple((piece, share + (number < rest)) for number, piece in enumerate(pieces))
