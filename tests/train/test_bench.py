"""The benchmark's loops do the same work, and the command writes what it measured."""

import json
import subprocess
import sys

import pytest
import torch

from configs.plan import Hardware, plan
from launch.bench_cases import tiny
from tests.processes import ENVIRONMENT
from tests.ranks import run_bcrit
from train.bench.loops import bare, engine_only
from train.bench.measure import ratio, shortened, with_data
from train.bench.stacked import stacked

STEPS = 4


@pytest.fixture(scope="module")
def case(data_dir):
    """A run, its plan, and its data."""
    config, stores = with_data(
        tiny("batch_tokens=2^9", "engine.micro_batch_seqs=2", "data.valid_tokens=2^10"), data_dir
    )
    short = shortened(config, plan(config, Hardware(world_size=1)), STEPS)
    return short, plan(short, Hardware(world_size=1)), stores


def test_the_bare_loop_and_the_engine_train_the_same_weights(case, process_group):
    by_hand, network = bare(*case, STEPS)
    assert by_hand() > 0
    with engine_only(*case, STEPS) as (loop, trained):
        assert loop() > 0
        for name, parameter in trained.named_parameters():
            torch.testing.assert_close(parameter, network.get_parameter(name), rtol=0, atol=2e-6)


def test_a_stacked_run_is_what_it_is_alone(case, process_group):
    config, planned, stores = case
    loop, parameters = stacked(config, planned, stores, STEPS, members=3)
    loop()
    for member in range(3):
        own = config.model_copy(update={"lr": config.lr * 2 ** (-member / 3)})
        alone, network = bare(own, planned, stores, STEPS)
        alone()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameters[name][member], parameter, rtol=0, atol=2e-5)


def test_a_ratio_compares_round_by_round():
    found = ratio(torch.tensor([1.0, 2.0, 4.0]).numpy(), of=torch.tensor([1.0, 1.0, 1.0]).numpy())
    assert (found.low, found.median, found.high) == (0.375, 0.5, 0.75)


def test_the_command_writes_what_it_measured(tmp_path, data_dir):
    out = tmp_path / "bench.json"
    asked = ["--quick", "--only", "loops", "--only", "noise", "--only", "processes", "--rounds", "1", "--out", str(out)]
    asked += ["--data-dir", str(data_dir), "data.valid_tokens=2^10"]
    code, printed = run_bcrit("bench", *asked, log=tmp_path / "log.txt")
    assert code == 0, printed
    found = json.loads(out.read_text())
    assert set(found) == {"machine", "loops", "noise", "processes"}
    (case,) = found["loops"].values()
    assert set(case["step_ms"]) == {"bare", "nanogpt", "engine", "whole"}
    assert all(step > 0 for step in case["step_ms"].values())
    assert case["of_bare"]["bare"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert all(taken["peak_bytes"] > 2**26 for loops in found["processes"].values() for taken in loops.values())
    (probes,) = found["noise"].values()
    assert set(probes) == {"gradients", "gains"}
    assert all(0 < cost["low"] <= cost["median"] <= cost["high"] for cost in probes.values())
    assert "speed / bare" in printed
    assert "peak memory" in printed


def test_peak_memory_is_that_of_the_process_itself():
    """A process whose parent was large is not large; ru_maxrss, which survives exec, would say it is."""
    large = bytearray(3 * 2**29)
    code = "from train.engine import peak_memory_bytes as p; print(p())"
    said = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert 2**26 < int(said.stdout.split()[-1]) < len(large)
