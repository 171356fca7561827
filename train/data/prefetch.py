"""Batches made ahead of the step that needs them, so that a slow disk does not hold up the device."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")
AHEAD = 2  # steps


def prefetched(make: Callable[[K], T], keys: Iterable[K]) -> Generator[tuple[K, T]]:
    """(key, make(key)) for each key in order, made AHEAD keys in advance in a thread; its errors are raised here."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        coming = deque()
        for key in keys:
            coming.append((key, thread.submit(make, key)))
            if len(coming) > AHEAD:
                done, batch = coming.popleft()
                yield done, batch.result()
        for done, batch in coming:
            yield done, batch.result()
