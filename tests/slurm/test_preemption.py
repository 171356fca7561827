"""A job of somebody more urgent takes the nodes away: SLURM itself ends the tasks and puts them back."""

import time

from configs.rundir import read_status
from tests.slurm.conftest import BASE

STUDY = f"""{BASE}
axes: {{budget_tokens: [2^18], batch_tokens: [2^7], lr: [2^-8, 2^-7]}}
"""


def test_preempted_tasks_checkpoint_and_go_on(user):
    study, out = user.study("s", STUDY), user.home / "s"
    assert user.bcrit("submit", study, "--site", user.site(concurrency=2), "--out", out).returncode == 0
    while not all(read_status(run).tokens > 2**14 for run in runs) if (runs := list(out.glob("runs/*"))) else True:
        assert user.cluster.queue(), user.logs(out)
        time.sleep(0.2)
    urgent = user.home / "urgent.sbatch"
    urgent.write_text("#!/bin/bash\n#SBATCH -p urgent -N 4 --exclusive --no-requeue\nsleep 5\n")
    user.cluster.run("sbatch", "--chdir", user.home, "-o", user.home / "urgent.log", urgent)
    before = {run.name: read_status(run).tokens for run in out.glob("runs/*")}
    user.cluster.drain(240)
    statuses = {run.name: read_status(run) for run in out.glob("runs/*")}
    print({k: (s.state, s.attempt, s.resumed, before[k]) for k, s in statuses.items()}, user.logs(out))
    assert {status.state for status in statuses.values()} == {"finished"}
