"""Every run file is what it says it is: size, FLOPs, and the hardware that it needs."""

import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.devices import GIB
from configs.errors import ConfigError
from configs.ladder import GPU_SIZES, ladder, smallest_hardware
from configs.load import load_run
from configs.plan import Hardware, flops_per_token, n_params, plan
from configs.schema import RunConfig
from tests.processes import ROOT
from train.model import skeleton
from train.parametrization import verify

FILES = sorted(path for path in (ROOT / "configs/runs").glob("*.yaml") if path.name != "tiny.yaml")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def stated(path: Path) -> re.Match[str]:
    """The numbers in the head of a file."""
    head = r"# ([\d,]+) parameters, 20 tokens for each\. Smallest hardware: .*?(\d+) GPUs? of (\d+) GB\."
    found = re.match(head, path.read_text())
    assert found, f"{path.name} begins with its size and its smallest hardware"
    return found


def named(path: Path) -> float:
    """The parameters in a file's name."""
    return float(path.stem[:-1]) * {"k": 1e3, "m": 1e6, "b": 1e9}[path.stem[-1]]


@each_file
def test_parameters(path: Path):
    config = load_run(path)
    network = skeleton(config.model)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == n_params(config.model) == int(stated(path)[1].replace(",", ""))
    assert counted == pytest.approx(named(path), rel=0.15)
    assert verify(network, config)


@each_file
def test_flops(path: Path):
    """Matrix products forward and backward, counted one by one where attention is spelt out; norms cost none."""
    model = load_run(path).model
    network = skeleton(model)
    network.set_attn_implementation("eager")
    tokens = torch.zeros((1, model.seq_len), dtype=torch.long, device="meta")
    mask = torch.zeros((1, 1, model.seq_len, model.seq_len), device="meta")  # else its need is read from the tokens
    with FlopCounterMode(display=False) as counter:
        network(input_ids=tokens, attention_mask=mask).logits.sum().backward()
    norms = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() == 1)
    assert counter.get_total_flops() == model.seq_len * (flops_per_token(model) - 6 * norms)


@each_file
def test_tokens(path: Path):
    config = load_run(path)
    planned = plan(config, Hardware(1))
    assert abs(config.budget_tokens - 20 * planned.n_params) <= config.batch_tokens / 2
    assert 0.005 < planned.warmup_steps / planned.steps < 0.02
    assert planned.micro_batch_seqs == config.engine.micro_batch_seqs


def refused(config: RunConfig, ranks: int, gib: int) -> str:
    with pytest.raises(ConfigError) as raised:
        plan(config, Hardware(ranks, device_memory=gib * GIB))
    return str(raised.value)


@each_file
def test_the_stated_hardware_is_enough_and_none_smaller_is(path: Path):
    config = load_run(path)
    ranks, gib = (int(number) for number in stated(path).groups()[1:])
    assert plan(config, Hardware(ranks, device_memory=gib * GIB)).memory.total <= gib * GIB
    assert smallest_hardware(config) == (ranks, gib)
    smaller = [size for size in GPU_SIZES if size < gib]
    if ranks > 1:
        assert f"on {ranks // 2} rank" in refused(config, ranks // 2, gib)
    elif smaller:
        assert f"exceeds a device's {smaller[-1]} GiB: model state" in refused(config, 1, smaller[-1])


def test_the_ladder_covers_the_sizes_and_uses_what_they_need():
    runs = {path.stem: load_run(path) for path in FILES}
    assert sorted(runs, key=lambda stem: n_params(runs[stem].model)) == [
        *("100k", "1m", "10m", "40m", "125m", "350m", "1.3b", "3b", "7b")
    ]
    assert {stem for stem, run in runs.items() if run.engine.zero_stage == 3} == {"7b"}
    assert {run.model.base_width for run in runs.values()} == {64}
    assert {run.model.base_head_dim or run.model.head_dim for run in runs.values()} == {16}


def test_the_table_has_a_row_for_each_file():
    rows = ladder(ROOT / "configs/runs").splitlines()
    assert len(rows) == 2 + len(FILES) + 1
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert [row for row in rows if row.startswith("| `350m.yaml` | 348,427,264 | 1024 x 18 | 2048 | 524,288 |")]
