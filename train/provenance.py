"""Which code, packages, machine and data made a run."""

import importlib.metadata
import platform
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from configs.rundir import write_json
from train.engine import device_label

_PACKAGES = ("bcrit", "torch", "deepspeed", "transformers", "datasets", "mup", "wandb", "numpy")


@cache
def code_version() -> str:
    """Commit of the checkout, with `+changes` if files differ from it; the package version outside a checkout.

    A snapshot for jobs has it in a file, since it may lie in another repository.
    """
    root = Path(__file__).resolve().parent.parent
    if (snapshot := root / "CODE_VERSION").exists():
        return snapshot.read_text().strip()

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return importlib.metadata.version("bcrit")


def write_provenance(run_dir: Path, fingerprint: str, world_size: int, lineage: dict[str, Any] | None) -> None:
    """Record what this attempt runs with; `lineage` is where a branch comes from and what it changes."""
    record: dict[str, Any] = {
        "code_version": code_version(),
        "data_fingerprint": fingerprint,
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "device": device_label(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
        "branch": lineage,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(run_dir / "provenance.json", record)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
