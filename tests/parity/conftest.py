"""Two launches of `deepspeed` and the plain loops, once a session."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.local import free_ports
from tests.parity.cells import CELLS, read_batches
from tests.parity.results import Results, compare, expect, write
from tests.processes import ENVIRONMENT, ROOT


@pytest.fixture(scope="session")
def launches(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Future[dict[str, Any]]]]:
    """One launch for each number of ranks, one after another, while this process runs the plain loops."""
    folder = tmp_path_factory.mktemp("parity")
    with ThreadPoolExecutor(1) as pool:
        sizes = sorted({cell.world_size for cell in CELLS})
        yield [pool.submit(launch, ranks, data_dir, folder / f"{ranks}.pt") for ranks in sizes]


def launch(ranks: int, data_dir: Path, out: Path) -> dict[str, Any]:
    """What the engines of every cell with so many ranks did, by str(cell)."""
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "-q", "--num_gpus", str(ranks)),
        *("--master_port", str(free_ports(1)[0]), "--no_local_rank", "--module", "tests.parity.engines"),
        *(str(data_dir), str(out)),
    ]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out)


@pytest.fixture(scope="session")
def results(data_dir: Path, launches: list[Future[dict[str, Any]]]) -> Results:
    """Every cell against the plain loop; also written to the file that PARITY_JSON names."""
    batches = list(read_batches(data_dir))
    expected = expect(batches)
    found = compare(merged(launches), batches, expected)
    if "PARITY_JSON" in os.environ:
        write(found, Path(os.environ["PARITY_JSON"]))
    return found


@pytest.fixture(scope="session")
def measured(launches: list[Future[dict[str, Any]]]) -> dict[str, Any]:
    """What the engines of every cell did, by str(cell)."""
    return merged(launches)


def merged(launches: list[Future[dict[str, Any]]]) -> dict[str, Any]:
    return {cell: done for each in launches for cell, done in each.result().items()}
