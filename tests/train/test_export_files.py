"""What an export takes and where it goes: the checkpoint asked for, and never over anything else."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.errors import ConfigError
from configs.identity import run_id
from configs.rundir import read_config
from tests.train.conftest import held_out
from train.data.prepare import ensure_embedded
from train.export import export
from train.model import loss_of


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_which_checkpoint(trained, tmp_path, data_dir, capsys):
    run_dir, tokens = tmp_path / "run", held_out(ensure_embedded(data_dir))
    kept = ("checkpoint.keep=readouts", "readout_tokens=[1024,2048]")
    readouts = {readout.tokens: readout.loss for readout in trained(run_dir, *kept).status.readouts}

    def exported(at: int | None) -> tuple[int, float]:
        out = export(run_dir, at, None)
        with torch.no_grad():
            loss = loss_of(AutoModelForCausalLM.from_pretrained(out), tokens).item()
        record = json.loads((out / "bcrit.json").read_text())
        assert record["run_id"] == run_id(read_config(run_dir))
        return record["tokens"], loss

    assert exported(1024) == (1024, pytest.approx(readouts[1024], rel=1e-6))
    assert "| 2,048 |" not in (run_dir / "model" / "README.md").read_text()
    assert exported(None) == (4096, pytest.approx(readouts[4096], rel=1e-6))
    with pytest.raises(ConfigError, match="no checkpoint at 3072 tokens: choose of those there, 1024, 2048, 4096"):
        export(run_dir, 3072, None)

    newest = run_dir / "checkpoints" / f"{4096:015d}" / "state" / "mp_rank_00_model_states.pt"
    flipped = bytearray(newest.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    newest.write_bytes(flipped)
    with pytest.raises(ConfigError, match=r"differs from its checksum: choose another .*1024, 2048"):
        export(run_dir, 4096, None)
    assert exported(None) == (2048, pytest.approx(readouts[2048], rel=1e-6))
    assert "is passed over" in capsys.readouterr().out


def test_what_is_there_is_not_overwritten(trained, tmp_path):
    run_dir, other, mine = tmp_path / "run", tmp_path / "other", tmp_path / "mine"
    trained(run_dir, "budget_tokens=1024")
    trained(other, "budget_tokens=1024", "seed=1")
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"mine: already there, something else than an export: .*--out"):
        export(run_dir, None, mine)
    out = export(run_dir, None, tmp_path / "out" / "model")
    with pytest.raises(ConfigError, match=f"already there, the export of run {run_id(read_config(run_dir))}: remove"):
        export(other, None, out)
    before = tree(out)
    (out / "README.md").write_text("older")
    assert tree(export(run_dir, None, out)) == before  # an older export of the same run gives way
    with pytest.raises(ConfigError, match="cannot be written"):
        export(run_dir, None, mine / "thesis.tex" / "model")
    assert tree(mine) == {"thesis.tex": b"x"}

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(ConfigError, match=r"model: cannot be written .*: make room"):
            export(run_dir, None, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_what_cannot_be_exported(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: no config.json, so it is not a run"):
        export(tmp_path / "nowhere", None, None)
    study = tmp_path / "study"
    run_dir = study / "runs" / "0123456789ab"
    trained(run_dir, "budget_tokens=1024", "checkpoint.keep=none")
    (study / "manifest.jsonl").write_text('{"id": "0123456789ab"}\n')
    with pytest.raises(ConfigError, match=f"study is a study: name one of its runs, such as {run_dir}"):
        export(study, None, None)
    with pytest.raises(ConfigError, match="no checkpoint at 512 tokens: choose of those there, none"):
        export(run_dir, 512, None)
    with pytest.raises(ConfigError, match=r"it is finished and has no checkpoint \(checkpoint.keep = none\)"):
        export(run_dir, None, None)

    other = tmp_path / "other"
    trained(other, "budget_tokens=1024")
    with pytest.raises(ConfigError, match="no average of the weights: train with ema_half_life_tokens"):
        export(other, None, None, ema=True)
    shutil.copytree(other / "checkpoints", run_dir / "checkpoints")
    (run_dir / "config.json").write_text(
        (other / "config.json")
        .read_text()
        .replace('"seed": 0', '"seed": 1')
        .replace('"keep": "none"', '"keep": "final"')
    )
    with pytest.raises(ConfigError, match="belongs to run"):
        export(run_dir, None, None)
    assert not (run_dir / "model").exists()
