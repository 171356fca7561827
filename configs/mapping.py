"""How the columns of somebody else's table become a run table: a preset file (YAML) and what the command line adds."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from configs.errors import ConfigError, did_you_mean
from configs.explain import validated
from configs.load import read_yaml

NEEDED = {
    "runs": ("tokens", "batch_tokens", "lr", "loss"),  # and width or n_params
    "steps": ("target_loss", "batch_tokens", "steps"),
}
POSITIVE = {  # numbers that must be above 0
    "runs": ("width", "n_params", "tokens", "batch_tokens", "lr", "loss_init", "seq_len", "depth", "noise_scale"),
    "steps": ("n_params", "target_loss", "batch_tokens", "steps", "seq_len"),
}
TEXT = {
    "runs": ("status", "study", "schedule", "parametrization", "precision", "data_fingerprint", "parent"),
    "steps": ("model", "study"),
}
OTHER = {"runs": ("loss", "seed", "train_loss", "budget_tokens", "branch_tokens"), "steps": ()}


class Mapping(BaseModel):
    """A mapping as asked. Expressions are those of `analysis.columns`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = Field("", description="what the table is and where it comes from")
    columns: dict[str, str | int | float] = Field(default_factory=dict, description="column here: expression there")
    where: str | None = Field(None, description="condition that a row must meet")
    group: tuple[str, ...] = Field((), description="what else differs: every combination is analysed apart")
    diverged_above: float | None = Field(None, gt=0, description="loss above which a run counts as diverged, nats")

    @property
    def kind(self) -> str:
        """`steps` for a table of steps to target losses, else `runs`."""
        return "steps" if "steps" in self.columns else "runs"


def read_mapping(
    preset: Path | None,
    columns: Iterable[str] = (),
    where: str | None = None,
    group: Iterable[str] = (),
    diverged_above: float | None = None,
) -> Mapping:
    """The preset, overridden by `columns` ("name=expression"), `where`, `group` and `diverged_above` where given.

    Raises ConfigError if a column is not known or one that is needed is missing.
    """
    asked = read_yaml(preset) if preset else {}
    more = dict(_split(text) for text in columns)
    given = {"where": where, "group": list(group) or None, "diverged_above": diverged_above}
    asked = asked | {name: value for name, value in given.items() if value is not None}
    mapping = validated(Mapping, asked | {"columns": {**(asked.get("columns") or {}), **more}}, str(preset or "--map"))
    kind = mapping.kind
    known = (*POSITIVE[kind], *TEXT[kind], *OTHER[kind])
    for name in mapping.columns:
        if name not in known:
            raise ConfigError(f"--map {name}: no such column in a table of {kind}; {did_you_mean(name, known)}")
    missing = [name for name in NEEDED[kind] if name not in mapping.columns]
    if kind == "runs" and not {"width", "n_params"} & set(mapping.columns):
        missing.append("width (or n_params)")
    if missing:
        raise ConfigError(f"--map: nothing gives {', '.join(missing)}; add --map {missing[0].split()[0]}=COLUMN")
    return mapping


def _split(text: str) -> tuple[str, str]:
    name, sign, expression = text.partition("=")
    if not sign or not expression.strip():
        raise ConfigError(f"--map {text}: write name=expression, such as lr=lr or batch_tokens='bs * 2048'")
    return name.strip(), expression.strip()
