"""The runs of `bcrit coordcheck`: one short run a width and seed, each measured once and kept as a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.explain import validated
from configs.identity import run_id
from configs.manifest import Manifest
from configs.plan import Hardware, check_tokens, plan
from configs.rundir import read_json, write_json
from configs.schema import RunConfig
from train.coordinates import measure, shortened
from train.data.batches import open_split


def check_runs(
    config: RunConfig, corpus: Manifest, widths: Sequence[int], seeds: int, steps: int, *, grown_heads: bool
) -> list[RunConfig]:
    """The runs of a check on a corpus, narrowest first, each planned so that nothing starts that cannot end.

    `grown_heads`: a wider model has wider heads, not more of them. Raises ConfigError.
    """
    if len(set(widths)) < 2:
        raise ConfigError(f"--widths {', '.join(map(str, widths))}: a slope is over widths; give at least two")
    base_head = config.model.base_head_dim or config.model.head_dim
    runs = []
    for width in sorted(set(widths)):
        for seed in range(seeds):
            data = shortened(config, steps).model_dump()
            data["seed"], data["data"]["fingerprint"] = seed, corpus.fingerprint
            data["model"]["width"] = width
            if grown_heads:
                head = base_head * width / config.model.base_width
                data["model"] |= {"head_dim": head, "base_head_dim": base_head}
            run = validated(RunConfig, data, f"width {width}")
            plan(run, Hardware(world_size=1))
            check_tokens(run, corpus.train.tokens, corpus.valid.tokens, corpus.vocab_size)
            runs.append(run)
    return runs


def measured(
    runs: Sequence[RunConfig], corpus: Manifest, folder: Path, on_step: Callable[[], None]
) -> list[dict[str, Any]]:
    """Coordinates of every run (see `train.coordinates.measure`) with its parametrization, width and seed.

    What `folder` holds already is read, not trained again; `on_step` is called once for every step of every run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for run in runs:
        model = run.model
        stores = (open_split(corpus, "train", model.seq_len), open_split(corpus, "valid", model.seq_len))
        file = folder / f"{run_id(run)}-zero{run.engine.zero_stage}.json"
        if file.exists():
            found = read_json(file)["rows"]
            for _ in range(run.budget_tokens // run.batch_tokens):
                on_step()
        else:
            found = measure(run, stores, on_step)
            write_json(file, {"config": run.model_dump(mode="json"), "rows": found})
        about = {"parametrization": model.parametrization, "width": model.width, "seed": run.seed}
        rows += [about | row for row in found]
    return rows
