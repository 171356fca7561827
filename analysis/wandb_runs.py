"""The runs of a Weights & Biases project as a raw table, for `bcrit table wandb`; histories are kept, so that they are
downloaded once.

CACHE/runs.jsonl              one line a run, or a point of its curve: what `read_raw` reads
     /history/<id>-<n>.jsonl  the curve of a run that has ended, at its n-th row
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.rundir import write_atomic

PAGE = 100  # runs a request
ENDED = ("finished", "crashed", "failed", "killed")


def download(
    project: str, cache: Path, keys: Iterable[str], progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Write `cache`/runs.jsonl and return it; `progress` is told runs read and runs in all.

    Columns: `run` (its id), `name`, `state`, `group`, `tags`, every value of the config (nested ones as `model.width`)
    and of the summary; a summary value that a config value hides is `summary.<key>`. With `keys` a line for every
    logged row that has them all, else one a run. Raises ConfigError without the project, a key or the network.
    """
    import wandb

    keys = list(keys)
    if project.count("/") != 1:
        raise ConfigError(f"{project}: write it as ENTITY/PROJECT")
    try:
        runs = wandb.Api(timeout=60).runs(project, per_page=PAGE, order="+created_at")
        lines, total = [], len(runs)
        for done, run in enumerate(runs, start=1):
            about = described(run)
            lines += [about | row for row in _history(run, keys, cache / "history")] if keys else [about]
            progress(done, total)
    except (wandb.Error, ValueError, OSError) as error:  # ValueError: no such project
        raise ConfigError(f"wandb {project}: {str(error).splitlines()[0]}") from error
    if not lines:
        raise ConfigError(f"wandb {project}: no run" + (f" has rows with {', '.join(keys)}" if keys else ""))
    path = cache / "runs.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def described(run: Any) -> dict[str, Any]:
    """Identity, config and summary of a `wandb` run, flat."""
    about = {"run": run.id, "name": run.name, "state": run.state, "group": run.group, "tags": ", ".join(run.tags or [])}
    config, summary = dict(_flat(dict(run.config))), dict(_flat(dict(run.summary)))
    hidden = {f"summary.{key}" if key in config or key in about else key: value for key, value in summary.items()}
    return {**hidden, **config, **about}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool | None):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", json.dumps(value, default=str)


def _history(run: Any, keys: list[str], cache: Path) -> list[dict[str, Any]]:
    """The rows of a run that have all `keys`; those of a run that has ended are kept until it logs more."""
    safe = "-".join(key.replace("/", ".") for key in sorted(keys))
    path = cache / f"{run.id}-{run.lastHistoryStep}-{safe}.jsonl"
    if path.exists():
        return [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{key: row[key] for key in keys} for row in run.scan_history(keys=keys)]
    if run.state in ENDED:
        cache.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows
