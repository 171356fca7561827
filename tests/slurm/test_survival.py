"""A study that is signalled, requeued and killed again and again ends in the run table of one that was left alone.

SLURM_DISTURBANCES=20 does it at length (about 20 minutes), with a time limit that signals every task by itself.
"""

import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from configs.rundir import manifest_ids, read_metrics, read_status, run_dir_of
from launch.slurm.submission import submissions
from tests.processes import mentioning, send
from tests.ranks import run_bcrit
from tests.slurm.conftest import BASE

DISTURBANCES = int(os.environ.get("SLURM_DISTURBANCES", "3"))
AT_LENGTH = DISTURBANCES >= 20
STUDY = f"""{BASE.replace("{keep: none}", "{keep: none, every_seconds: 0.5}")}
axes:
  budget_tokens: [{"2^18, 2^20" if AT_LENGTH else "2^16, 2^17"}]
  batch_tokens: [2^8, 2^9]
  lr: [2^-8, 2^-6, 2^-4]
zipped:
  - seed: [{"0, 1" if AT_LENGTH else "0"}]
"""
# How long a run took, and on what, may differ; nothing else may.
INCIDENTAL = ["tokens_per_s", "seconds", "startup_seconds", "peak_memory_bytes", "study"]
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
    """Processes of a study by what they are; those of tasks themselves are SLURM's to end."""
    ours = mentioning(str(study_dir))
    command = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in ours if Path(f"/proc/{pid}").exists()
    }
    jobs = elements(cluster, "RUNNING").values()
    daemons = [
        pid for job in jobs for pid in mentioning(f"slurmstepd: [{job}.") if pid not in mentioning(f"[{job}.batch]")
    ]
    return {
        "rank": [pid for pid, words in command.items() if words[0].endswith(b"python") and b"-u" in words[:2]],
        "launcher": [pid for pid, words in command.items() if words[0] == b"srun"],
        "slurmstepd": daemons,
    }


def test_signals_requeues_and_kills_leave_no_trace(undisturbed, user):
    study, out, chance = user.study("s", STUDY), user.home / "s", random.Random(6)
    limit = {"time_limit": "2:00", "signal_seconds": 45} if AT_LENGTH else {}
    done = user.bcrit("submit", study, "--site", user.site(concurrency=2, **limit), "--out", out)
    assert done.returncode == 0, done.stderr
    (submitted,) = submissions(out)
    keys = [f"{job}_{index}" for job, lines in submitted.jobs.items() for index in range(len(lines))]
    assert len(keys) == 2
    signals = 0 if AT_LENGTH else 2  # by hand, each task; at length the time limit does it
    todo = [("signal", key) for key in keys for _ in range(signals)]
    todo += [(chance.choice(["requeue", "rank", "launcher", "slurmstepd"]), "") for _ in range(DISTURBANCES)]
    chance.shuffle(todo)
    finished: dict[Path, str] = {}
    did: list[str] = []
    deadline = time.monotonic() + PATIENCE_S
    seen = progress(out)
    while queue := user.cluster.queue():
        assert time.monotonic() < deadline, f"{queue} {did} {user.logs(out)}"
        watch(out, finished)
        if todo and progress(out) > seen and disturb(*todo[0], out, user.cluster, chance):
            did.append(todo.pop(0)[0])
            time.sleep(chance.random() * 4)
            seen = progress(out)
        time.sleep(0.3)
    print(did)
    assert not todo, f"the study ended before {todo}: make it longer"
    log = {key: (out / f"slurm/logs/{key}.log").read_text() for key in keys}
    signalled = {key: text.count(f"requeue {key}") for key, text in log.items()}
    print("announced ends of an allocation:", signalled, "launches:", {k: t.count(" launch ") for k, t in log.items()})
    assert min(signalled.values()) >= 2, user.logs(out)
    assert {read_status(run_dir_of(out, i)).state for i in manifest_ids(out)} <= {"finished", "diverged"}, user.logs(
        out
    )
    pd.testing.assert_frame_equal(science(out), science(undisturbed), check_exact=True)
    for run_dir, status in finished.items():
        assert (run_dir / "status.json").read_text() == status, "a finished run was touched again"
    for run_dir in (out / "runs").glob("*"):
        tokens = [(row["kind"], row["tokens"]) for row in read_metrics(run_dir)]
        assert len(tokens) == len(set(tokens))
    assert (out / "report" / "index.html").exists()
    assert not list(Path("/tmp").glob(f"bcrit-{keys[0].partition('_')[0]}*")), "caches are left on the node"


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
        record = study_dir / f"slurm/tasks/{key}.json"
        if (
            key not in running
            or not record.exists()
            or f"launch {key}" not in (study_dir / f"slurm/logs/{key}.log").read_text()
        ):
            return False
        cluster.run("scancel", "--signal=USR1", "--batch", key)
        return True
    if how == "requeue":
        cluster.run("scontrol", "requeue", chance.choice(sorted(running)))
        return True
    if not (pids := victims(study_dir, cluster)[how]):
        return False
    send([chance.choice(sorted(pids))], signal.SIGKILL)
    return True
