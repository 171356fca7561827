"""Who works on a run: a claim file created exclusively, which works on network file systems where locks do not.

A claim is stale when its process is dead (same host) or its run's heartbeat stopped (other host).
"""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from configs.rundir import read_status, write_atomic

HEARTBEAT_LIMIT_S = 600.0
TAKEOVER_LIMIT_S = 60.0


def process_alive(pid: int, started: str) -> bool:
    """Whether the process that had this pid and start time still runs (zombies do not count)."""
    return process_start(pid) == started


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, as text; empty if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def claim(run_dir: Path) -> bool:
    """Try to take a run; False if a live process has it. Takes over a stale claim."""
    path = run_dir / "claim.json"
    if path.exists() and not _clear_stale(path, run_dir):
        return False
    pid = os.getpid()
    mine = {"host": socket.gethostname(), "pid": pid, "started": process_start(pid), "time": time.time()}
    draft = path.with_name(f".claim.{pid}.tmp")
    write_atomic(draft, json.dumps(mine) + "\n")
    try:
        os.link(draft, path)  # fails if the claim exists: creation with content in one step
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _clear_stale(path: Path, run_dir: Path) -> bool:
    """Remove a claim that is stale; of several contenders one at a time looks and removes, the others give up."""
    turn = path.with_name("claim.takeover")
    with contextlib.suppress(FileNotFoundError):
        if time.time() - turn.stat().st_mtime > TAKEOVER_LIMIT_S:  # its owner died in between
            turn.unlink()
    try:
        os.close(os.open(turn, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    try:
        stale = _stale(path, run_dir)
        if stale:
            path.unlink(missing_ok=True)
        return stale
    finally:
        turn.unlink(missing_ok=True)


def release(run_dir: Path) -> None:
    """Give a run back, unless another process has taken it over meanwhile."""
    path = run_dir / "claim.json"
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        owner = json.loads(path.read_text())
        if (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid()):
            path.unlink(missing_ok=True)


def _stale(path: Path, run_dir: Path) -> bool:
    try:
        owner = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if owner["host"] == socket.gethostname():
        return not process_alive(owner["pid"], owner["started"])
    return time.time() - max(owner["time"], read_status(run_dir).updated) > HEARTBEAT_LIMIT_S
