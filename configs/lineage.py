"""What a branch changes of its trunk, and what it may not."""

from typing import Any

from configs.errors import ConfigError
from configs.fields import values
from configs.schema import RunConfig

_FIXED = (
    "model.",
    "data.fingerprint",
    "data.valid_tokens",
    "seed",
    "precision",
    "optimizer.kind",
)  # the tensors and the data go on
_EXECUTION = ("engine.", "log.", "checkpoint.", "data.path", "branch.")


def changed_fields(trunk: RunConfig, branch: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that define the result and differ: name -> (in the trunk, in the branch).

    Raises ConfigError if a field differs that must go on as it was.
    """
    before, after = values(trunk), values(branch)
    changed = {
        name: (before[name], after[name])
        for name in after
        if before[name] != after[name] and not name.startswith(_EXECUTION)
    }
    for name, (was, wanted) in changed.items():
        if name.startswith(_FIXED):
            raise ConfigError(f"{name} = {wanted} differs from the trunk's {was}: a branch goes on with the trunk's")
    return changed
