"""The only file that calls SLURM's commands."""

import getpass
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from configs.errors import ConfigError

DEFAULT_MAX_ARRAY_SIZE = 1001  # SLURM's own
PATIENCE_S = 60.0

Key = tuple[int, int | None]  # array job and index in it; (job, None) for a job without an array


def available() -> bool:
    """Whether this machine can talk to a SLURM cluster."""
    return shutil.which("squeue") is not None


def submit(script: Path, after: Sequence[int] = ()) -> int:
    """Submit a script, to start when the jobs `after` have ended however they did; the job's id. Raises ConfigError."""
    dependency = [f"--dependency=afterany:{':'.join(map(str, after))}"] if after else []
    said = _call(["sbatch", "--parsable", *dependency, str(script)], f"sbatch refuses {script}")
    return int(said.split(";")[0])


def test(script: str) -> str:
    """What SLURM says of a script without submitting it. Raises ConfigError if it would refuse it."""
    done = _run(["sbatch", "--test-only"], "sbatch refuses this script", script)
    return " ".join((done.stdout + done.stderr).replace("sbatch: ", "").split())


def max_array_size() -> int:
    """The cluster's MaxArraySize; SLURM's default where there is no cluster to ask."""
    try:
        said = _call(["scontrol", "show", "config"], "scontrol show config")
    except ConfigError:
        return DEFAULT_MAX_ARRAY_SIZE
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
    return int(found[1]) if found else DEFAULT_MAX_ARRAY_SIZE


def queued() -> dict[Key, tuple[str, str]]:
    """This user's jobs that have not ended: state (PENDING, RUNNING, ...) and the reason why one waits."""
    command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%F|%K|%T|%r"]
    found: dict[Key, tuple[str, str]] = {}
    for line in _call(command, "squeue").splitlines():
        job, index, state, reason = line.split("|", 3)
        found[int(job), int(index) if index.isdigit() else None] = state, "" if reason == "None" else reason
    return found


def ended(jobs: Iterable[int]) -> dict[Key, str]:
    """How tasks of those jobs that have ended did so (TIMEOUT, OUT_OF_MEMORY, ...); empty without accounting."""
    ids = ",".join(map(str, jobs))
    if not ids or not shutil.which("sacct"):
        return {}
    command = ["sacct", "-n", "-P", "-X", "-j", ids, "-o", "JobID,State"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    found: dict[Key, str] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        job, _, state = line.partition("|")
        if match := re.fullmatch(r"(\d+)(?:_(\d+))?", job):
            found[int(match[1]), int(match[2]) if match[2] else None] = state.split()[0]
    return found


def cancel(jobs: Iterable[int], *, only_pending: bool = False) -> None:
    """Cancel jobs, or what of them has not started. Raises ConfigError."""
    if ids := [str(job) for job in jobs]:
        _call(["scancel", *(["--state=PENDING"] if only_pending else []), *ids], "scancel")


def cancel_step(step: str) -> None:
    """End the processes of a step, such as `123_4.0`. Raises ConfigError."""
    _call(["scancel", "--signal=KILL", step], f"scancel {step}")


def requeue(key: str) -> None:
    """Put a running job, such as `123_4`, back into the queue, which ends it. Raises ConfigError."""
    _call(["scontrol", "requeue", key], f"scontrol requeue {key}")


def steps(key: str) -> list[str]:
    """Steps of a running job that srun has started, such as `123_4.0`; none if that cannot be found out."""
    try:
        names = _call(["squeue", "-h", "-s", "-j", key.partition("_")[0], "-o", "%i"], "squeue").split()
    except ConfigError:
        return []
    return [name for name in names if name.startswith(f"{key}.") and name.rpartition(".")[2].isdigit()]


def hosts(nodelist: str) -> list[str]:
    """Names of nodes from a list such as `n[1-3]`. Raises ConfigError."""
    return _call(["scontrol", "show", "hostnames", nodelist], "scontrol show hostnames").split()


def address_of(node: str) -> str:
    """Where a node can be reached, for networks that do not know its name. Raises ConfigError."""
    found = re.search(r"NodeAddr=(\S+)", _call(["scontrol", "-o", "show", "node", node], "scontrol show node"))
    return found[1] if found else node


def _call(command: list[str], what: str) -> str:
    return _run(command, what).stdout


def _run(command: list[str], what: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, input=given)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]}: no such command here; run this where SLURM's commands are") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{what}: no answer in {PATIENCE_S:.0f} s; is the cluster's controller up?") from None
    if done.returncode:
        said = " ".join(re.sub(rf"{command[0]}: (error: )?", "", done.stderr or done.stdout).split())
        raise ConfigError(f"{what}: {said or f'exit code {done.returncode}'}")
    return done
