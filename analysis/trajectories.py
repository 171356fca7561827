"""The sharpness probes of runs: how the loss, its sharpness and the threshold went, and in which regime a run began."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.stability import gd_threshold, momentum_threshold, threshold
from configs.rundir import manifest_ids, read_config, read_metrics, run_dir_of
from configs.schema import RunConfig

CHANGED = 1.5  # factor by which a sharpness must have moved to have risen or fallen
PROBED = ["tokens", "loss", "sharpness", "preconditioned", "lr"]
Regime = Literal["sharpening", "constant", "reduction", "brief", "driven"]


@dataclass(frozen=True)
class Natural:
    """What the pre-conditioned sharpness does by itself: from where it is below its threshold to where it meets it."""

    regime: Regime
    change: float  # the last such value / the first
    from_tokens: int  # where the first such probe was: above 0, it began at its threshold
    until_tokens: int  # where the last was
    met: bool  # whether the threshold was met at a later probe


def trajectory(run_dir: Path, config: RunConfig) -> pd.DataFrame:
    """One row a probe in order of tokens: PROBED; `threshold` of the pre-conditioned sharpness, and `ratio` to it; what
    `sharpness` would meet at the same rate under gradient descent without and with momentum beta1 (`threshold_gd`,
    `threshold_momentum`).

    `lr` is that of the step that follows. `threshold` is empty for optimizers without a pre-conditioner.
    """
    rows = [row for row in read_metrics(run_dir) if row["kind"] == "sharpness"]
    found = pd.DataFrame([{name: row[name] for name in PROBED} for row in rows], columns=pd.Index(PROBED))
    found = found.drop_duplicates("tokens", keep="last").sort_values("tokens", ignore_index=True)
    limits = [threshold(config.optimizer.kind, lr, config.optimizer.beta1) for lr in found["lr"]]
    found["threshold"] = pd.Series(limits, index=found.index, dtype=float)
    found["threshold_gd"] = [gd_threshold(lr) for lr in found["lr"]]
    found["threshold_momentum"] = [momentum_threshold(lr, config.optimizer.beta1) for lr in found["lr"]]
    found["preconditioned"] = found["preconditioned"].astype(float)
    return found.assign(ratio=found["preconditioned"] / found["threshold"])


def trajectories(study_dir: Path) -> pd.DataFrame:
    """The trajectories of all runs of a study that have probes, with `run_id`; no rows if none has."""
    found = []
    for identity in manifest_ids(study_dir):
        run_dir = run_dir_of(study_dir, identity)
        config = read_config(run_dir)
        if config.log.sharpness.every_tokens:
            found.append(trajectory(run_dir, config).assign(run_id=identity))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=pd.Index([*PROBED, "run_id"]))


def natural(tokens: Sequence[int], preconditioned: Sequence[float], ratio: Sequence[float]) -> Natural:
    """The regime of a trajectory while it is below its threshold (ratio below 1), the first time.

    Adam's first second moment is one gradient's square, so that nearly every trajectory begins far above its threshold;
    what is natural begins when it has come down. sharpening or reduction: over that stretch it has risen, or fallen, by
    more than CHANGED; else constant. brief: it was below at one probe only, driven: at none. The paper reads regimes
    off figures; the factor and the stretch were chosen here.
    """
    below = [value < 1 for value in ratio]
    if not any(below):
        return Natural("driven", nan, tokens[-1] if len(tokens) else 0, tokens[-1] if len(tokens) else 0, False)
    first = below.index(True)
    last = next((i for i in range(first, len(below)) if not below[i]), len(below)) - 1
    change = preconditioned[last] / preconditioned[first]
    regime: Regime = "sharpening" if change > CHANGED else "reduction" if change < 1 / CHANGED else "constant"
    if first == last < len(below) - 1:
        regime, change = "brief", nan
    return Natural(regime, change, tokens[first], tokens[last], last + 1 < len(below))
