"""Imports flow one way: configs <- train, launch, analysis; only the command line knows several of them."""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT

ROOMS = ("configs", "train", "launch", "analysis")
FORBIDDEN = {
    "configs": {"train", "launch", "analysis", "torch", "pandas", "deepspeed", "transformers", "wandb"},
    "train": {"launch", "analysis"},
    "analysis": {"train", "launch", "torch", "deepspeed", "transformers"},
    "launch": {"train", "analysis", "torch", "deepspeed", "transformers"},
}
COMPOSITION_ROOT = Path("launch/commands")  # its files import what a command needs, when it needs it


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


FILES = [path.relative_to(ROOT) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_flow_one_way(path):
    if COMPOSITION_ROOT not in path.parents:
        assert not imported(ROOT / path) & FORBIDDEN[path.parts[0]]


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("deepspeed", {"train/engine.py", "train/state.py", "train/universal.py", "train/export.py"}),
        (
            "wandb",
            {
                "train/wandb_mirror.py",
                "launch/wandb_server.py",
                "analysis/wandb_runs.py",
                "analysis/report/wandb_report.py",
                "analysis/report/analysis_run.py",
                "analysis/review/published.py",
            },
        ),
        ("wandb_workspaces", {"analysis/report/wandb_report.py", "analysis/review/published.py"}),
        ("mup", {"train/parametrization.py"}),
    ],
)
def test_few_files_know_each_outside_thing(package, only):
    assert {str(path) for path in FILES if package in imported(ROOT / path)} == only


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_stay_small(path):
    assert len((ROOT / path).read_text().splitlines()) <= 400


def test_nothing_else_is_at_the_top():
    """Data, above all, is never part of the project."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    folders = {file.partition("/")[0] for file in listed.stdout.splitlines() if "/" in file}
    assert {folder for folder in folders if not folder.startswith(".")} == {*ROOMS, "tests"}
