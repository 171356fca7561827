"""What the README says is what the project does."""

import re
from pathlib import Path

import pytest

from analysis.table import COLUMNS
from configs.ladder import ladder
from configs.reference import reference
from launch.parser import parser
from tests.processes import ROOT

README = (ROOT / "README.md").read_text()


def test_the_config_reference_is_generated():
    assert README.partition("## Config reference\n")[2].strip() == reference().strip(), (
        "copy the output of `bcrit reference` below the last heading"
    )


def test_the_columns_of_the_run_table_are_listed():
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", README.partition("## The run table")[2], re.MULTILINE)
    assert listed[: len(COLUMNS)] == list(COLUMNS.items())


def test_the_ladder_of_sizes_is_generated():
    assert ladder(ROOT / "configs/runs").strip() in README, "copy the output of `python -m configs.ladder`"


def test_the_quickstart_study_is_quoted():
    assert (ROOT / "configs/studies/quickstart.yaml").read_text() in README


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http|#)([^)]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^\| `bcrit ([a-z-]+)", README, re.MULTILINE))))
def test_commands_exist(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: bcrit" in capsys.readouterr().out


@pytest.mark.parametrize("file", re.findall(r"pytest ((?:tests/\S+ ?)+)`", README))
def test_quoted_tests_exist(file):
    assert all(Path(ROOT / part).exists() for part in file.split())
