"""Claims between processes and machines: who has a run, when a claim is stale, and who must not write any more."""

import json
import os
import socket
import time

import pytest

from configs import claims
from configs.claims import LAUNCH, claim, heartbeat, lost, owner_of, release


@pytest.fixture(autouse=True)
def no_launch(monkeypatch):
    monkeypatch.delenv(LAUNCH, raising=False)


def by(run_dir, age_s: float = 0.0, **about: object) -> None:
    """A claim by somebody else, whose heart beat last `age_s` ago."""
    owner = {"host": "elsewhere", "pid": 1, "started": "1", "launch": None, "time": 0.0}
    (run_dir / "claim.json").write_text(json.dumps(owner | about))
    os.utime(run_dir / "claim.json", (time.time() - age_s,) * 2)


def test_a_claim_of_another_machine_is_stale_when_its_heart_stops(tmp_path):
    by(tmp_path, age_s=claims.HEARTBEAT_LIMIT_S - 60)
    assert not claim(tmp_path)
    by(tmp_path, age_s=claims.HEARTBEAT_LIMIT_S + 60)
    assert claim(tmp_path)
    assert owner_of(tmp_path)["host"] == socket.gethostname()


def test_a_later_launch_of_the_same_task_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setenv(LAUNCH, "7_3 1.0")
    by(tmp_path, launch="7_3 0.2")
    assert claim(tmp_path)
    release(tmp_path)
    by(tmp_path, launch="7_4 0.2")
    assert not claim(tmp_path), "another task of the array"
    by(tmp_path, launch=None)
    assert not claim(tmp_path), "no task at all"


def test_the_heart_beats_while_a_run_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.01)
    assert claim(tmp_path)
    os.utime(tmp_path / "claim.json", (0, 0))
    with heartbeat(tmp_path):
        deadline = time.monotonic() + 30
        while (tmp_path / "claim.json").stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (tmp_path / "claim.json").stat().st_mtime > 1
    os.utime(tmp_path / "claim.json", (0, 0))
    time.sleep(0.1)
    assert (tmp_path / "claim.json").stat().st_mtime == 0, "it has stopped"


def test_who_was_taken_over_knows_it_and_leaves_the_new_claim_alone(tmp_path):
    assert claim(tmp_path)
    assert not lost(tmp_path)
    by(tmp_path)
    assert lost(tmp_path)
    release(tmp_path)
    assert owner_of(tmp_path)["host"] == "elsewhere"
    assert not lost(tmp_path), "nothing is claimed any more"
    assert claim(tmp_path) is False


def test_a_missing_claim_is_lost_too(tmp_path):
    assert claim(tmp_path)
    (tmp_path / "claim.json").unlink()
    assert lost(tmp_path)


def test_a_claim_that_came_in_between_is_put_back(tmp_path):
    """Judged stale was another one: what is there now is kept."""
    by(tmp_path, pid=1)
    judged = (tmp_path / "claim.json").read_text()
    by(tmp_path, pid=2)
    assert not claims._removed(tmp_path / "claim.json", judged)
    assert owner_of(tmp_path)["pid"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["claim.json"]
