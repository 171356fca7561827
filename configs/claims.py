"""Who works on a run: a claim file created exclusively, which works on network file systems where locks do not.

A claim is stale when its process is dead (same host), when a later launch of the same task asks for it (its processes
are gone), or when its heartbeat stopped (other host). Its heartbeat is its own modification time, compared with that of
a file created just then, so that both are told by the file system's clock. Who lost a claim to another process, because
its machine was out of reach for a while, must not write any more: `lost` says so.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.rundir import write_atomic

HEARTBEAT_S = 30.0
HEARTBEAT_LIMIT_S = 300.0  # network file systems may show an old time for a minute
TAKEOVER_LIMIT_S = 60.0
LAUNCH = "BCRIT_LAUNCH"  # environment: a task of a cluster and its launch, such as `123_4 0.2`
TAKEN_OVER = "another process has taken this run over; this one writes no more of it"
_claimed: set[Path] = set()  # by this process


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
    if path.exists() and not _clear_stale(path):
        return False
    draft = path.with_name(f".claim.{os.getpid()}.tmp")
    write_atomic(draft, json.dumps(_me() | {"time": time.time()}) + "\n")
    try:
        os.link(draft, path)  # fails if the claim exists: creation with content in one step
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    _claimed.add(run_dir)
    return True


def owner_of(run_dir: Path) -> dict[str, Any]:
    """Host, process and launch that have a run; empty if none has."""
    try:
        return json.loads((run_dir / "claim.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def heard(run_dir: Path) -> float:
    """Unix time of the last heartbeat of a run's owner; 0 if nobody has it."""
    try:
        return (run_dir / "claim.json").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def lost(run_dir: Path) -> bool:
    """Whether this process has claimed the run and another one has taken it over since."""
    return run_dir in _claimed and not _is_mine(owner_of(run_dir))


@contextlib.contextmanager
def heartbeat(run_dir: Path) -> Iterator[None]:
    """Keep the claim of this process alive meanwhile."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                if _is_mine(owner_of(run_dir)):
                    os.utime(run_dir / "claim.json")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def release(run_dir: Path) -> None:
    """Give a run back, unless another process has taken it over meanwhile."""
    if _is_mine(owner_of(run_dir)):
        (run_dir / "claim.json").unlink(missing_ok=True)
    _claimed.discard(run_dir)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": process_start(pid), "launch": os.environ.get(LAUNCH)}


def _is_mine(owner: dict[str, Any]) -> bool:
    return all(owner.get(key) == value for key, value in _me().items())


def _clear_stale(path: Path) -> bool:
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
        judged = path.read_text()
        age = turn.stat().st_mtime - path.stat().st_mtime
        return _stale(judged, age) and _removed(path, judged)
    except FileNotFoundError:  # given back just now
        return True
    finally:
        turn.unlink(missing_ok=True)


def _removed(path: Path, judged: str) -> bool:
    """Remove exactly the claim that was judged: one that came in its place meanwhile is put back."""
    aside = path.with_name(f".claim.{secrets.token_hex(4)}.stale")
    os.rename(path, aside)
    try:
        if aside.read_text() == judged:
            return True
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        return False
    finally:
        aside.unlink(missing_ok=True)


def _stale(content: str, age_s: float) -> bool:
    """Whether the owner of a claim is gone, whose heart beat last `age_s` ago."""
    try:
        owner = json.loads(content)
    except json.JSONDecodeError:
        return False
    if _same_task_earlier(owner.get("launch")):
        return True
    if owner["host"] == socket.gethostname():
        return not process_alive(owner["pid"], owner["started"])
    return age_s > HEARTBEAT_LIMIT_S


def _same_task_earlier(launch: str | None) -> bool:
    """Whether a claim is of another launch of this process's own task, which has one launch at a time."""
    mine = os.environ.get(LAUNCH)
    return bool(mine and launch and launch != mine and launch.split()[0] == mine.split()[0])
