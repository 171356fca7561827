"""What a run and a study are: frozen pydantic models, the only place where a field is named and explained.

Units: batch and budget in tokens, `_seqs` where sequences are meant, learning rate `lr`, losses in nats.
A field is checked here by itself; what fields ask of each other (divisibility) is checked in `configs.plan`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from configs.expressions import axis_values, number

_Number = BeforeValidator(number)  # last in each type, so that the bounds reach the type's JSON schema
PositiveInt = Annotated[int, Field(gt=0), _Number]
EvenInt = Annotated[int, Field(gt=0, multiple_of=2), _Number]  # rotary positions turn coordinates in pairs
Unsigned = Annotated[int, Field(ge=0), _Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _Number]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _Number]
Fraction = Annotated[float, Field(ge=0, lt=1), _Number]  # of a moment that is kept: 1 would never forget
Share = Annotated[float, Field(ge=0, le=1), _Number]
PositiveShare = Annotated[float, Field(gt=0, le=1), _Number]
AboveOne = Annotated[float, Field(gt=1, allow_inf_nan=False), _Number]
AxisValues = Annotated[tuple[Any, ...], BeforeValidator(axis_values)]


class Frozen(BaseModel):
    """Immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Frozen):
    """A decoder transformer (Granite: RMSNorm, RoPE, SwiGLU, no biases) and how it scales with width."""

    width: PositiveInt = Field(64, description="Residual width N (hidden size).")
    base_width: PositiveInt = Field(
        64, description="Width at which mup equals sp; multipliers follow width / base_width."
    )
    depth: PositiveInt = Field(2, description="Number of transformer blocks.")
    head_dim: EvenInt = Field(16, description="Size of an attention head; width / head_dim heads.")
    base_head_dim: EvenInt | None = Field(
        None, description="Head size at base width (empty: head_dim); 1/d attention beyond it."
    )
    ffn_ratio: PositiveInt = Field(3, description="Feed-forward width / width.")
    seq_len: PositiveInt = Field(128, description="Context length in tokens; every sequence is full.")
    vocab_size: PositiveInt = Field(257, description="Rows of the embedding; at least the data's vocabulary.")
    parametrization: Literal["mup", "sp"] = Field(
        "mup", description="mup: maximal update; sp: standard, for comparison."
    )
    hidden_init_std: PositiveFloat = Field(
        0.125, description="Init std of hidden matrices at base width; falls as width^-1/2."
    )
    embedding_init_std: PositiveFloat = Field(0.1, description="Init std of the token embedding.")
    output_init_std: NonNegative = Field(
        0.0, description="Init std of the output head at base width; 0 starts at uniform predictions."
    )
    embedding_multiplier: PositiveFloat = Field(1.0, description="Forward multiplier of the embedding.")
    output_multiplier: PositiveFloat = Field(1.0, description="Forward multiplier of the logits at base width.")
    residual_multiplier: PositiveFloat = Field(1.0, description="Forward multiplier of each residual branch.")
    rope_theta: PositiveFloat = Field(10_000.0, description="Base of the rotary position encoding.")


class DataConfig(Frozen):
    """Which tokens: the embedded corpus, or a directory written by `bcrit data prepare`."""

    path: Path | None = Field(
        None, description="Packed corpus; empty: the embedded corpus (Python sources of this machine, as bytes)."
    )
    fingerprint: str | None = Field(
        None, description="Expected fingerprint of the packed data; pinned by the launcher."
    )
    valid_tokens: PositiveInt = Field(2**15, description="Tokens of the fixed validation set, the same for every run.")


class OptimizerConfig(Frozen):
    """Decoupled AdamW; what the parametrisation multiplies is in `configs.mup`."""

    beta1: Fraction = Field(0.9, description="Decay of the first moment.")
    beta2: Fraction = Field(0.95, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the root of the second moment, at base width.")
    weight_decay: NonNegative = Field(
        0.0, description="Decoupled decay at base width; each step shrinks by lr * weight_decay."
    )
    clip_norm: NonNegative = Field(
        1.0, description="Clip the global norm of the mean gradient; 0 switches clipping off."
    )


class ScheduleConfig(Frozen):
    """Shape of the learning rate as a function of consumed tokens, peak 1."""

    kind: Literal["constant", "wsd", "cosine", "linear"] = Field(
        "constant", description="constant: one run gives every budget."
    )
    warmup_tokens: Unsigned = Field(0, description="Linear warmup from 0, in tokens.")
    decay_fraction: PositiveShare = Field(0.2, description="wsd: the last part of the budget, decayed linearly.")
    final_ratio: Share = Field(0.0, description="Final learning rate / peak, for wsd, cosine and linear.")


class EngineConfig(Frozen):
    """How a run is executed; nothing here defines its result beyond floating-point order."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage.")
    micro_batch_seqs: PositiveInt = Field(32, description="Most sequences of one forward pass on one device.")


class LogConfig(Frozen):
    """What is written while training."""

    every_tokens: PositiveInt | None = Field(
        None, description="Tokens between training-loss records (default: about 1/256 of the budget, whole steps)."
    )
    wandb: Literal["offline", "online", "disabled"] = Field(
        "offline", description="Weights & Biases mode; the run directory is the truth in all."
    )
    wandb_project: str = Field("bcrit", description="Weights & Biases project.")
    wandb_entity: str | None = Field(None, description="Weights & Biases entity (team).")


class CheckpointConfig(Frozen):
    """When a run can be resumed from."""

    every_seconds: PositiveFloat = Field(
        600.0, description="Time between checkpoints; one is also written when a run is stopped."
    )
    keep_final: bool = Field(True, description="Keep the checkpoint at the end of the run.")


class RunConfig(Frozen):
    """One training job."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    lr: PositiveFloat = Field(2**-7, description="Peak learning rate at base width.")
    batch_tokens: PositiveInt = Field(2**11, description="B: tokens per optimizer step, over all devices.")
    budget_tokens: PositiveInt = Field(2**18, description="T: tokens of the whole run.")
    readout_tokens: tuple[PositiveInt, ...] = Field(
        (), description="Token counts at which validation loss is read; budget_tokens is always the last."
    )
    seed: Unsigned = Field(0, description="Seeds the initialisation and the order of the data.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Compute precision; master weights and accumulation are fp32."
    )
    explode_ratio: AboveOne = Field(
        2.0, description="A training loss above explode_ratio x the loss at initialisation ends the run as diverged."
    )


class StudyConfig(Frozen):
    """A grid of runs: a base and axes over it.

    `axes` are crossed; each entry of `zipped` moves its keys together; a run is kept if every `where` is true.
    """

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the study and of its directory.",
        json_schema_extra={"allowed": "letters, digits, '.', '_' and '-', starting with a letter or digit"},
    )
    base: RunConfig = Field(
        default_factory=RunConfig, description="The run that the axes vary (or the path of a run's YAML file)."
    )
    axes: dict[str, AxisValues] = Field(
        default_factory=dict,
        description="Dotted field -> values, crossed: a list, or a range such as `2^8..2^13` or `2^-10..2^-5 by 2^0.5`.",
        json_schema_extra={"allowed": "fields with their values"},
    )
    zipped: tuple[dict[str, AxisValues], ...] = Field(
        (),
        description="Groups of fields whose values move together, each written like `axes`.",
        json_schema_extra={"allowed": "a list of groups of fields with their values"},
    )
    where: tuple[str, ...] = Field(
        (), description="Conditions on a run's fields, e.g. `batch_tokens <= budget_tokens / 16`."
    )
