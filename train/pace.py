"""How fast the steps go, and what they wait for."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

T = TypeVar("T")
PACE = ("tokens_per_s", "mfu", "step_ms_p50", "step_ms_p95", "data_wait")  # the keys of a metrics row that time fills


class Pace:
    """Times the steps of one attempt; validation and checkpoints are left out.

    Times are the host's: a GPU may lag behind within a record, and is waited for at its end.
    """

    def __init__(self, batch_tokens: int, mfu: Callable[[float], float | None]) -> None:
        self._batch_tokens, self._mfu = batch_tokens, mfu  # of tokens per second
        self._steps: list[float] = []  # seconds, since the last record
        self._waited = 0.0  # of them for data
        self._count, self._seconds = 0, 0.0  # since the start of the attempt
        self._mark = time.perf_counter()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; the time until each is there counts as waiting."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - began
            yield batch

    def step(self) -> None:
        """A step has ended."""
        now = time.perf_counter()
        self._steps.append(now - self._mark)
        self._count, self._seconds = self._count + 1, self._seconds + now - self._mark
        self._mark = now

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is no part of any step."""
        began = time.perf_counter()
        yield
        self._mark += time.perf_counter() - began

    def tokens_per_s(self) -> float:
        """Training speed of the attempt so far."""
        return self._count * self._batch_tokens / self._seconds

    def record(self) -> dict[str, float | None]:
        """The values of PACE: speed and MFU over the attempt (None on a device whose peak is not known), the rest since
        the last record: milliseconds of a step at the median and the 95th percentile, share of the time spent waiting
        for data.
        """
        rate, total = self.tokens_per_s(), sum(self._steps)
        median, late = np.percentile(self._steps, (50, 95)) * 1000
        share = self._waited / total
        self._steps, self._waited = [], 0.0
        values = (rate, self._mfu(rate), round(float(median), 3), round(float(late), 3), round(share, 4))
        return dict(zip(PACE, values, strict=True))
