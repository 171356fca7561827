"""`bcrit lr-critical` at a checkpoint and before the first step."""

import re

import pytest

from launch.cli import main
from tests.train.conftest import checkpoints_of, run  # noqa: F401

CONFIG = """
model: {width: 32, base_width: 16, depth: 1, head_dim: 16, seq_len: 32}
data: {valid_tokens: 1024}
batch_tokens: 256
budget_tokens: 4096
"""


@pytest.fixture
def ask(monkeypatch, data_dir, capsys):
    """A function that runs the command in this process's group and returns its exit code and output."""
    from train import engine

    monkeypatch.setattr(engine, "start_distributed", lambda: None)
    monkeypatch.setattr(engine, "stop_distributed", lambda: None)

    def asked(*arguments):
        code = main(["lr-critical", *map(str, arguments), "--data-dir", str(data_dir)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return asked


def rates(text):
    """The critical rate, and its bracket."""
    (found,) = re.findall(r"lr_critical = (\S+): a step of (\S+) lowers the loss, one of (\S+) does not", text)
    return tuple(map(float, found))


def test_before_the_first_step_and_at_a_checkpoint(ask, run, tmp_path):  # noqa: F811
    (tmp_path / "run.yaml").write_text(CONFIG)
    code, before = ask(tmp_path / "run.yaml", "optimizer.beta2=0.99")
    assert code == 0
    assert "\nat 0 tokens, where the loss of the batch is " in before
    run(tmp_path / "run", "optimizer.beta2=0.99", stop_after=4)
    held = [path.read_bytes() for path in checkpoints_of(tmp_path / "run")[-1].rglob("*.pt")]
    code, after = ask(tmp_path / "run")
    assert code == 0
    assert "\nat 1,024 tokens, " in after
    assert rates(before) != rates(after)
    assert held == [path.read_bytes() for path in checkpoints_of(tmp_path / "run")[-1].rglob("*.pt")]
    critical, low, high = rates(after)
    assert low < high == critical


def test_bounds_are_said_to_be_bounds(ask, tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    assert "lr_critical > 0.0002: a step of that still lowers" in ask(tmp_path / "run.yaml", "--highest", "2e-4")[1]
    assert (
        "lr_critical <= 100: a step of that already raises"
        in ask(tmp_path / "run.yaml", "--start", "100", "--highest", "200")[1]
    )


def test_mistakes_are_one_line(ask, tmp_path):
    (tmp_path / "run").mkdir()
    code, said = ask(tmp_path / "run", "lr=2")
    assert (code, said) == (2, "error: lr=2: a run is looked at as it was trained; give its YAML file\n")
