import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.fields import field_docs, values
from configs.load import load_run, load_study
from configs.reference import reference
from configs.schema import ModelConfig, RunConfig, StudyConfig


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_yaml_and_overrides_meet_in_the_run(tmp_path: Path):
    path = write(tmp_path / "run.yaml", "lr: 2^-7\nbudget_tokens: 2^20\nmodel: {width: 128}\n")
    run = load_run(path, ["optimizer.beta2=0.99", "model.width=2^8", "readout_tokens=[2^18, 2^19]", "data.path="])
    assert (run.lr, run.budget_tokens, run.model.width) == (2**-7, 2**20, 256)
    assert run.optimizer.beta2 == 0.99
    assert run.readout_tokens == (2**18, 2**19)
    assert run.data.path is None
    assert run == load_run(
        path, ["model.width=64", "optimizer.beta2=0.99", "model.width=256", "readout_tokens=[2^18,2^19]"]
    )


def test_a_run_comes_back_from_its_own_json(tmp_path: Path):
    run = RunConfig(lr=2**-7.5, optimizer={"eps": 1e-12}, data={"path": tmp_path}, log={"every_tokens": 2**14})
    assert load_run(write(tmp_path / "config.json", run.model_dump_json(indent=1))) == run
    assert load_run(write(tmp_path / "config.json", json.dumps(run.model_dump(mode="json")))) == run


def test_study_with_base_in_line_and_in_a_file(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    write(tmp_path / "runs" / "tiny.yaml", "model: {width: 32}\nlr: 0.5\n")
    inline = write(tmp_path / "a.yaml", "name: s\nbase: {model: {width: 32}, lr: 0.5}\naxes: {seed: 0}\n")
    file = write(tmp_path / "b.yaml", "name: s\nbase: runs/tiny.yaml\naxes: {seed: 0}\n")
    overridden = write(tmp_path / "c.yaml", "name: s\naxes: {seed: 0}\n")
    assert load_study(inline) == load_study(file) == load_study(overridden, ["base=runs/tiny.yaml"])
    assert load_study(file).base.model.width == 32


def test_overrides_reach_base_axes_and_filters(tmp_path: Path):
    path = write(tmp_path / "s.yaml", "name: s\naxes:\n  lr: 2^-9..2^-5\n  model.width: [64, 128]\n")
    study = load_study(
        path, ["base.precision=bf16", "axes.seed=[0,1]", "axes.model.width=2^5..2^6", "where=[lr > 2^-8]", "name=t"]
    )
    assert study.name == "t"
    assert study.base.precision == "bf16"
    assert study.axes == {"lr": tuple(2.0**k for k in range(-9, -4)), "model.width": (32, 64), "seed": (0, 1)}
    assert study.where == ("lr > 2^-8",)


def test_yaml_merge_keys_are_no_duplicates(tmp_path: Path):
    text = "name: s\nbase:\n  model: &m {width: 32, depth: 1}\nzipped:\n  - {<<: {seed: [0]}, lr: [1]}\n"
    assert load_study(write(tmp_path / "s.yaml", text)).zipped == ({"seed": (0,), "lr": (1,)},)


def test_configs_are_frozen_hashable_values():
    assert hash(RunConfig()) == hash(RunConfig(lr="2^-7"))
    assert RunConfig(model=ModelConfig(width="2^6")) == RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_values_and_docs_name_the_same_fields():
    assert list(values(RunConfig())) == list(field_docs(RunConfig))
    assert values(RunConfig())["model.width"] == 64


def test_defaults_in_the_reference_are_read_back(tmp_path: Path):
    docs = field_docs(RunConfig)
    overrides = [f"{name}={doc.default}" for name, doc in docs.items() if doc.default]
    assert len(overrides) > 30
    assert load_run(write(tmp_path / "r.yaml", "seed: 1"), overrides) == RunConfig()


def test_reference_has_every_field_with_words():
    lines = reference().partition("### Site")[0].splitlines()  # a site has a name, too
    for name, doc in [*field_docs(RunConfig).items(), *field_docs(StudyConfig).items()]:
        assert doc.description.endswith(".")
        if not name.startswith("base."):
            assert sum(line.startswith(f"| `{name}` | ") for line in lines) == 1
    assert "| `optimizer.beta2` | `0.95` | a number >= 0 and < 1 | Decay of the second moment. |" in lines
    assert "| `batch_tokens` | `2^11` | an integer > 0 | B: tokens per optimizer step, over all devices. |" in lines


def test_error_of_a_run_names_the_file(tmp_path: Path):
    path = write(tmp_path / "run.yaml", "optimizer: {beta3: 0.9}")
    with pytest.raises(ConfigError) as raised:
        load_run(path)
    assert str(raised.value) == f"{path}: optimizer.beta3: unknown field; did you mean optimizer.beta2?"


def test_overrides_reach_the_trunk(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("name: s\ntrunk: {at: 65536, fields: {lr: 2^-7}}")
    trunk = load_study(study, ["trunk.fields.schedule.warmup_tokens=0"]).trunk
    assert trunk is not None
    assert (trunk.at, trunk.fields) == ("65536", {"lr": "2^-7", "schedule.warmup_tokens": 0})
