"""Every YAML file that the project ships can be planned."""

import pytest

from configs.load import load_run
from configs.plan import Hardware, plan
from launch.study import plan_study
from tests.processes import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs/runs").glob("*.yaml")), ids=lambda path: path.name)
def test_runs(path):
    assert plan(load_run(path), Hardware(world_size=1)).steps > 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs/studies").glob("*.yaml")), ids=lambda path: path.name)
def test_studies(path):
    assert plan_study(path, [], Hardware(world_size=1)).study.name == path.stem
