"""A SLURM cluster for each file of tests, and studies on it."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import ENVIRONMENT, bcrit_command
from tests.slurm.cluster import Cluster, running, why_not

BASE = """
base:
  model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 64}
  data: {valid_tokens: 1024}
  engine: {zero_stage: 0}
  log: {wandb: disabled}
  checkpoint: {keep: none}
"""
SITE = {
    "name": "test",
    "partition": "cpu",
    "time_limit": "10:00",
    "signal_seconds": 60,
    "startup_seconds": 0.5,
    "flops_per_s": 1e9,
    "report": "{time_limit: 10:00}",
}


@dataclass(frozen=True)
class User:
    """Somebody with a cluster, a data directory and a place for studies."""

    cluster: Cluster
    data_dir: Path
    home: Path

    def bcrit(self, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command of bcrit's, to its end."""
        where = ["--data-dir", self.data_dir] if command in ("submit", "run") else []
        words = bcrit_command(command, *arguments, *where)
        environment = self.cluster.environment | ENVIRONMENT | {"SLURM_CONF": self.cluster.environment["SLURM_CONF"]}
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, cwd=self.home)

    def site(self, **fields: object) -> Path:
        """A site file."""
        path = self.home / "site.yaml"
        path.write_text("".join(f"{name}: {value}\n" for name, value in (SITE | fields).items()))
        return path

    def study(self, name: str, text: str) -> Path:
        """A study file."""
        path = self.home / f"{name}.yaml"
        path.write_text(f"name: {name}\n{text}")
        return path

    def logs(self, study_dir: Path) -> str:
        """What its jobs have said."""
        return "\n".join(f"{p.name}:\n{p.read_text()}" for p in sorted((study_dir / "slurm" / "logs").glob("*.log")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running(tmp_path_factory.mktemp("slurm") / "c") as started:
        yield started


@pytest.fixture
def user(cluster: Cluster, data_dir: Path, tmp_path: Path) -> Iterator[User]:
    yield User(cluster, data_dir, tmp_path)
    if left := [line.split()[0] for line in cluster.queue()]:
        cluster.run("scancel", *left)
        time.sleep(0.5)
        cluster.drain(60)


def submitted(user: User, name: str, text: str, **site: object) -> Path:
    """A study of that name, submitted."""
    out = user.home / name
    done = user.bcrit("submit", user.study(name, text), "--site", user.site(**site), "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def wait_for(user: User, study_dir: Path, condition, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, user.logs(study_dir)
        time.sleep(0.3)
