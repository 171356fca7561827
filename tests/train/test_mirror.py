"""The live mirror, by the real client to the stand-in server: each row once, and whatever fails, nothing waits for it.

What a mirror misses, `bcrit sync` sends: every test of a fault ends with that.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.mirrored import history
from configs.rundir import read_metrics, read_status
from launch.wandb_server import server_at
from launch.wandb_sync import jobs_of, sync
from tests.processes import descendants
from tests.ranks import pretrain, start_ranks, wait_for_ranks
from tests.wandb_server import KEY, Server, serving
from tests.written import write_attempt, written_config, written_study
from train import mirror

PATIENCE_S = 60.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(Server()) as up:
        for name, value in up.environment.items():
            monkeypatch.setenv(name, value)
        yield up


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Directories of two runs that are to be mirrored online."""
    configs = [written_config(seed=seed, log={"wandb": "online"}) for seed in range(2)]
    return written_study(tmp_path / "study", configs)


def begin(tell: mirror.Tell, run_dir: Path, attempt: int = 1) -> None:
    tell(run_dir=run_dir, study="study", attempt=attempt)


def end(tell: mirror.Tell, run_dir: Path) -> None:
    tell(ended=run_dir)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rows_there(server: Server, run_dir: Path) -> list[dict]:
    """Rows of the history as `bcrit sync` would have written them."""
    run = server.runs.get(("bcrit", run_dir.name))
    found = run.rows() if run else []
    return [{key: row[key] for key in row if key not in ("_timestamp", "_runtime")} for row in found]


def streaming(server: Server) -> bool:
    """Whether the client has begun; rows follow every 15 s."""
    return any("file_stream" in path for path in server.requests)


def assert_mirrored(server: Server, run_dir: Path) -> None:
    assert rows_there(server, run_dir) == history(read_metrics(run_dir))
    assert server.run(run_dir.name).state == "finished"
    assert server.unknown == []


def synced(server: Server, run_dir: Path) -> None:
    server.faults = lambda path, number: None
    client = server_at(server.url, KEY)
    done = sync(client, jobs_of(run_dir.parent.parent, client, None, None), lambda replayed: None)
    assert [replayed.failure for replayed in done] == [""] * len(done)
    assert_mirrored(server, run_dir)


def test_a_run_is_mirrored_while_it_goes_on(server, runs):
    run_dir, later = runs
    with mirror.mirroring() as tell:
        write_attempt(run_dir, 1, 0, 3, "running")
        begin(tell, run_dir)
        until(lambda: len(rows_there(server, run_dir)) == 4)
        assert server.run(run_dir.name).state == "running"
        write_attempt(run_dir, 1, 0, 9, "finished")
        end(tell, run_dir)
        write_attempt(later, 1, 0, 5, "diverged")
        begin(tell, later)
        end(tell, later)
    assert_mirrored(server, run_dir)
    assert_mirrored(server, later)
    run = server.run(run_dir.name)
    assert run.fields == {
        "group": "study",
        "displayName": "study-N64-B1024-lr0.00781-s0",
        "tags": ["mup", "constant", "fp32"],
    }
    assert run.config["model"]["value"]["width"] == 64
    assert {"2": "*", "5": 2, "6": [1], "7": []} in run.config["_wandb"]["value"]["m"], "tokens are the x-axis"
    assert run.summary["loss"] == run.summary["loss_9216"] == 2.3
    assert run.summary["state"] == "finished"
    assert server.run(later.name).summary["state"] == "diverged"
    synced(server, run_dir)


def test_a_resume_goes_on_in_the_same_run(server, runs):
    run_dir, _ = runs
    for attempt, first, last, state in ((1, 0, 8, "running"), (2, 5, 7, "preempted"), (3, 7, 12, "finished")):
        with mirror.mirroring() as tell:  # the first worker is killed at 8, after a checkpoint at 5
            write_attempt(run_dir, attempt, first, last, state, noise=0.1 * attempt)
            begin(tell, run_dir, attempt)
            end(tell, run_dir)
        assert server.run(run_dir.name).state == {"running": "failed"}.get(state, state)
    there = rows_there(server, run_dir)
    now = history(read_metrics(run_dir))
    assert [(row["_step"], row["tokens"]) for row in there] == [(row["_step"], row["tokens"]) for row in now]
    assert there != now  # steps 6 to 8 were undone and trained again; the client cannot replace them
    synced(server, run_dir)


def test_a_worker_that_is_killed_leaves_its_rows(server, runs):
    """Its pipe closes without a word."""
    run_dir, _ = runs
    write_attempt(run_dir, 1, 0, 8, "running")
    with mirror.mirroring() as tell:
        begin(tell, run_dir)
    assert rows_there(server, run_dir) == history(read_metrics(run_dir))


def core_below(pid: int) -> list[int]:
    return [child for child in descendants(pid) if "wandb-core" in Path(f"/proc/{child}/cmdline").read_text()]


def helper() -> int:
    (found,) = [pid for pid in descendants(os.getpid()) if "train.wandb_mirror" in command_of(pid)]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_killed_client_costs_one_run_at_most(server, runs):
    run_dir, later = runs
    with mirror.mirroring() as tell:
        write_attempt(run_dir, 1, 0, 3, "running")
        begin(tell, run_dir)
        until(lambda: streaming(server))
        for core in core_below(helper()):
            os.kill(core, signal.SIGKILL)
        write_attempt(run_dir, 1, 0, 9, "finished")
        end(tell, run_dir)
        write_attempt(later, 1, 0, 5, "finished")
        begin(tell, later)
        end(tell, later)
    assert_mirrored(server, later)
    synced(server, run_dir)


def test_a_killed_mirror_costs_one_run_at_most(server, runs):
    run_dir, later = runs
    with mirror.mirroring() as tell:
        write_attempt(run_dir, 1, 0, 3, "running")
        begin(tell, run_dir)
        until(lambda: streaming(server))
        killed = helper()
        os.kill(killed, signal.SIGKILL)
        until(lambda: not command_of(killed))
        write_attempt(run_dir, 1, 0, 9, "finished")
        end(tell, run_dir)
        write_attempt(later, 1, 0, 5, "finished")
        begin(tell, later)
        end(tell, later)
    assert_mirrored(server, later)
    synced(server, run_dir)


@pytest.mark.parametrize("fault", ["bad key", "no room", "dead network"])
def test_a_mirror_that_cannot_work_is_left_behind(server, runs, fault, monkeypatch, capfd):
    run_dir, _ = runs
    monkeypatch.setattr(mirror, "PATIENCE_S", 5.0)
    if fault == "bad key":
        monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    elif fault == "no room":
        monkeypatch.setattr(mirror, "COMMAND", ("prlimit", "--fsize=2000", *mirror.COMMAND))  # bytes a file
    else:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with mirror.mirroring() as tell:
        write_attempt(run_dir, 1, 0, 9, "finished")
        began = time.monotonic()
        begin(tell, run_dir)
        end(tell, run_dir)
        assert time.monotonic() - began < 1, "telling does not wait"
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert not [pid for pid in descendants(os.getpid()) if "train.wandb_mirror" in command_of(pid)]
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    synced(server, run_dir)


def test_a_mirror_that_hangs_is_not_waited_for(server, runs, monkeypatch):
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.5)
    monkeypatch.setattr(mirror, "COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    with mirror.mirroring() as tell:
        for _ in range(2000):  # more than the pipe holds
            begin(tell, runs[0])
    assert descendants(os.getpid()) == [] or not any("sleep(600)" in command_of(p) for p in descendants(os.getpid()))


@pytest.mark.parametrize("kind", ["500", "lost", "cut"])
def test_uploads_that_fail(server, runs, kind):
    run_dir, _ = runs
    server.faults = lambda path, number: kind if "file_stream" in path and number % 2 else None
    with mirror.mirroring() as tell:
        write_attempt(run_dir, 1, 0, 4, "running")
        begin(tell, run_dir)
        until(lambda: streaming(server))
        write_attempt(run_dir, 1, 0, 9, "finished")
        end(tell, run_dir)
    synced(server, run_dir)


RUN = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
batch_tokens: 256
budget_tokens: 8192
log: {every_tokens: 256, wandb: online}
"""


@pytest.mark.parametrize("dead", [False, True], ids=["a server", "a dead network"])
def test_training(server, tmp_path, data_dir, dead, monkeypatch):
    """A real run: mirrored if there is a server, and the same run if there is none."""
    if dead:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    (tmp_path / "run.yaml").write_text(RUN)
    what = ("--config", tmp_path / "run.yaml", "--run-dir", tmp_path / "run", "--data-dir", data_dir)
    assert wait_for_ranks(start_ranks(1, trained_by, os.environ["WANDB_BASE_URL"], *what, log=tmp_path / "log")) == [0]
    assert read_status(tmp_path / "run").state == "finished"
    if not dead:
        (run,) = server.runs.values()
        there = [{key: row[key] for key in row if key not in ("_timestamp", "_runtime")} for row in run.rows()]
        assert there == history(read_metrics(tmp_path / "run"))
        assert run.state == "finished"


def trained_by(url: str, *arguments: object) -> int:
    os.environ.update(WANDB_BASE_URL=url, WANDB_API_KEY=KEY, WANDB_ENTITY="lab")
    mirror.PATIENCE_S = 10.0
    return pretrain(*arguments)
