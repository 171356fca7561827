"""`bcrit report --wandb` by the real client to the stand-in: what is saved, and that its panels find their data."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.report.markdown import markdown
from configs.mirrored import keyed, outcome
from configs.rundir import Readout, Status
from tests.planted import planted_table
from tests.processes import ENVIRONMENT, bcrit_command
from tests.wandb_server import KEY, Run, Server, serving

BUDGETS = (2**18, 2**19)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server()) as up:
        yield up


@dataclass(frozen=True)
class Published:
    study: Path
    said: str
    report: dict[str, Any]  # as the server has it
    run: Run  # the analysis run

    @property
    def blocks(self) -> list[dict[str, Any]]:
        return json.loads(self.report["spec"])["blocks"]

    @property
    def grids(self) -> list[dict[str, Any]]:
        return [block["metadata"] for block in self.blocks if block["type"] == "panel-grid"]

    @property
    def text(self) -> str:
        return json.dumps(self.blocks, ensure_ascii=False)


def publish(
    server: Server, study: Path, project: str = "lab/study", **changes: str
) -> subprocess.CompletedProcess[str]:
    command = bcrit_command("report", study, "--wandb", project)
    environment = ENVIRONMENT | server.environment | changes
    return subprocess.run(command, env=environment, cwd=study, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def published(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Published:
    study = tmp_path_factory.mktemp("study")
    table = planted_table(widths=(64, 128), budgets=BUDGETS, batches=(2**8, 2**9, 2**10, 2**11), noise=0.003)
    table.to_parquet(study / "table.parquet")
    done = publish(server, study)
    assert done.returncode == 0, done.stderr
    assert server.unknown == []
    (report,), (run,) = server.reports.values(), server.runs.values()
    return Published(study, done.stdout, report, run)


def test_the_words_and_tables_are_those_of_the_local_page(published):
    from analysis.analyse import analyse
    from analysis.report.summary import summary
    from analysis.report.tables import tables

    table = pd.read_parquet(published.study / "table.parquet")
    analysis = analyse(table)
    written = [block["content"] for block in published.blocks if block["type"] == "markdown-block"]
    assert written[0] == markdown(summary(analysis))
    assert written[0].startswith("## In plain words")
    assert written[-1] == markdown(tables(table, analysis))
    assert "published http" in published.said
    assert published.report["displayName"] == "bcrit report: planted"
    assert published.run.id in published.report["description"]


def test_panels_over_the_runs_ask_for_what_the_mirror_writes(published):
    status = Status(state="finished", readouts=tuple(Readout(tokens=t, loss=1, train_loss=1, rms={}) for t in BUDGETS))
    written = {*outcome(status)}
    for kind, keys in (("valid", ("loss",)), ("train", ("loss", "tokens_per_s")), ("noise", ("noise_scale",))):
        written |= {*keyed({"kind": kind, "tokens": 0, **dict.fromkeys(keys, 1.0)})}
    panels = [panel for grid in published.grids[:2] for panel in panels_of(grid)]
    lines = {metric for panel in panels if panel["viewType"] == "Run History Line Plot" for metric in metrics_of(panel)}
    assert lines == {"valid/loss", "train/loss", "noise/noise_scale", "train/tokens_per_s"} <= written
    scatters = [panel["config"] for panel in panels if panel["viewType"] == "Scatter Plot"]
    assert [(s["xAxis"], s["yAxis"], s["zAxis"]) for s in scatters] == [
        ("config:lr.value", f"summary:loss_{tokens}", "config:batch_tokens.value") for tokens in BUDGETS
    ]
    assert {f"loss_{tokens}" for tokens in BUDGETS} <= written
    names = [runset["name"] for runset in published.grids[0]["runSets"]]
    assert names == ["N = 64", "N = 128"]
    asked = json.dumps(published.grids[0]["runSets"][0]["filters"])
    assert '"planted"' in asked
    assert "model.value.width" in asked or "model.width" in asked


def test_panels_over_the_analysis_run_find_their_keys(published):
    logged = {key for row in published.run.rows() for key in row}
    later = published.grids[2:]
    lines = [panel for grid in later for panel in panels_of(grid) if panel["viewType"] == "Run History Line Plot"]
    assert len(lines) == 5  # critical and best batch, lr against T and B, sensitivity
    for panel in lines:
        assert set(metrics_of(panel)) <= logged
        assert panel["config"]["xAxis"] in logged
    media = [key for grid in later for panel in panels_of(grid) for key in panel["config"].get("mediaKeys", [])]
    assert {"figures/critical-batch", "figures/loss-against-lr", "figures/lr-against-tokens"} <= set(media) <= logged
    for grid in later:
        assert published.run.id in json.dumps(grid["runSets"])


def test_every_estimate_is_logged_at_its_place_and_bounds_are_not(published):
    laws = json.loads((published.study / "report/laws.json").read_text())
    rows = published.run.rows()
    for crit in laws["critical_batch"]:
        key = f"batch_crit/{crit['definition']}"
        found = [(row[key], row[f"{key}_low"]) for row in rows if row.get("tokens") == crit["tokens"] and key in row]
        estimate = crit["batch"]
        assert found == ([(estimate["value"], estimate["low"])] if estimate["status"] == "ok" else [])
    for cell in laws["cells"]:
        key = f"by_batch/lr_opt_N{cell['width']}_T{cell['tokens']}"
        found = [row[key] for row in rows if row.get("batch_tokens") == cell["batch_tokens"] and key in row]
        assert found == ([cell["lr"]["value"]] if cell["lr"]["status"] == "ok" else [])


def test_the_analysis_run_holds_the_page_and_its_table(published):
    for name in ("index.html", "laws.json", "table.csv", "data/critical-batch.csv"):
        assert published.run.files[name] == (published.study / "report" / name).read_bytes()
    assert published.run.state == "finished"
    assert published.run.fields["jobType"] == "analysis"
    assert not list(published.study.rglob("wandb")), "no folder is left"


def test_the_client_reads_it_back(server, published):
    note = json.loads((published.study / "report/wandb.json").read_text())
    code = (
        "import sys; from wandb_workspaces.reports.v2.interface import Report; report = Report.from_url(sys.argv[1]); "
        "print(report.title, len(report.blocks))"
    )
    command = [sys.executable, "-c", code, note["url"]]
    done = subprocess.run(command, env=ENVIRONMENT | server.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bcrit report: planted ")


def test_again_it_updates_the_same_report(server, published):
    before = published.run.lines
    assert publish(server, published.study).returncode == 0
    assert len(server.reports) == 1
    assert published.run.lines == before


def test_mistakes_are_one_line(server, published):
    for key, project, said in (
        (KEY, "study", "--wandb study: write it as ENTITY/PROJECT"),
        ("f" * 40, "lab/study", "wandb lab/study: "),
    ):
        done = publish(server, published.study, project, WANDB_API_KEY=key)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {said}")
        assert done.stderr.count("\n") == 1


def panels_of(grid: dict[str, Any]) -> list[dict[str, Any]]:
    return grid["panelBankSectionConfig"]["panels"]


def metrics_of(panel: dict[str, Any]) -> list[str]:
    return panel["config"]["metrics"]
