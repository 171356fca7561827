"""The study behind `bcrit transfer`: one run's configuration over widths, learning rates, seeds, parametrisations."""

from collections.abc import Sequence

from configs.errors import ConfigError
from configs.schema import RunConfig, StudyConfig

RATES = tuple(2.0**k for k in range(-3, 4))  # around the run's own learning rate


def transfer_grid(config: RunConfig, name: str, widths: Sequence[int], lrs: Sequence[float], seeds: int) -> StudyConfig:
    """Every width, learning rate and seed under muP and under standard parametrisation; no weights are kept.

    `widths`: empty for once, twice and four times the base width; `lrs`: empty for the run's own, up to three octaves
    off. Raises ConfigError for fewer than two widths or three learning rates.
    """
    widths = sorted(set(widths)) or [k * config.model.base_width for k in (1, 2, 4)]
    lrs = sorted(set(lrs)) or [config.lr * rate for rate in RATES]
    if len(widths) < 2:
        raise ConfigError(f"--widths {widths[0]}: a transfer is between widths; give at least two")
    if len(lrs) < 3:
        raise ConfigError("--lrs: an optimum needs at least three learning rates, such as 2^-10..2^-4")
    base = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"keep": "none"})})
    axes = {
        "model.parametrization": ("mup", "sp"),
        "model.width": tuple(widths),
        "lr": tuple(lrs),
        "seed": tuple(range(seeds)),
    }
    return StudyConfig(name=name, base=base, axes=axes)
