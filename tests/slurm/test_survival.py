"""A study that is signalled, requeued and killed again and again ends in the run table of one that was left alone.

SLURM_DISTURBANCES=20 does it at length (about 20 minutes), with a time limit that signals every task by itself.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from configs.rundir import ENDED, manifest_ids, read_json, read_metrics, read_status, run_dir_of
from launch.slurm.submission import submissions
from tests.processes import mentioning, send
from tests.ranks import run_bcrit
from tests.slurm.conftest import BASE

DISTURBANCES = int(os.environ.get("SLURM_DISTURBANCES", "2"))
AT_LENGTH = DISTURBANCES >= 20
KINDS = ["requeue", "rank", "launcher", "slurmstepd", *(["task", "node"] if AT_LENGTH else [])]
OFTEN = BASE.replace("{keep: none}", "{keep: none, every_seconds: 0.5}")
SHORT = f"""{OFTEN}
axes: {{budget_tokens: [2^17], batch_tokens: [2^8, 2^9], lr: [2^-8, 2^-6, 2^-4]}}
"""
LONG = f"""{OFTEN.replace("width: 32, base_width: 32, depth: 1", "width: 64, base_width: 32, depth: 4")}
axes: {{budget_tokens: [12500 * 2^6], batch_tokens: [2^6], lr: [2^-8, 2^-7], seed: [0, 1, 2]}}
"""
STUDY = LONG if AT_LENGTH else SHORT
# How long a run took, and on what, may differ, and somebody may commit meanwhile; nothing else may differ.
INCIDENTAL = ["tokens_per_s", "seconds", "startup_seconds", "peak_memory_bytes", "code_version"]
PATIENCE_S = 3600 if AT_LENGTH else 400


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir) -> Path:
    """The study on this machine, from beginning to end."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "s.yaml").write_text(f"name: s\n{STUDY}")
    code, said = run_bcrit("run", root / "s.yaml", "--out", root / "s", "--data-dir", data_dir, log=root / "log")
    assert code == 0, said
    return root / "s"


def science(study_dir: Path) -> pd.DataFrame:
    return build_table(study_dir).drop(columns=INCIDENTAL)


def elements(cluster, state: str) -> dict[str, str]:
    """Elements of arrays in that state, and the job that each of them is."""
    lines = [line.split() for line in cluster.run("squeue", "-h", "-r", "-t", state, "-o", "%i %A").splitlines()]
    return {element: job for element, job in lines if "_" in element}


def victims(study_dir: Path, cluster) -> dict[str, list[int]]:
    """Processes of a study by what they are."""
    command = {pid: words for pid in mentioning(str(study_dir)) if (words := command_of(pid))}
    jobs = elements(cluster, "RUNNING").values()
    daemons = [pid for job in jobs for pid in mentioning(f"slurmstepd: [{job}.")]
    return {
        "rank": [pid for pid, words in command.items() if words[-1:] and "--stop-file" in words and "-u" in words[:2]],
        "launcher": [pid for pid, words in command.items() if words[0] == "srun"],
        "slurmstepd": [pid for pid in daemons if ".batch]" not in command_of(pid)[0]],
        "task": [pid for pid, words in command.items() if "launch.slurm.task" in words],
    }


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    except OSError:
        return [""]


def test_signals_requeues_and_kills_leave_no_trace(undisturbed, user):
    study, out, chance = user.study("s", STUDY), user.home / "s", random.Random(6)
    limit = {"time_limit": "1:00", "signal_seconds": 30} if AT_LENGTH else {}
    done = user.bcrit("submit", study, "--site", user.site(concurrency=2, **limit), "--out", out)
    assert done.returncode == 0, done.stderr
    (submitted,) = submissions(out)
    keys = [f"{job}_{index}" for job, lines in submitted.jobs.items() for index in range(len(lines))]
    assert len(keys) >= 2
    # At length the time limit does it.
    todo = [] if AT_LENGTH else [("signal", key) for key in keys]
    todo += [(chance.choice(KINDS), "") for _ in range(DISTURBANCES)]
    chance.shuffle(todo)
    finished: dict[Path, str] = {}
    did: list[str] = []
    resubmitted = 0
    deadline, seen = time.monotonic() + PATIENCE_S, progress(out)
    while (queue := user.cluster.queue()) or left(out):
        assert time.monotonic() < deadline, f"{queue} {did} {user.logs(out)}"
        watch(out, finished)
        if not queue:  # a task that was killed itself has ended; only its user can start it again
            resubmitted += 1
            assert "submitted array" in user.bcrit("resubmit", out).stdout, user.logs(out)
        if todo and progress(out) > seen:
            if blow := next((b for b in todo if disturb(*b, out, user.cluster, chance)), None):
                todo.remove(blow)
                did.append(blow[0])
                time.sleep(chance.random() * (50 if AT_LENGTH else 4))
            seen = progress(out)
        time.sleep(0.3)
    said = user.logs(out)
    tasks = {path.stem: read_json(path)["runs"] for path in (out / "slurm" / "tasks").glob("*.json")}
    announced = Counter(run for key, runs in tasks.items() for run in runs * said.count(f" requeue {key}\n"))
    signals = [announced[identity] for identity in manifest_ids(out)]  # of each run, by whatever task had it
    attempts = sum(read_status(run_dir_of(out, identity)).attempt for identity in manifest_ids(out))
    print(f"{did}; ends of an allocation announced: {signals}; {said.count(' launch ')} launches, ")
    print(f"{attempts} attempts at {len(manifest_ids(out))} runs, {resubmitted} times resubmitted")
    assert not todo, f"the study ended before {todo}: make it longer"
    assert min(signals) >= (2 if AT_LENGTH else 1), said
    assert resubmitted <= did.count("task")
    pd.testing.assert_frame_equal(science(out), science(undisturbed), check_exact=True)
    for run_dir, status in finished.items():
        assert (run_dir / "status.json").read_text() == status, "a finished run was touched again"
    for run_dir in (out / "runs").glob("*"):
        tokens = [(row["kind"], row["tokens"]) for row in read_metrics(run_dir)]
        assert len(tokens) == len(set(tokens))
    assert (out / "report" / "index.html").exists()
    assert not mentioning(str(out)), "a process is left"


def left(study_dir: Path) -> list[str]:
    """Runs that have not ended."""
    return [i for i in manifest_ids(study_dir) if read_status(run_dir_of(study_dir, i)).state not in ENDED]


def progress(study_dir: Path) -> int:
    """Tokens on record so far."""
    return sum(read_status(run_dir).tokens for run_dir in (study_dir / "runs").glob("*"))


def watch(study_dir: Path, finished: dict[Path, str]) -> None:
    """Remember the status of runs that have finished, to see that it stays."""
    for run_dir in (study_dir / "runs").glob("*"):
        if run_dir not in finished and read_status(run_dir).state == "finished":
            finished[run_dir] = (run_dir / "status.json").read_text()


def disturb(how: str, key: str, study_dir: Path, cluster, chance: random.Random) -> bool:
    """One blow to a running study; whether there was something to hit."""
    running = elements(cluster, "RUNNING")
    if not running:
        return False
    if how == "signal":
        if key in running and f"launch {key}" in (study_dir / f"slurm/logs/{key}.log").read_text():
            cluster.run("scancel", "--signal=USR1", "--batch", key)
            return True
        return False
    if how == "requeue":
        cluster.run("scontrol", "requeue", chance.choice(sorted(running)))
        return True
    if how == "node":
        node = cluster.run("squeue", "-h", "-j", chance.choice(sorted(running)), "-o", "%N").strip()
        cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        return True  # it comes back by itself, since its daemon is well (ReturnToService)
    if not (pids := victims(study_dir, cluster)[how]):
        return False
    send([chance.choice(sorted(pids))], signal.SIGKILL)
    return True
