"""What `bcrit sync` sent, `bcrit table wandb` reads back: the run table of the run directories, number for number."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.table import build_table
from launch.wandb_server import server_at
from launch.wandb_sync import jobs_of, sync
from tests.processes import ENVIRONMENT, ROOT, bcrit_command
from tests.wandb_server import KEY, Run, Server, serving
from tests.written import BATCH, write_attempt, written_config, written_study

SAME = ["width", "depth", "seq_len", "tokens", "batch_tokens", "lr", "seed", "loss", "study", "schedule"]
SAME += ["parametrization", "precision", "data_fingerprint"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as up:
        yield up


@pytest.fixture
def study(server: Server, tmp_path: Path) -> Path:
    """Twelve runs in the server, one of which diverged, one of which has not ended, and an analysis run."""
    configs = [
        written_config(model={"width": width}, budget_tokens=BATCH * steps, lr=lr, schedule={"kind": "cosine"})
        for width in (64, 128)
        for steps in (4, 8)
        for lr in (2**-8, 2**-7, 2**-6)
    ]
    run_dirs = written_study(tmp_path / "study", configs)
    for number, (run_dir, config) in enumerate(zip(run_dirs, configs, strict=True)):
        state = {5: "diverged", 6: "running"}.get(number, "finished")
        steps = config.budget_tokens // BATCH
        write_attempt(run_dir, 1, 0, steps if state == "finished" else 2, state, noise=0.01 * number)
    client = server_at(server.url, KEY)
    done = sync(client, jobs_of(tmp_path / "study", client, None, None), lambda replayed: None)
    assert [replayed.failure for replayed in done] == [""] * 12
    server.runs["bcrit", "analysis"] = Run("analysis", "bcrit", 99, state="finished", summary={"complete": True})
    return tmp_path / "study"


def read(server: Server, where: Path, *arguments: object) -> pd.DataFrame:
    command = bcrit_command("table", "wandb", "lab/bcrit", *arguments, "--out", "read")
    environment = ENVIRONMENT | server.environment
    done = subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert server.unknown == []
    return pd.read_parquet(where / "read/table.parquet")


def placed(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return table[columns].sort_values(["width", "tokens", "lr"]).reset_index(drop=True)


def test_a_row_a_run(server, study, tmp_path):
    found = read(server, tmp_path, "--preset", ROOT / "configs/presets/bcrit.yaml")
    truth = build_table(study)
    truth = truth[truth["status"] != "running"]
    pd.testing.assert_frame_equal(placed(found, [*SAME, "status"]), placed(truth, [*SAME, "status"]), check_dtype=False)


def test_a_row_a_validation(server, study, tmp_path):
    arguments = ("--preset", ROOT / "configs/presets/bcrit-readouts.yaml", "--history", "tokens,valid/loss")
    found = read(server, tmp_path, *arguments)
    truth = build_table(study)
    truth = truth[truth["status"] == "finished"]
    pd.testing.assert_frame_equal(placed(found, SAME), placed(truth, SAME), check_dtype=False)
