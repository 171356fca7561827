"""What SLURM takes away by itself: the nodes, for somebody more urgent, and a step, when its slurmstepd is killed."""

import signal
from pathlib import Path

import pandas as pd

from analysis.table import build_table
from configs.rundir import Status, manifest_ids, read_status, run_dir_of
from tests.processes import send
from tests.ranks import run_bcrit
from tests.slurm.conftest import BASE, User, submitted, wait_for
from tests.slurm.test_survival import INCIDENTAL, victims

STUDY = f"""{BASE}
axes: {{budget_tokens: [2^18], batch_tokens: [2^7], lr: [2^-8, 2^-7]}}
"""


def started(user: User) -> Path:
    """The study on the cluster, when both of its runs are on their way."""
    out = submitted(user, "s", STUDY, concurrency=2)
    wait_for(user, out, lambda: all(status.tokens > 2**14 for status in statuses(out)))
    return out


def statuses(study_dir: Path) -> list[Status]:
    return [read_status(run_dir_of(study_dir, identity)) for identity in manifest_ids(study_dir)]


def test_preempted_tasks_checkpoint_and_go_on(user: User, data_dir: Path) -> None:
    """When the grace begins SLURM signals the ranks alone, which checkpoint; their task launches them once more."""
    out = started(user)
    urgent = user.home / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\n#SBATCH -p urgent -N 4 --exclusive --no-requeue\nsleep 5\n")
    user.cluster.run("sbatch", "--chdir", user.home, "-o", user.home / "urgent.log", urgent)
    user.cluster.drain(200)
    assert {status.state for status in statuses(out)} == {"finished"}, user.logs(out)
    assert all(status.resumed > 2**14 for status in statuses(out)), user.logs(out)
    alone = user.home / "alone" / "s"  # a study is called by its folder
    code, said = run_bcrit("run", user.home / "s.yaml", "--out", alone, "--data-dir", data_dir, log=user.home / "log")
    assert code == 0, said
    tables = [build_table(study).drop(columns=INCIDENTAL) for study in (out, alone)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_task_goes_on_at_once_when_slurmstepd_dies(user: User) -> None:
    """SLURM keeps the step, with its CPUs, until the job ends: 22.05 starts no other step that does not overlap."""
    out = started(user)
    send(victims(out, user.cluster)["slurmstepd"], signal.SIGKILL)
    wait_for(user, out, lambda: all(status.attempt == 2 and status.tokens > status.resumed for status in statuses(out)))
    assert all(status.resumed > 0 for status in statuses(out))
    assert "2 running ones" in user.bcrit("cancel", out, "--now").stdout
