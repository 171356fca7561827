"""Which runs share a task of an array, as pure arithmetic on their estimated times."""

from collections.abc import Sequence

from configs.errors import ConfigError

STARTUP_SHARE = 0.1  # of a task, at most, is start-up where runs are short


def capacity_of_task(total_s: float, limit_s: float, startup_s: float, concurrency: int | None) -> float:
    """Seconds of training to put into a task.

    An even share of all for `concurrency` tasks at a time, but long enough that start-up is a tenth of it, and no more
    than a task's time limit has room for.
    """
    fair = total_s / concurrency if concurrency else 0.0
    return max(0.0, min(limit_s - startup_s, max(fair, startup_s / STARTUP_SHARE)))


def pack(seconds: Sequence[float], capacity_s: float) -> tuple[tuple[int, ...], ...]:
    """Indices of runs by task: first-fit decreasing, so that no task is longer than `capacity_s`.

    A run that is longer by itself has a task of its own, and goes on when that is requeued. Long tasks come first.
    """
    tasks: list[list[int]] = []
    room: list[float] = []
    for index in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        place = next((task for task, left in enumerate(room) if seconds[index] <= left), None)
        if place is None:
            place = len(tasks)
            tasks.append([])
            room.append(capacity_s)
        tasks[place].append(index)
        room[place] -= seconds[index]
    return tuple(tuple(task) for task in sorted(tasks, key=lambda task: -sum(seconds[i] for i in task)))


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
