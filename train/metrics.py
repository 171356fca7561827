"""The run's own record, written by rank 0 alone: metrics appended line by line, the status file replaced."""

import json
import time
from pathlib import Path
from typing import Any

from configs.claims import TAKEN_OVER, lost
from configs.rundir import Status, metrics_path, write_status
from train.engine import peak_memory_bytes

INTERVAL_S = 2.0


class Record:
    """Writes one attempt's metrics and status; on other ranks than 0 it writes nothing."""

    def __init__(self, run_dir: Path, status: Status, writes: bool) -> None:
        self.run_dir, self.status, self._writes = run_dir, status, writes
        self._written = 0.0
        self._file = metrics_path(run_dir, status.attempt).open("a") if writes else None
        self.row({"kind": "resume", "tokens": status.tokens})
        self.update(state="running", now=True)

    def row(self, row: dict[str, Any]) -> None:
        """Append one metrics row; it is flushed to the system at once, so a dying process loses none."""
        if self._file:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def update(self, now: bool = False, **changes: Any) -> None:
        """Change the status; the file follows at once if `now`, else at most every INTERVAL_S seconds.

        Raises RuntimeError, on this rank alone, if another process has taken the run over.
        """
        self.status = self.status.model_copy(update=changes)
        if self._writes and (now or time.monotonic() - self._written > INTERVAL_S):
            if lost(self.run_dir):
                raise RuntimeError(TAKEN_OVER)
            measured = {"updated": time.time(), "peak_memory_bytes": peak_memory_bytes()}
            self.status = self.status.model_copy(update=measured)
            write_status(self.run_dir, self.status)
            self._written = time.monotonic()

    def close(self) -> None:
        """Close the metrics file."""
        if self._file:
            self._file.close()
