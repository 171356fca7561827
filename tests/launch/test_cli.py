"""Mistakes that only show when a study is about to run: one line, exit code 2, and no process started."""

import json

import pytest

from launch.cli import main

STUDY = """
name: small
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 64}
  data: {valid_tokens: 2048}
  log: {wandb: disabled}
  budget_tokens: 2^14
axes:
  lr: [2^-8, 2^-6]
"""


@pytest.fixture
def bcrit(tmp_path, data_dir, monkeypatch, capsys):
    """Run a command in this process, where starting a worker is a failure; returns (exit code, stderr)."""

    def no_worker(*arguments: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("launch.local.start_worker", no_worker)
    (tmp_path / "small.yaml").write_text(STUDY)

    def run(command: str, *arguments: object) -> tuple[int, str]:
        where = [] if command in ("table", "report", "analyse", "predict") else ["--data-dir", str(data_dir)]
        code = main([command, *map(str, arguments), *where])
        return code, capsys.readouterr().err

    return run


def refused(result: tuple[int, str], *words: str) -> bool:
    code, error = result
    return code == 2 and error.count("\n") == 1 and error.startswith("error: ") and all(w in error for w in words)


def test_more_tokens_than_there_are(bcrit, tmp_path):
    result = bcrit("run", tmp_path / "small.yaml", "base.budget_tokens=2^40", "base.batch_tokens=2^20")
    assert refused(result, "budget_tokens", "use at most"), result


def test_more_validation_tokens_than_there_are(bcrit, tmp_path):
    result = bcrit("run", tmp_path / "small.yaml", "base.data.valid_tokens=2^30")
    assert refused(result, "data.valid_tokens", "use at most"), result


def test_a_vocabulary_that_is_too_small(bcrit, tmp_path):
    result = bcrit("plan", tmp_path / "small.yaml", "base.model.vocab_size=256")
    assert refused(result, "model.vocab_size", "257"), result


def test_data_that_is_not_there(bcrit, tmp_path):
    result = bcrit("run", tmp_path / "small.yaml", f"base.data.path={tmp_path}/nothing")
    assert refused(result, "nothing", "bcrit data prepare"), result


def test_other_data_than_was_pinned(bcrit, tmp_path):
    result = bcrit("run", tmp_path / "small.yaml", "base.data.fingerprint=0123456789abcdef")
    assert refused(result, "data.fingerprint", "0123456789abcdef"), result


def test_a_directory_that_cannot_be_written(bcrit, tmp_path):
    (tmp_path / "file").write_text("")
    result = bcrit("run", tmp_path / "small.yaml", "--out", tmp_path / "file" / "study")
    assert refused(result, "cannot be written", "--out"), result


def test_a_batch_that_does_not_divide_over_ranks(bcrit, tmp_path):
    result = bcrit("run", tmp_path / "small.yaml", "base.batch_tokens=64", "--ranks", 2)
    assert refused(result, "batch_tokens", "world_size", "128"), result


def test_a_run_directory_of_another_run(bcrit, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(AssertionError, match="a process was started"):
        bcrit("run", tmp_path / "small.yaml", "--out", out)
    config = next((out / "runs").glob("*/config.json"))
    changed = json.loads(config.read_text()) | {"seed": 7}
    config.write_text(json.dumps(changed))
    result = bcrit("run", tmp_path / "small.yaml", "--out", out)
    assert refused(result, "another run", "remove it"), result


@pytest.mark.parametrize("command", ["table", "analyse", "report"])
def test_a_directory_without_a_study(bcrit, tmp_path, command):
    assert refused(bcrit(command, tmp_path / "nowhere"), "nowhere", "bcrit run")


@pytest.mark.parametrize("tokens", ["much", "-1", "2^18..2^20"])
def test_predict_wants_amounts(bcrit, tmp_path, tokens):
    assert refused(bcrit("predict", tmp_path, f"--tokens={tokens}", "--width", 64), "2^"), tokens
