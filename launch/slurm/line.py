"""A task's line of its submission's manifest, and what of it is left to do; everything that a task must not mistake."""

import json
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.rundir import ENDED, manifest_ids, newest_tokens, parked, path_of, read_config, read_status, run_dir_of
from launch.slurm.submission import sha256


@dataclass(frozen=True)
class Left:
    """What a task can do now."""

    runs: tuple[str, ...]  # to be trained
    obstacles: tuple[str, ...]  # why not the others that have not ended, a line each


def read_line(manifest: Path, digest: str, number: int, study_dir: Path) -> tuple[str, ...]:
    """The runs of a line, by id.

    Raises ConfigError if the manifest was changed since it was submitted, or is another study's.
    """
    try:
        text = manifest.read_text()
    except OSError as error:
        raise ConfigError(f"{manifest}: {error.strerror}; submit the study again") from None
    if sha256(text) != digest:
        raise ConfigError(f"{manifest}: it was changed since it was submitted; submit the study again")
    lines = [json.loads(line) for line in text.splitlines()]
    if number >= len(lines):
        raise ConfigError(f"{manifest}: no line {number}, it has {len(lines)}; submit the study again")
    known = set(manifest_ids(study_dir))
    strange = [identity for line in lines for identity in line["runs"] if identity not in known]
    if strange:
        raise ConfigError(
            f"{manifest}: it is of study {lines[0]['study']}, whose run {strange[0]} is not in {study_dir}: "
            "submit this study with `bcrit submit`"
        )
    return tuple(lines[number]["runs"])


def left_of(study_dir: Path, runs: tuple[str, ...]) -> Left:
    """Which of a task's runs can be trained now, those that failed before last, and why not the others."""
    able, obstacles = [], []
    for identity in runs:
        status = read_status(run_dir_of(study_dir, identity))
        if status.state in ENDED:
            continue
        if obstacle := _obstacle(study_dir, identity):
            obstacles.append(f"{identity}: {obstacle}")
        else:
            able.append((status.failures if status.state == "failed" else 0, identity))
    able.sort(key=lambda run: run[0])
    return Left(tuple(identity for _, identity in able), tuple(obstacles))


def progress(study_dir: Path, runs: tuple[str, ...]) -> int:
    """Tokens that the runs have in safety."""
    total = 0
    for identity in runs:
        run_dir = run_dir_of(study_dir, identity)
        ended = read_status(run_dir).state in ENDED
        total += read_config(run_dir).budget_tokens if ended else newest_tokens(run_dir)
    return total


def failures(study_dir: Path, runs: tuple[str, ...]) -> int:
    """How often the runs have failed so far, in a row each."""
    return sum(read_status(run_dir_of(study_dir, identity)).failures for identity in runs)


def _obstacle(study_dir: Path, identity: str) -> str | None:
    run_dir = run_dir_of(study_dir, identity)
    status = read_status(run_dir)
    if parked(status):
        return f"parked, it failed {status.failures} times: {status.message}"
    if (run_dir / "STOP").exists():
        return "its STOP file asks to leave it; remove that to go on"
    branch = read_config(run_dir).branch
    if branch is None or status.attempt:
        return None
    trunk = run_dir_of(study_dir, branch.parent)
    if path_of(trunk, branch.tokens).exists() or read_status(trunk).state == "diverged":
        return None
    return f"its trunk {branch.parent} has not come to {branch.tokens} tokens ({read_status(trunk).state})"
