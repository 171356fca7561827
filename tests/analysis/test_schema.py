import json
import re
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from analysis.analyse import analyse, to_json
from analysis.growth import MEASURES, Bootstrap
from analysis.results import Analysis
from analysis.schema import FILE, schema, schema_text
from tests.planted import planted_table
from tests.processes import ROOT


@pytest.fixture(scope="module")
def found():
    return analyse(planted_table(noise=0.003, diverge_above=3.2), bootstrap=Bootstrap(100))


def test_the_schema_in_the_repository_is_that_of_the_records():
    assert FILE.read_text(encoding="utf-8") == schema_text(), "run `python -m analysis.schema`"


def test_the_readme_lists_the_keys():
    section = (ROOT / "README.md").read_text().partition("## laws.json\n")[2].partition("\n## ")[0]
    listed = {key for row in re.findall(r"^\| (`.*?) \|", section, re.M) for key in re.findall(r"`(\w+)`", row)}
    assert listed == set(schema()["properties"])


def test_laws_json_has_the_keys_of_the_schema(found):
    made, laws = schema(), to_json(found)
    assert set(laws) == set(made["properties"]) == set(made["required"])
    assert laws["meta"]["format"] == made["properties"]["meta"]["properties"]["format"]["const"]
    for name in ("cells", "lr_laws", "growth", "scaling_rules", "collapse", "sensitivity_laws", "critical_batch"):
        record = made["$defs"][made["properties"][name]["items"]["$ref"].rpartition("/")[2]]
        assert laws[name], name
        assert all(set(item) == set(record["properties"]) for item in laws[name]), name


def test_what_is_written_can_be_read_back_whole(found):
    laws = to_json(found)
    for cell, measures in zip(laws["cells"], laws.pop("sensitivity"), strict=True):
        cell["sensitivity"] = {name: measures[name] for name in MEASURES}
    read = TypeAdapter(Analysis).validate_json(json.dumps(laws))
    assert replace(read, meta={}) == replace(found, meta={})


def test_another_seed_changes_the_bootstrap_and_nothing_else(found):
    other = analyse(planted_table(noise=0.003, diverge_above=3.2), bootstrap=Bootstrap(100, seed=1))
    assert other.meta["bootstrap"] == {"resamples": 100, "seed": 1}
    assert [law.bootstrap for law in other.growth] != [law.bootstrap for law in found.growth]
    same = (replace(law, bootstrap=None) for law in other.growth)
    assert list(same) == [replace(law, bootstrap=None) for law in found.growth]
