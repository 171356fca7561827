"""`bcrit sync` against the stand-in server: whatever happens, the server ends up with each row once."""

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch.wandb_sync
from configs.mirrored import history, read_sent
from configs.rundir import read_metrics
from launch.cli import main
from launch.wandb_server import ServerError, UnreachableError, server_at
from launch.wandb_sync import Replayed, jobs_of, sync
from tests.processes import ENVIRONMENT, bcrit_command
from tests.wandb_server import ENTITY, KEY, Fault, Server, serving
from tests.written import write_attempt, written_config, written_study

RUNS, ROWS = map(int, os.environ.get("SYNC_SIZE", "12x40").split("x"))  # of the test with a failing server


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as up:
        yield up


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The directory of a study's only run."""
    return written_study(tmp_path / "study", [written_config()])[0]


def replay(server: Server, study: Path, timeout_s: float = 60.0) -> list[Replayed]:
    client = server_at(server.url, KEY, (timeout_s, timeout_s))
    return sync(client, jobs_of(study, client, None, None), lambda replayed: None)


def study_of(run_dir: Path) -> Path:
    return run_dir.parent.parent


def assert_mirrored(server: Server, run_dir: Path) -> None:
    """The server has the run's rows, each once, in order; lines that were emptied beyond them count for nothing."""
    found = [row for row in server.run(run_dir.name).rows() if set(row) != {"_step"}]
    assert found == history(read_metrics(run_dir))
    assert server.unknown == []


def test_a_study_is_replayed_once(server, tmp_path):
    study = tmp_path / "study"
    run_dirs = written_study(study, [written_config(seed=seed) for seed in range(3)])
    for run_dir in run_dirs:
        write_attempt(run_dir, 1, 0, 5, "finished")
    assert [(done.lines, done.failure) for done in replay(server, study)] == [(7, "")] * 3
    for run_dir in run_dirs:
        assert_mirrored(server, run_dir)
    run = server.run(run_dirs[1].name)
    assert run.state == "finished"
    assert run.fields == {
        "group": "study",
        "displayName": "study-N64-B1024-lr0.00781-s1",
        "tags": ["mup", "constant", "fp32"],
    }
    assert run.config["model"]["value"]["width"] == 64
    assert run.config["_wandb"]["value"]["m"][0]["2"] == "*"
    assert run.summary["tokens"] == 5 * 2**10
    assert run.summary["loss"] == run.summary["valid/loss"] == run.summary["loss_5120"] == 2.5


def test_a_second_time_nothing_is_sent(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    replay(server, study_of(one))
    before = len(server.requests)
    assert [done.lines for done in replay(server, study_of(one))] == [0]
    assert server.requests[before:] == ["/graphql Viewer", "/graphql Runs"]
    (one / "mirrored.json").unlink()  # then it cannot know, and sends them to the same places
    assert [done.lines for done in replay(server, study_of(one))] == [7]
    assert_mirrored(server, one)


def test_a_run_that_goes_on(server, one):
    write_attempt(one, 1, 0, 5, "running")
    replay(server, study_of(one))
    assert server.run(one.name).state == "running"
    assert_mirrored(server, one)
    write_attempt(one, 1, 0, 9, "preempted")
    assert [done.lines for done in replay(server, study_of(one))] == [4]
    assert server.run(one.name).state == "preempted"
    write_attempt(one, 2, 9, 20, "finished")
    replay(server, study_of(one))
    assert server.run(one.name).state == "finished"
    assert_mirrored(server, one)


def test_a_resume_that_rewound_replaces_what_was_undone(server, one):
    write_attempt(one, 1, 0, 15, "running")
    replay(server, study_of(one))
    write_attempt(one, 2, 8, 12, "running", noise=0.5)  # killed at 15, resumed from 8, not yet there again
    replay(server, study_of(one))
    write_attempt(one, 2, 8, 20, "finished", noise=0.5)
    replay(server, study_of(one))
    assert_mirrored(server, one)
    before = len(server.requests)
    replay(server, study_of(one))
    assert "file_stream" not in " ".join(server.requests[before:])


def test_a_run_that_rewound_and_ended_earlier_leaves_no_row_behind(server, one):
    write_attempt(one, 1, 0, 15, "running")
    replay(server, study_of(one))
    write_attempt(one, 2, 8, 10, "diverged", noise=0.5)
    replay(server, study_of(one))
    assert_mirrored(server, one)
    assert server.run(one.name).rows()[-1] == {"_step": 15}


@pytest.mark.parametrize("acted", [False, True])
@pytest.mark.parametrize("stop_at", range(1, 7))
def test_a_crash_anywhere(server, one, stop_at, acted, monkeypatch):
    """The process dies at its n-th request, before or after the server has acted on it; rows were undone before."""
    monkeypatch.setattr(launch.wandb_sync, "CHUNK", 8)
    write_attempt(one, 1, 0, 20, "running")
    replay(server, study_of(one))
    write_attempt(one, 2, 10, 25, "finished", noise=0.5)
    client = server_at(server.url, KEY)
    (job,) = jobs_of(study_of(one), client, ENTITY, None)
    there = client.look(ENTITY, "bcrit", [one.name])[one.name]
    count, post = 0, client.session.post

    class Died(BaseException):
        pass

    def dying(*arguments, **options):
        nonlocal count
        count += 1
        if count < stop_at or acted:
            answer = post(*arguments, **options)
        if count == stop_at:
            raise Died
        return answer

    monkeypatch.setattr(client.session, "post", dying)
    with pytest.raises(Died):
        launch.wandb_sync.replay(client, job, there)
    replay(server, study_of(one))
    assert_mirrored(server, one)


def test_many_requests_that_fail(server, tmp_path, record_property):
    """A server that fails one request in three has everything after at most three calls."""
    kinds: tuple[Fault, ...] = ("500", "cut", "late 500", "lost", "twice")

    def faults(path: str, number: int) -> Fault | None:
        chance = random.Random(number)
        return chance.choice(kinds) if chance.random() < 1 / 3 else None

    study = tmp_path / "study"
    run_dirs = written_study(study, [written_config(seed=seed) for seed in range(RUNS)])
    for run_dir in run_dirs:
        write_attempt(run_dir, 1, 0, ROWS - 2, "finished")
    server.faults = faults
    calls, replayed = 0, []
    while calls < 3:
        calls, replayed = calls + 1, replay(server, study)
        if not any(done.failure for done in replayed):
            break
    assert [done.failure for done in replayed] == [""] * RUNS
    text = f"{RUNS} runs x {ROWS} rows: complete after {calls} calls and {len(server.requests)} requests"
    record_property("bcrit sync with a server that fails one request in three", text)
    server.faults = lambda path, number: None
    assert len(server.runs) == RUNS
    for run_dir in run_dirs:
        assert len(server.run(run_dir.name).rows()) == ROWS
        assert_mirrored(server, run_dir)
        assert server.run(run_dir.name).state == "finished"


def test_a_dropped_part_of_a_long_run_is_sent_again(server, one, monkeypatch):
    monkeypatch.setattr(launch.wandb_sync, "CHUNK", 8)
    write_attempt(one, 1, 0, 40, "finished")
    lost = iter([True, False, True])
    server.faults = lambda path, number: "lost" if "file_stream" in path and next(lost, False) else None
    assert [done.failure for done in replay(server, study_of(one))] == [""]
    assert_mirrored(server, one)


def test_a_server_that_keeps_nothing_is_said(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    server.faults = lambda path, number: "lost" if "file_stream" in path else None
    (done,) = replay(server, study_of(one))
    assert done.failure.startswith("the server has 0 of 7 rows")


def test_a_rate_limit_is_waited_for(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    limited = iter([True])
    server.faults = lambda path, number: "429" if "file_stream" in path and next(limited, False) else None
    began = time.monotonic()
    assert [done.failure for done in replay(server, study_of(one))] == [""]
    assert time.monotonic() - began >= 1  # Retry-After: 1
    assert_mirrored(server, one)


def test_an_answer_that_does_not_come_is_not_waited_for(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    late = iter([True])
    server.faults = lambda path, number: "slow" if "file_stream" in path and next(late, False) else None
    assert [done.failure for done in replay(server, study_of(one), timeout_s=0.5)] == [""]
    assert_mirrored(server, one)


def test_a_run_that_was_deleted_there_does_not_stop_the_others(server, tmp_path):
    study = tmp_path / "study"
    gone, other = written_study(study, [written_config(seed=seed) for seed in range(2)])
    for run_dir in (gone, other):
        write_attempt(run_dir, 1, 0, 5, "finished")
    server.deleted.add(("bcrit", gone.name))
    failures = {done.job.run_dir: done.failure for done in replay(server, study)}
    assert "deleted" in failures[gone]
    assert failures[other] == ""
    assert_mirrored(server, other)


def test_a_wrong_key_and_a_dead_network_end_it(server, one, monkeypatch):
    write_attempt(one, 1, 0, 5, "finished")
    client = server_at(server.url, "f" * 40)
    with pytest.raises(UnreachableError, match="does not know this API key"):
        jobs_of(study_of(one), client, None, None)
    monkeypatch.setattr("launch.wandb_server.RETRIES", 0)
    nowhere = server_at("http://127.0.0.1:9", KEY)
    with pytest.raises(ServerError, match="not reached"):
        sync(nowhere, jobs_of(study_of(one), nowhere, ENTITY, None), lambda replayed: None)


def test_the_note_belongs_to_one_place(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    replay(server, study_of(one))
    assert len(read_sent(one, f"{server.url}/{ENTITY}/bcrit").digests) == 7
    assert read_sent(one, f"{server.url}/{ENTITY}/other").digests == ()
    (one / "mirrored.json").write_text("torn")
    assert read_sent(one, f"{server.url}/{ENTITY}/bcrit").digests == ()


def command(server: Server | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | (server.environment if server else {"WANDB_API_KEY": "", "HOME": "/nonexistent"})
    return subprocess.run(
        bcrit_command("sync", *arguments), env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_command(server, one):
    write_attempt(one, 1, 0, 5, "finished")
    done = command(server, study_of(one), "--project", "team/elsewhere")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 runs are complete in Weights & Biases: 1 were sent 7 rows, 0 lacked none" in done.stdout
    assert json.loads(server.run(one.name, "elsewhere").history[6])["valid/loss"] == 2.5
    assert "/files/team/elsewhere/" in " ".join(server.requests)
    done = command(server, one)  # the directory of a run
    assert done.returncode == 0
    assert server.run(one.name).fields["group"] == "study"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["."], "no manifest.jsonl: start the study with `bcrit run` first"),
        (["STUDY", "--project", "a/b/c"], "a/b/c: write it as PROJECT or ENTITY/PROJECT"),
        (["STUDY"], "no run has begun; train it with `bcrit run` first"),
    ],
)
def test_mistakes_are_one_line(server, one, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("launch.wandb_server.connect", lambda: server_at(server.url, KEY))
    code = main(["sync", *(str(study_of(one)) if word == "STUDY" else word for word in arguments)])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_without_a_key_it_says_so(one):
    write_attempt(one, 1, 0, 5, "finished")
    done = command(None, study_of(one))
    assert done.returncode == 2
    assert "run `wandb login`, or set WANDB_API_KEY" in done.stderr
