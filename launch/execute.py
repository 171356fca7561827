"""`bcrit run`: a study file -> its directory, with every run finished, diverged, or resumable."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from configs.errors import ConfigError
from configs.identity import run_id
from configs.manifest import Manifest
from configs.plan import check_tokens, start_tokens
from configs.rundir import ENDED, create_run, read_status, run_dir_of, write_atomic
from configs.schema import BranchConfig, RunConfig
from launch.grid import pinned
from launch.local import FINE, Layout, execute, log_of
from launch.progress import Snapshot, snapshots, watching
from launch.study import PlannedStudy
from launch.trunks import longest_chains


@dataclass(frozen=True)
class Outcome:
    """What an execution left behind."""

    run_dirs: tuple[Path, ...]
    nothing_to_do: bool
    broken_logs: tuple[Path, ...]  # logs of workers that ended with an error
    before: Snapshot
    after: Snapshot


def pin_data(planned: PlannedStudy, manifest: Manifest) -> tuple[RunConfig, ...]:
    """The study's runs with the fingerprint of their data, after checking that there are tokens enough.

    That names the trunks, and so completes the branches. Raises ConfigError.
    """
    for run in planned.runs:
        check_tokens(run, manifest.train.tokens, manifest.valid.tokens, manifest.vocab_size)
    runs = [pinned(run, manifest.fingerprint) for run in planned.runs]
    names = [run_id(trunk) for trunk in runs[: planned.n_trunks]]
    parents = [None if trunk is None else names[trunk] for trunk in planned.trunk_of]
    return tuple(
        run.model_copy(update={"branch": BranchConfig(parent=parent, tokens=start_tokens(run))}) if parent else run
        for run, parent in zip(runs, parents, strict=True)
    )


def write_study(planned: PlannedStudy, runs: tuple[RunConfig, ...], study_dir: Path) -> tuple[Path, ...]:
    """Create or refresh the study's directory; what most work hangs on comes first, so that workers end together.

    That is the longest run, or the trunk with the longest way to the end of a branch; so trunks precede their branches.
    A study may grow: runs that are there stay, whether the study still asks for them or not.
    Raises ConfigError if the directory cannot be written, or a branch comes too late for its trunk.
    """
    names = [run_id(run) for run in runs]
    cost = [plan.flops for plan in planned.plans]
    chains = dict(zip(names, longest_chains(cost, planned.plans, planned.trunk_of), strict=True))
    flops, by_id = dict(zip(names, cost, strict=True)), dict(zip(names, runs, strict=True))
    order = sorted(by_id, key=lambda identity: (-chains[identity], identity))
    try:
        for run in by_id.values():
            _check_in_time(run, study_dir)
        for identity in order:
            create_run(run_dir_of(study_dir, identity), by_id[identity])
        lines = [_line(name, by_id[name], flops[name]) for name in order]
        write_atomic(study_dir / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_atomic(study_dir / "study.yaml", yaml.safe_dump(planned.study.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"{study_dir}: cannot be written ({error.strerror}); choose another --out") from error
    return tuple(run_dir_of(study_dir, identity) for identity in order)


def _line(identity: str, run: RunConfig, flops: int) -> dict[str, Any]:
    parent = {"parent": run.branch.parent} if run.branch else {}
    return {"id": identity, "tokens": run.budget_tokens, "flops": flops, **parent}


def _check_in_time(run: RunConfig, study_dir: Path) -> None:
    """A trunk that is past the place where a new branch leaves it has no checkpoint for it, and never will."""
    if not run.branch:
        return
    status = read_status(run_dir_of(study_dir, run_id(run)))
    if status.state in ENDED or status.attempt:
        return
    trunk = run_dir_of(study_dir, run.branch.parent)
    there = [int(path.name) for path in (trunk / "checkpoints").glob("*") if path.name.isdigit()]
    status = read_status(trunk)
    reached = status.tokens if status.state in ENDED else max(there, default=0)
    if (status.state == "finished" or reached > run.branch.tokens) and run.branch.tokens not in there:
        raise ConfigError(
            f"{trunk}: this trunk is past {run.branch.tokens} tokens, where a branch is to leave it, and kept no "
            "checkpoint there: remove that directory to train it again"
        )


def run_study(
    planned: PlannedStudy,
    runs: tuple[RunConfig, ...],
    study_dir: Path,
    data_dir: Path,
    arrangement: Layout,
    console: Console,
) -> Outcome:
    """Train what is not finished.

    Raises ConfigError for a directory that holds something else, KeyboardInterrupt when stopped.
    """
    run_dirs = write_study(planned, runs, study_dir)
    spans = {run_id(run): (start_tokens(run), run.budget_tokens) for run in runs}
    look = snapshots(list(run_dirs), [spans[run_dir.name] for run_dir in run_dirs])
    before = look()
    left = sum(read_status(run_dir).state not in ENDED for run_dir in run_dirs)
    if not left:
        return Outcome(run_dirs, True, (), before, before)
    fewer = replace(arrangement, workers=min(arrangement.workers, left))
    size = f"{fewer.workers} worker(s) x {fewer.ranks} rank(s)"
    console.print(f"{left} of {len(run_dirs)} runs to do with {size}; logs in {study_dir}/logs")
    with watching(console, look) as watch:
        codes = execute(study_dir, data_dir, fewer, watch)
    broken = tuple(log_of(study_dir, index) for index, code in enumerate(codes) if code not in FINE)
    return Outcome(run_dirs, False, broken, before, look())
