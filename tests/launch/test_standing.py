"""Where runs stand, from the files of a study and what SLURM says."""

import json
import os
import socket

import pytest
from rich.console import Console

from configs.claims import process_start
from configs.identity import run_id
from configs.rundir import Status, create_run, path_of, run_dir_of, write_json, write_status
from configs.schema import RunConfig
from launch.slurm.line import left_of, read_line
from launch.slurm.standing import UNDER_WAY, Facts, exit_code, standings, task_errors
from launch.slurm.standing_table import print_standings
from launch.slurm.submission import sha256

NOW = 1e9
BUDGET = 2**18


class Study:
    """A study directory with runs 0, 1, ..., a task each, of array job 7."""

    def __init__(self, root, *statuses: Status) -> None:
        self.dir = root / "s"
        configs = [RunConfig(seed=seed).model_dump() | {"data": {"fingerprint": "f"}} for seed in range(len(statuses))]
        runs = [RunConfig.model_validate(config) for config in configs]
        self.ids = [run_id(run) for run in runs]
        for identity, run, status in zip(self.ids, runs, statuses, strict=True):
            create_run(run_dir_of(self.dir, identity), run)
            write_status(run_dir_of(self.dir, identity), status)
        where = self.dir / "slurm" / "001"
        where.mkdir(parents=True)
        lines = [json.dumps({"study": "s", "task": i, "runs": [identity]}) for i, identity in enumerate(self.ids)]
        self.manifest = where / "manifest.jsonl"
        self.manifest.write_text("\n".join(lines) + "\n")
        (self.dir / "manifest.jsonl").write_text("".join(json.dumps({"id": i}) + "\n" for i in self.ids))
        record = {"ranks": 1, "data_dir": "/d", "code": "code", "jobs": {"7": [0, len(self.ids)]}, "report": 8}
        write_json(where / "submission.json", record)

    def claim(self, number: int, **about: object) -> None:
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": process_start(os.getpid()),
            "launch": None,
        }
        path = run_dir_of(self.dir, self.ids[number]) / "claim.json"
        path.write_text(json.dumps(owner | about))
        os.utime(path, (NOW, NOW))

    def stand(self, facts: Facts | None = None):
        return standings(self.dir, self.ids, facts, NOW)


def test_states_without_a_queue(tmp_path):
    running = Status(state="running", tokens=BUDGET // 4, tokens_per_s=1000.0, attempt=1)
    study = Study(
        tmp_path,
        Status(),
        running,
        running,
        Status(state="failed", message="boom", failures=2),
        Status(state="failed", message="boom", failures=3),
        Status(state="diverged", tokens=5, message="at 5"),
        Status(state="preempted", tokens=BUDGET // 2),
    )
    study.claim(1)
    study.claim(2, host="elsewhere")
    found = study.stand()
    words = ["pending", "running", "running", "failed", "parked", "diverged", "preempted"]
    assert [run.state for run in found] == words
    assert [run.done for run in found] == [0, BUDGET // 4, BUDGET // 4, 0, 0, BUDGET, BUDGET // 2]
    assert found[1].seconds_left == pytest.approx(BUDGET * 0.75 / 1000)
    assert [run.note for run in found[3:5]] == ["boom", "boom"]
    assert exit_code(found) == UNDER_WAY
    assert standings(study.dir, study.ids, None, NOW + 400)[2].state == "preempted", "its heart beats no more"


def test_a_run_whose_process_is_gone_is_not_running(tmp_path):
    study = Study(tmp_path, *[Status(state="running", attempt=1)] * 3)
    study.claim(0, started="1")
    study.claim(1, host="elsewhere", launch="7_1 0.0")
    found = study.stand(Facts(queued={}, ended={(7, 1): "NODE_FAIL"}))
    assert [run.state for run in found] == ["preempted"] * 3
    assert [run.note for run in found] == [
        "interrupted; not queued",
        "interrupted; its task 7_1 ended as NODE_FAIL",
        "interrupted; not queued",
    ]
    assert exit_code(found) == 1


def test_what_the_queue_says_is_shown(tmp_path):
    study = Study(tmp_path, *[Status()] * 3)
    found = study.stand(Facts(queued={(7, 0): ("PENDING", "Resources"), (7, 1): ("RUNNING", "")}, ended={}))
    assert [run.task for run in found] == ["7_0", "7_1", ""]
    assert [run.note for run in found] == ["waits for Resources", "its task runs", "not queued"]
    assert exit_code(found) == UNDER_WAY
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_standings(console, found, ["a note"], show_all=False)
    said = console.export_text()
    assert "3 runs: 3 pending; 0.0% of the tokens" in said
    assert "note a note" in said
    assert f"{study.ids[0]}   pending     0%          7_0    waits for Resources" in said


def test_exit_codes(tmp_path):
    assert exit_code(Study(tmp_path, Status(state="finished"), Status(state="diverged")).stand()) == 0
    assert exit_code(Study(tmp_path / "b", Status(state="finished"), Status(state="preempted")).stand()) == 1


def test_errors_of_tasks_are_told_while_their_runs_are_left(tmp_path):
    study = Study(tmp_path, Status(), Status(state="finished"))
    tasks = study.dir / "slurm" / "tasks"
    tasks.mkdir()
    for number, runs in enumerate(([study.ids[0]], [study.ids[1]], [])):
        write_json(tasks / f"7_{number}.json", {"runs": runs, "message": f"m{number}", "code": 2})
    assert task_errors(study.dir, study.stand()) == ["task 7_0: m0", "task 7_2: m2"]


def test_a_task_takes_what_is_left_and_failures_last(tmp_path):
    failed, parked = Status(state="failed", failures=1), Status(state="failed", failures=3, message="boom")
    study = Study(tmp_path, failed, Status(), Status(state="finished"), parked, Status(state="preempted"))
    (run_dir_of(study.dir, study.ids[4]) / "STOP").touch()
    left = left_of(study.dir, tuple(study.ids))
    assert left.runs == (study.ids[1], study.ids[0])
    assert [line.partition(": ")[2] for line in left.obstacles] == [
        "parked, it failed 3 times: boom",
        "its STOP file asks to leave it; remove that to go on",
    ]


def test_a_branch_waits_for_its_trunk(tmp_path):
    study = Study(tmp_path, Status(state="failed", failures=1, message="boom"))
    (trunk,) = study.ids
    config = {"data": {"fingerprint": "f"}, "branch": {"parent": trunk, "tokens": 2**16}}
    branch = RunConfig.model_validate(config)
    run_dir = run_dir_of(study.dir, run_id(branch))
    create_run(run_dir, branch)
    left = left_of(study.dir, (run_dir.name,))
    assert left.runs == ()
    assert left.obstacles == (f"{run_dir.name}: its trunk {trunk} has not come to 65536 tokens (failed)",)
    path_of(run_dir_of(study.dir, trunk), 2**16).mkdir(parents=True)
    assert left_of(study.dir, (run_dir.name,)).runs == (run_dir.name,)


def test_a_line_of_the_manifest(tmp_path):
    study = Study(tmp_path, Status(), Status())
    digest = sha256(study.manifest.read_text())
    assert read_line(study.manifest, digest, 1, study.dir) == (study.ids[1],)
