"""The code as it is now, copied to where queued jobs find it, so that editing the checkout does not change them."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from configs.rundir import write_atomic

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("configs", "train", "launch", "analysis")
VERSION = "CODE_VERSION"  # of a snapshot, read by train.provenance in place of asking git


def code_files(root: Path = ROOT) -> list[Path]:
    """Files of the packages, relative to `root`, in order."""
    found = (path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file())
    return sorted(path.relative_to(root) for path in found if "__pycache__" not in path.parts)


def code_hash(root: Path = ROOT) -> str:
    """12 hex digits of a sha256 over the names and contents of the code."""
    digest = hashlib.sha256()
    for path in code_files(root):
        digest.update(f"{path}\0".encode() + hashlib.sha256((root / path).read_bytes()).digest())
    return digest.hexdigest()[:12]


def take_snapshot(where: Path, root: Path = ROOT) -> Path:
    """Copy the packages to `where`/code-<hash> (done once for equal code), with their version and their diff to git.

    Raises OSError where it cannot be written.
    """
    target = where / f"code-{code_hash(root)}"
    if target.exists():
        return target
    partial = where / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for path in code_files(root):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, partial / path)
        version, diff = version_of(root)
        write_atomic(partial / VERSION, version + "\n")
        write_atomic(partial / "changes.diff", diff)
        try:
            os.rename(partial, target)
        except OSError:
            if not target.exists():  # another submission was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def version_of(root: Path = ROOT) -> tuple[str, str]:
    """Commit of the code (`+changes` if files differ), and the diff to it; `unknown` and nothing without git."""
    if (root / VERSION).exists():  # a job that submits
        return (root / VERSION).read_text().strip(), (root / "changes.diff").read_text()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "--short=12", "HEAD").strip()
        changed = git("status", "--porcelain")
        return commit + ("+changes" if changed else ""), git("diff", "HEAD", "--", *PACKAGES)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", ""
