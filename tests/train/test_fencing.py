"""A worker whose run another one has taken over writes no more of it."""

import json

import pytest

from configs.claims import claim
from configs.errors import ConfigError
from configs.rundir import Status, read_status
from train.checkpoints import _start
from train.metrics import Record


def take_over(run_dir) -> None:
    (run_dir / "claim.json").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "launch": None}))


def test_no_status_and_no_checkpoint_after_a_takeover(process_group, tmp_path):
    assert claim(tmp_path)
    record = Record(tmp_path, Status(attempt=1), writes=True)
    record.update(now=True, tokens=5)
    _start(tmp_path, tmp_path / "checkpoints" / "5.partial", needed=1)
    take_over(tmp_path)
    with pytest.raises(RuntimeError, match="taken this run over"):
        record.update(now=True, tokens=6)
    with pytest.raises(ConfigError, match="taken this run over"):
        _start(tmp_path, tmp_path / "checkpoints" / "6.partial", needed=1)
    assert read_status(tmp_path).tokens == 5
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5.partial"]


def test_a_failure_after_a_takeover_is_not_recorded(process_group, tmp_path):
    from train.worker import _record_failure, _record_refusal

    assert claim(tmp_path)
    take_over(tmp_path)
    _record_failure(tmp_path, "boom")
    _record_refusal(tmp_path, "boom")
    assert read_status(tmp_path) == Status()
