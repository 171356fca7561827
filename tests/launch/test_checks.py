"""`bcrit coordcheck` and `bcrit transfer` as they are called: numbers, verdicts, exit codes, pages."""

import json
from itertools import count
from math import log2
from pathlib import Path

import pytest

from launch.cli import main
from tests.ranks import run_bcrit

RUN = """
model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 32,
  hidden_init_std: 2^-2.5, output_init_std: 2^-3.5}
data: {valid_tokens: 4096}
lr: 2^-6
batch_tokens: 256
budget_tokens: 2^14
schedule: {warmup_tokens: 2^11}
engine: {zero_stage: 0}
log: {wandb: disabled}
checkpoint: {keep: none}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RUN)
    return path


@pytest.fixture
def bcrit(tmp_path: Path):
    """The command in a process of its own: (exit code, what it wrote)."""
    logs = (tmp_path / f"log-{number}" for number in count())
    return lambda *arguments: run_bcrit(*arguments, log=next(logs))


def test_a_coordinate_check_fails_by_its_exit_code(bcrit, config: Path, tmp_path: Path, data_dir: Path):
    out = tmp_path / "check"
    command = ("coordcheck", config, "--widths", "64,256", "--seeds", 1, "--steps", 4, "lr=2^-8", "batch_tokens=512")
    where = ("--out", out, "--data-dir", data_dir)
    code, said = bcrit(*command, "model.parametrization=sp", *where)
    assert code == 1, said
    assert "sp: FAILED" in said
    assert "sp: failed" in (out / "index.html").read_text()
    found = {(s["kind"], s["quantity"], s["step"]): s for s in json.loads((out / "coordinates.json").read_text())["sp"]}
    assert found["logits", "update", 4]["exponent"]["value"] > 0.4
    assert not found["logits", "update", 4]["passed"]
    kept = sorted((out / "measured").iterdir())
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    assert bcrit(*command, "model.parametrization=sp", *where)[0] == 1
    assert [path.stat().st_mtime_ns for path in kept] == times  # what was measured is read


def test_a_transfer_trains_judges_and_goes_on_where_it_was(bcrit, config: Path, tmp_path: Path, data_dir: Path):
    out = tmp_path / "study"
    command = ("transfer", config, "--widths", "32,128", "--lrs", "2^-9..2^-4", "--seeds", 1, "--out", out)
    code, said = bcrit(*command, "--data-dir", data_dir)
    assert code == 0, said
    for name in ("parametrization=mup: log2 lr* spreads over", "parametrization=sp: log2 lr* spreads over"):
        assert name in " ".join(said.split())
    mup, sp = json.loads((out / "transfer" / "transfer.json").read_text())["transfers"]
    assert [cell["width"] for cell in mup["cells"]] == [32, 128]
    for transfer in (mup, sp):  # at base width both are the same runs, bit for bit
        assert transfer["cells"][0]["argmin_loss"] == mup["cells"][0]["argmin_loss"]
    kept, lost = (log2(t["cells"][1]["argmin_lr"] / t["cells"][0]["argmin_lr"]) for t in (mup, sp))
    assert abs(kept) <= 1
    assert lost <= min(-1, kept - 1)  # the standard one's best learning rate falls about as the width grows, by 4
    assert (out / "transfer" / "index.html").exists()
    _, again = bcrit(*command, "--data-dir", data_dir)
    assert "Nothing to do" in again
    _, judged = bcrit("transfer", out)  # a study that was run, without its configuration
    assert judged.splitlines()[-3:] == again.splitlines()[-3:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("transfer", "CONFIG", "--widths", "32"), "--widths 32: a transfer is between widths"),
        (("transfer", "CONFIG", "--lrs", "2^-8,2^-7"), "--lrs: an optimum needs at least three"),
        (("transfer", "CONFIG", "--widths", "32,40"), "model.width = 40 is not a multiple of model.head_dim"),
        (("coordcheck", "CONFIG", "--widths", "32"), "--widths 32: a slope is over widths"),
        (("coordcheck", "CONFIG", "--widths", "32,40"), "model.width = 40 is not a multiple of model.head_dim"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(options, message, config, tmp_path, data_dir, capsys):
    filled = [str(config) if option == "CONFIG" else option for option in options]
    assert main([*filled, "--out", str(tmp_path / "out"), "--data-dir", str(data_dir)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_no_study_is_said_to_be_none(tmp_path, capsys):
    assert main(["transfer", str(tmp_path)]) == 2
    assert "manifest.jsonl" in capsys.readouterr().err
