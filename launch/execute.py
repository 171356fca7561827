"""`bcrit run`: a study file -> its directory, with every run finished, diverged, or resumable."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from rich.console import Console

from configs.errors import ConfigError
from configs.identity import run_id
from configs.manifest import Manifest
from configs.plan import check_tokens
from configs.rundir import ENDED, create_run, read_status, run_dir_of, write_atomic
from configs.schema import RunConfig
from launch.local import FINE, Layout, execute, log_of
from launch.progress import Snapshot, snapshots, watching
from launch.study import PlannedStudy


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

    Raises ConfigError.
    """
    for run in planned.runs:
        check_tokens(run, manifest.train.tokens, manifest.valid.tokens, manifest.vocab_size)
    pinned = {"fingerprint": manifest.fingerprint}
    return tuple(run.model_copy(update={"data": run.data.model_copy(update=pinned)}) for run in planned.runs)


def write_study(planned: PlannedStudy, runs: tuple[RunConfig, ...], study_dir: Path) -> tuple[Path, ...]:
    """Create or refresh the study's directory; the longest runs come first, so that workers end together.

    A study may grow: runs that are there stay, whether the study still asks for them or not.
    Raises ConfigError if the directory cannot be written.
    """
    cost = {run_id(run): plan.flops for run, plan in zip(runs, planned.plans, strict=True)}
    by_id = {run_id(run): run for run in runs}
    order = sorted(by_id, key=lambda identity: (-cost[identity], identity))
    try:
        for identity in order:
            create_run(run_dir_of(study_dir, identity), by_id[identity])
        lines = [{"id": name, "tokens": by_id[name].budget_tokens, "flops": cost[name]} for name in order]
        write_atomic(study_dir / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_atomic(study_dir / "study.yaml", yaml.safe_dump(planned.study.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"{study_dir}: cannot be written ({error.strerror}); choose another --out") from error
    return tuple(run_dir_of(study_dir, identity) for identity in order)


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
    budgets = {run_id(run): run.budget_tokens for run in runs}
    look = snapshots(list(run_dirs), [budgets[run_dir.name] for run_dir in run_dirs])
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
