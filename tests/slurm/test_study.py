"""A study from `bcrit submit` to its report on a real SLURM."""

import json
import time

import pytest

from analysis.table import build_table
from configs.rundir import manifest_ids, read_config, read_status, run_dir_of
from launch.slurm.submission import submissions
from tests.slurm.conftest import BASE

FORTY = f"""{BASE}
axes:
  budget_tokens: 2^11..2^13
  batch_tokens: 2^7..2^10
  lr: 2^-10..2^-6
  seed: [0, 1]
"""


@pytest.fixture
def forty(user):
    """40 runs, submitted; at most 3 tasks at a time, and arrays of at most 2."""
    site = user.site(concurrency=3, max_array_size=2)
    done = user.bcrit("submit", user.study("forty", FORTY), "--site", site, "--out", user.home / "forty")
    assert done.returncode == 0, done.stdout + done.stderr
    return user.home / "forty"


def test_forty_runs_under_a_concurrency_limit_come_to_their_report(user, forty):
    (submitted,) = submissions(forty)
    assert len(submitted.jobs) > 1, "longer arrays than MaxArraySize are split"
    assert all(len(tasks) <= 2 for tasks in submitted.jobs.values())
    packed = sorted(identity for task in submitted.tasks for identity in task)
    assert packed == sorted(manifest_ids(forty))
    assert len(packed) == 40
    most, deadline = 0, time.monotonic() + 600
    while queue := user.cluster.queue():
        assert time.monotonic() < deadline, queue
        tasks = [line for line in queue if "_" in line.split()[0] and line.endswith("RUNNING")]
        most = max(most, len(tasks))
        report = [line for line in queue if line.startswith(f"{submitted.report} ")]
        assert report, "the report waits for the runs"
        assert not tasks or report[0].endswith("PENDING")
        time.sleep(0.2)
    assert most == 3
    table = build_table(forty)
    assert len(table) == 40 * 3
    assert set(table["status"]) == {"finished"}
    assert table["loss"].notna().all()
    assert set(table["code_version"]) == {(forty / "slurm" / _code(forty) / "CODE_VERSION").read_text().strip()}
    assert (forty / "report" / "index.html").stat().st_size > 100_000, user.logs(forty)
    assert json.loads((forty / "laws.json").read_text())["cells"]
    tasks = list((forty / "slurm" / "tasks").glob("*.json"))
    assert [json.loads(path.read_text())["code"] for path in tasks] == [0] * len(submitted.tasks)


def _code(study_dir):
    return json.loads((study_dir / "slurm/001/submission.json").read_text())["code"]


DECAY = BASE.replace("engine:", "schedule: {kind: wsd, decay_fraction: 0.5}\n  engine:")
TRUNK = f"""{DECAY}
trunk: {{at: decay}}
axes: {{budget_tokens: [2^11, 2^12], batch_tokens: [2^8]}}
"""


def test_trunks_are_an_array_before_that_of_their_branches(user):
    out = user.home / "trunks"
    done = user.bcrit("submit", user.study("trunks", TRUNK), "--site", user.site(), "--out", out)
    assert done.returncode == 0, done.stderr
    (submitted,) = submissions(out)
    trunks, branches = sorted(submitted.jobs)
    parents = {read_config(run_dir_of(out, i)).branch.parent for i in submitted.runs((branches, 0))}
    assert parents == set(submitted.runs((trunks, 0)))
    assert f"afterany:{trunks}_*" in user.cluster.run("squeue", "-h", "-j", branches, "-o", "%E")
    user.cluster.drain(200)
    assert {read_status(run_dir_of(out, i)).state for i in manifest_ids(out)} == {"finished"}, user.logs(out)
