"""Mistakes and bad luck on a real SLURM: a clear line, and nothing lost."""

import json
import os
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from configs.rundir import manifest_ids, read_status, run_dir_of
from launch.slurm.submission import submissions
from tests.slurm.conftest import BASE, submitted, wait_for

STUDY = f"{BASE}\naxes: {{budget_tokens: [2^12], batch_tokens: [2^8], lr: [2^-8, 2^-7, 2^-6]}}\n"
LONG = f"{BASE}\naxes: {{budget_tokens: [2^19], batch_tokens: [2^8], lr: [2^-8]}}\n"


def states(study_dir: Path) -> list[str]:
    return [read_status(run_dir_of(study_dir, identity)).state for identity in manifest_ids(study_dir)]


def test_a_partition_that_does_not_exist(user):
    out = user.home / "s"
    for dry in (["--dry-run"], []):
        site = user.site(partition="gpuu")
        done = user.bcrit("submit", user.study("s", STUDY), "--site", site, "--out", out, *dry)
        assert done.returncode == 2
        assert "invalid partition specified: gpuu" in done.stderr
        assert done.stderr.count("\n") == 1
    assert "nothing was submitted" in done.stderr
    assert not list((out / "slurm").glob("0*"))
    assert user.cluster.queue() == []
    status = user.bcrit("status", out)
    assert status.returncode == 1
    assert "3 runs: 3 pending" in status.stdout


def test_more_than_a_node_has(user):
    done = user.bcrit("submit", user.study("s", STUDY), "--site", user.site(cpus_per_task=64), "--dry-run")
    assert done.returncode == 2
    assert "Requested node configuration is not available" in done.stderr


def test_a_report_that_is_refused_takes_the_runs_back(user):
    site = user.site(extra="['--begin=now+1hour']", report="{time_limit: 10:00, partition: none}")
    done = user.bcrit("submit", user.study("s", STUDY), "--site", site, "--out", user.home / "s")
    assert done.returncode == 2
    assert "nothing was submitted" in done.stderr
    user.cluster.drain(20)
    assert submissions(user.home / "s") == []


def test_a_manifest_of_another_study_and_one_that_was_changed(user):
    mine, other = submitted(user, "mine", STUDY), submitted(user, "other", STUDY.replace("2^12", "2^11"))
    user.cluster.drain(120)
    before = build_table(mine)
    script = (mine / "slurm/001/array-0.sbatch").read_text()
    (theirs,) = re.findall(r"--manifest \S+ --sha256 \S+", (other / "slurm/001/array-0.sbatch").read_text())
    foreign = re.sub(r"--manifest \S+ --sha256 \S+", theirs, script)
    changed = re.sub(r"--sha256 \S+", "--sha256 0123456789abcdef", script)
    for text, words in (
        (foreign, "it is of study other, whose run"),
        (changed, "it was changed since it was submitted"),
    ):
        path = user.home / "wrong.sbatch"
        path.write_text(text)
        job = int(user.cluster.run("sbatch", "--parsable", path))
        user.cluster.drain(60)
        log = (mine / f"slurm/logs/{job}_0.log").read_text()
        (line,) = [line for line in log.splitlines() if "error" in line]
        assert words in line
        assert "submit" in line
        assert json.loads((mine / f"slurm/tasks/{job}_0.json").read_text())["code"] == 2
    pd.testing.assert_frame_equal(build_table(mine), before)


def test_a_run_that_fails_again_and_again_is_parked_and_the_others_finish(user):
    out = submitted(user, "s", STUDY, extra="['--hold']")
    bad = run_dir_of(out, manifest_ids(out)[0])
    (bad / "metrics.001.jsonl").mkdir()  # its record cannot be opened
    (sent,) = submissions(out)
    user.cluster.run("scontrol", "release", *sent.jobs)
    user.cluster.drain(200)
    assert sorted(states(out)) == ["failed", "finished", "finished"], user.logs(out)
    assert read_status(bad).failures == 3
    status = user.bcrit("status", out)
    assert status.returncode == 1
    assert "2 finished" in status.stdout
    (row,) = [line for line in status.stdout.splitlines() if line.split()[:1] == [bad.name]]
    assert "parked" in row
    assert "IsADirectoryError" in row
    again = user.bcrit("resubmit", out)
    assert "Nothing to submit" in again.stdout
    (bad / "metrics.001.jsonl").rmdir()
    assert "submitted array" in user.bcrit("resubmit", out, "--parked", "--site", user.site()).stdout
    user.cluster.drain(120)
    assert set(states(out)) == {"finished"}
    assert user.bcrit("status", out).returncode == 0


def test_cancel_checkpoints_and_resubmit_goes_on(user):
    out = submitted(user, "long", LONG)
    (run_dir,) = [run_dir_of(out, identity) for identity in manifest_ids(out)]
    wait_for(user, out, lambda: read_status(run_dir).tokens > 0)
    status = user.bcrit("status", out)
    assert status.returncode == 3
    (row,) = [line for line in status.stdout.splitlines() if line.split()[:1] == [run_dir.name]]
    assert re.search(r"running +\d+% +\d+:\d\d +\d+_0", row), row
    assert "Nothing to submit" in user.bcrit("resubmit", out).stdout, "its run is queued"
    done = user.bcrit("cancel", out)
    assert "1 running ones checkpoint and end" in done.stdout
    user.cluster.drain(60)
    assert read_status(run_dir).state == "preempted"
    tokens = read_status(run_dir).tokens
    assert (run_dir / "checkpoints" / f"{tokens:015d}").is_dir()
    assert user.bcrit("status", out).returncode == 1
    assert "submitted array" in user.bcrit("resubmit", out).stdout
    wait_for(user, out, lambda: read_status(run_dir).attempt == 2 and read_status(run_dir).tokens > tokens)
    assert read_status(run_dir).resumed == tokens
    assert "0 waiting" not in user.bcrit("cancel", out, "--now").stdout
    user.cluster.drain(60)
    assert "nothing of" in user.bcrit("cancel", out).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk: needs root")
def test_a_full_disk_ends_clearly_and_loses_nothing(user):
    disk = user.home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
    try:
        out = disk / "s"
        study = user.study("s", LONG.replace("2^19", "2^18").replace("{keep: none}", "{every_seconds: 0.5}"))
        filler = disk / "filler"
        fill(filler)
        refused = user.bcrit("submit", study, "--site", user.site(), "--out", out)
        assert refused.returncode == 2
        assert "No space left on device" in refused.stderr
        filler.unlink()
        assert user.bcrit("submit", study, "--site", user.site(), "--out", out).returncode == 0
        (run_dir,) = [run_dir_of(out, identity) for identity in manifest_ids(out)]
        wait_for(user, out, lambda: list((run_dir / "checkpoints").glob("[0-9]*[0-9]")))
        fill(filler)
        user.cluster.drain(200)
        assert read_status(run_dir).state != "finished", "the disk was filled too late"
        checkpoints = sorted(path.name for path in (run_dir / "checkpoints").glob("[0-9]*[0-9]"))
        assert checkpoints
        status = user.bcrit("status", out)
        assert status.returncode == 1
        assert re.search(r"only \S+ MB free where", status.stdout), status.stdout
        filler.unlink()
        assert "submitted array" in user.bcrit("resubmit", out).stdout
        user.cluster.drain(200)
        assert states(out) == ["finished"], user.logs(out)
        assert read_status(run_dir).resumed > 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with open(path, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
