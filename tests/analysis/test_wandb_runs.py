"""A run table from a W&B project, by the real client from a server on loopback."""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.planted import planted_table
from tests.processes import ENVIRONMENT, bcrit_command
from tests.wandb_server import Run, Server, serving

MAP = ["width=model.width", "tokens=tokens", "batch_tokens=batch_tokens", "lr=optimizer.lr", "loss=valid/loss"]


def filled(server: Server, table: pd.DataFrame) -> None:
    """One run for each row of `table`, as a trainer that logs every quarter of its tokens would leave it."""
    for number, row in enumerate(table.itertuples()):
        run = server.runs["study", f"run{number}"] = Run(f"run{number}", "study", number, state="finished")
        config = {
            "model": {"width": row.width, "layers": [1, 2]},
            "batch_tokens": row.batch_tokens,
            "optimizer": {"lr": row.lr},
            "loss": "cross entropy",  # also in the summary
        }
        run.config = {key: {"value": value} for key, value in config.items()}
        run.summary = {"loss": row.loss, "tokens": row.tokens}
        for step in range(1, 5):
            loss = row.loss + 1 - step / 4
            logged = {
                "_step": step,
                "tokens": row.tokens * step // 4,
                "valid/loss": loss if math.isfinite(loss) else "NaN",
            }
            run.history[2 * step - 1] = json.dumps({"_step": step - 0.5, "train/loss": loss})
            run.history[2 * step] = json.dumps(logged)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as up:
        yield up


def read(server: Server, where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | server.environment
    command = bcrit_command("table", "wandb", *arguments)
    return subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True, timeout=300)


def mapped(*columns: str) -> list[str]:
    return [part for column in columns for part in ("--map", column)]


def test_a_row_a_run(server: Server, tmp_path: Path) -> None:
    table = planted_table(widths=(64,), budgets=(2**18, 2**19), batches=(2**9, 2**10))
    filled(server, table)
    columns = [*MAP[:4], "loss=summary.loss"]
    done = read(server, tmp_path, "lab/study", *mapped(*columns), "--out", "mine")
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "mine/table.parquet")
    same = ["width", "tokens", "batch_tokens", "lr", "loss"]
    pd.testing.assert_frame_equal(found[same], table[same].reset_index(drop=True), check_dtype=False)
    assert server.unknown == []


def test_a_row_a_point_of_the_curve_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    filled(server, planted_table(widths=(64,), budgets=(2**18,), batches=(2**9, 2**10)))
    server.runs["study", "run3"].state = "running"
    asked = ["lab/study", "--history", "tokens,valid/loss", *mapped(*MAP)]
    first = read(server, tmp_path, *asked)
    assert first.returncode == 0, first.stderr
    found = pd.read_parquet(tmp_path / "runs/lab-study/table.parquet")
    assert len(found) == 4 * len(server.runs)
    assert set(found["tokens"]) == {2**16, 2**17, 3 * 2**16, 2**18}
    before = len(server.requests)
    assert read(server, tmp_path, *asked).returncode == 0
    histories = [name for name in server.requests[before:] if "History" in name and "Keys" not in name]
    assert len(histories) <= 2  # of the run that goes on
    assert server.unknown == []


@pytest.mark.parametrize(
    ("project", "columns", "said"),
    [
        ("study", MAP, "study: write it as ENTITY/PROJECT"),
        ("lab/none", MAP, "wandb lab/none: "),
        ("lab/study", MAP[:-1], "--map: nothing gives loss"),
    ],
)
def test_mistakes_are_one_line(server: Server, tmp_path: Path, project: str, columns: list[str], said: str) -> None:
    filled(server, planted_table(widths=(64,), budgets=(2**18,), batches=(2**9,)))
    done = read(server, tmp_path, project, *mapped(*columns))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
