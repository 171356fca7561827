"""The name of a run: a content hash of what defines its result, so that equal runs are run once."""

import hashlib
import json
from typing import Any

from configs.errors import ConfigError
from configs.plan import readouts
from configs.schema import RunConfig

LATER = (("optimizer", "kind", "adamw"), ("optimizer", "second_moment", "zero"), ("schedule", "warmup", "linear"))


def run_id(config: RunConfig) -> str:
    """12 hex digits of the sha256 of what defines the result, equal for equal numbers however they were written.

    Left out are the engine, logging, checkpoints and where the data lies: they change the order of floating-point sums
    at most. Fields that are empty, or came later and are as they always were (LATER), are left out too, so old runs
    keep their names. The data enters by its fingerprint; raises ConfigError if that is not pinned.
    """
    if config.data.fingerprint is None:
        raise ConfigError(
            "data.fingerprint is empty: it is pinned when the data has been prepared, and names the run with it"
        )
    defining = config.model_dump(
        mode="json",
        exclude={"engine": True, "log": True, "checkpoint": True, "data": {"path"}},
        exclude_none=True,
    )
    for group, name, value in LATER:
        if defining[group][name] == value:
            del defining[group][name]
    defining["readout_tokens"] = list(readouts(config))
    text = json.dumps(_canonical(defining), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    """1.0 becomes 1, so that a field's type (int or float) does not enter the hash."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
