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
DepthAlpha = Annotated[float, Field(ge=0.5, le=1), _Number]  # the range in which CompleteP is stable
PositiveShare = Annotated[float, Field(gt=0, le=1), _Number]
AboveOne = Annotated[float, Field(gt=1, allow_inf_nan=False), _Number]
OptimizerKind = Literal[
    "adamw", "adam_lagged", "rmsprop", "rmsprop_lagged", "sign", "lion", "adafactor", "adagrad", "sgd"
]
SecondMoment = Literal["zero", "gradient", "random"]
AxisValues = Annotated[tuple[Any, ...], BeforeValidator(axis_values)]


class Frozen(BaseModel):
    """Immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Frozen):
    """A decoder transformer (Granite: RMSNorm, RoPE, SwiGLU, no biases) and how it scales with width."""

    width: PositiveInt = Field(default=64, description="Residual width N (hidden size).")
    base_width: PositiveInt = Field(
        default=64, description="Width at which mup equals sp; multipliers follow width / base_width."
    )
    depth: PositiveInt = Field(default=2, description="Number of transformer blocks.")
    base_depth: PositiveInt | None = Field(
        default=None, description="mup: depth from which CompleteP scales (empty: depth is not scaled)."
    )
    depth_alpha: DepthAlpha = Field(
        default=1.0,
        description="CompleteP: a residual branch falls as (depth / base_depth)^-depth_alpha; at 1 no rate depends on "
        "depth.",
    )
    head_dim: EvenInt = Field(default=16, description="Size of an attention head; width / head_dim heads.")
    base_head_dim: EvenInt | None = Field(
        default=None, description="Head size at base width (empty: head_dim); 1/d attention beyond it."
    )
    ffn_ratio: PositiveInt = Field(default=3, description="Feed-forward width / width.")
    qk_norm: bool = Field(default=False, description="RMSNorm of each head's query and key, before their rotation.")
    tied: bool = Field(
        default=False, description="The output head is the token embedding; output_init_std is not used then."
    )
    seq_len: PositiveInt = Field(default=128, description="Context length in tokens; every sequence is full.")
    vocab_size: PositiveInt = Field(default=257, description="Rows of the embedding; at least the data's vocabulary.")
    parametrization: Literal["mup", "sp"] = Field(
        default="mup", description="mup: maximal update; sp: standard, for comparison."
    )
    # This base was chosen by configs/studies/base.yaml; what it does over widths stands in the README.
    hidden_init_std: PositiveFloat = Field(
        default=2**-3, description="Init std of hidden matrices at base width; falls as width^-1/2."
    )
    embedding_init_std: PositiveFloat = Field(default=2**-3, description="Init std of the token embedding.")
    output_init_std: NonNegative = Field(
        default=2**-4, description="Init std of the output head at base width; 0 starts at uniform predictions."
    )
    embedding_multiplier: PositiveFloat = Field(default=8.0, description="Forward multiplier of the embedding.")
    embedding_lr_multiplier: PositiveFloat = Field(
        default=1.0, description="Learning rate of the token embedding / lr, at every width."
    )
    output_multiplier: PositiveFloat = Field(default=4.0, description="Forward multiplier of the logits at base width.")
    residual_multiplier: PositiveFloat = Field(default=2.0, description="Forward multiplier of each residual branch.")
    rope_theta: PositiveFloat = Field(default=10_000.0, description="Base of the rotary position encoding.")


class DataConfig(Frozen):
    """Which tokens: the embedded corpus, or a directory written by `bcrit data prepare`."""

    path: Path | None = Field(
        default=None,
        description="Packed corpus; empty: the embedded corpus (Python sources of this machine, as bytes).",
    )
    fingerprint: str | None = Field(
        default=None, description="Expected fingerprint of the packed data; pinned by the launcher."
    )
    valid_tokens: PositiveInt = Field(
        default=2**15, description="Tokens of the fixed validation set, the same for every run."
    )


class OptimizerConfig(Frozen):
    """How gradients become steps, with decoupled decay; what the parametrisation multiplies is in `configs.mup`."""

    kind: OptimizerKind = Field(
        default="adamw", description="The optimizer; adam_lagged and rmsprop_lagged divide by the v of the step before."
    )
    beta1: Fraction = Field(default=0.9, description="Decay of the first moment, or momentum.")
    beta2: Fraction = Field(default=0.95, description="Decay of the second moment.")
    second_moment: SecondMoment = Field(
        default="zero",
        description="Adam's second moment before the first step; gradient: the first gradient squared (GI-Adam), with "
        "the bias corrections as they are; random: squares of a random direction of that gradient's norm, its control.",
    )
    eps: PositiveFloat = Field(default=1e-8, description="Added to the root of the second moment, at base width.")
    weight_decay: NonNegative = Field(default=0.0, description="Decoupled decay of matrices; see decay_rule.")
    decay_rule: Literal["base_lr", "group_lr", "independent"] = Field(
        default="base_lr",
        description="A step shrinks a matrix by weight_decay times: base_lr: the scheduled lr at base width; group_lr: "
        "that x the matrix's own multiplier; independent: the schedule's shape alone.",
    )
    svag: Literal[1, 2, 4, 8] | None = Field(
        default=None,
        description="l of SVAG: l^2 steps of lr / l in place of one, with l times the noise, nearer to the SDE.",
    )
    clip_norm: NonNegative = Field(
        default=1.0, description="Clip the global norm of the mean gradient; 0 switches clipping off."
    )


class ScheduleConfig(Frozen):
    """Shape of the learning rate as a function of consumed tokens, peak 1."""

    kind: Literal["constant", "wsd", "cosine", "linear"] = Field(
        default="constant", description="constant: one run gives every budget."
    )
    warmup_tokens: Unsigned = Field(default=0, description="Length of the warmup in tokens; 0: none.")
    warmup: Literal["linear", "critical", "catapult"] = Field(
        default="linear",
        description="linear: from 0 to the peak in warmup_tokens; critical: as steep, but from the critical rate, at "
        "which the first step would raise the loss; catapult: to the critical rate of the moment, again whenever the "
        "loss has come down since, until that is the peak.",
    )
    decay_fraction: PositiveShare = Field(
        default=0.2, description="wsd: the last part of the budget, decayed linearly."
    )
    final_ratio: Share = Field(default=0.0, description="Final learning rate / peak, for wsd, cosine and linear.")


class EngineConfig(Frozen):
    """How a run is executed; nothing here defines its result beyond floating-point order."""

    zero_stage: Literal[0, 1, 2, 3] = Field(default=1, description="DeepSpeed ZeRO stage.")
    micro_batch_seqs: PositiveInt = Field(default=32, description="Most sequences of one forward pass on one device.")
    activation_checkpointing: bool = Field(
        default=False, description="Recompute each block in the backward pass: less memory, about 1/3 more time."
    )
    compile: bool | None = Field(
        default=None, description="torch.compile (empty: on GPUs below ZeRO-3, off on CPU; never under ZeRO-3)."
    )
    liger: bool = Field(default=False, description="Fused Liger kernels (GPU only; installed with the extra `liger`).")


class SharpnessConfig(Frozen):
    """Sharpness probes: the top Hessian eigenvalue on a fixed batch, as it is and pre-conditioned by Adam."""

    every_tokens: PositiveInt | None = Field(
        default=None, description="Tokens between probes, the first before the first step; whole steps (empty: none)."
    )
    seqs: PositiveInt = Field(
        default=8,
        description="Sequences of the probe batch, the first that are trained on; each device holds its share at once.",
    )
    tolerance: PositiveFloat = Field(
        default=1e-3, description="Relative residual at which an eigenvalue is found: the largest error it can have."
    )


class LogConfig(Frozen):
    """What is written while training."""

    every_tokens: PositiveInt | None = Field(
        default=None,
        description="Tokens between training-loss records (default: about 1/256 of the budget, whole steps).",
    )
    noise: Literal["gradients", "gains"] | None = Field(
        default=None,
        description="The gradient's noise: gradients: from micro-batches and ranks; gains: of the norms' gains, from "
        "sequences; at one step in 2 and in 8 (empty: none).",
    )
    sharpness: SharpnessConfig = SharpnessConfig()
    wandb: Literal["offline", "online", "disabled"] = Field(
        default="offline", description="Weights & Biases mode; the run directory is the truth in all."
    )
    wandb_project: str = Field(default="bcrit", description="Weights & Biases project.")
    wandb_entity: str | None = Field(default=None, description="Weights & Biases entity (team).")


class CheckpointConfig(Frozen):
    """When a run can be resumed from."""

    every_seconds: PositiveFloat = Field(
        default=600.0, description="Time between checkpoints; one is also written when a run is stopped."
    )
    every_tokens: PositiveInt | None = Field(
        default=None, description="Tokens between checkpoints, instead of a time; whole steps."
    )
    keep_last: PositiveInt = Field(
        default=2, description="Checkpoints kept while a run trains; an older one serves if a newer one is damaged."
    )
    keep: Literal["none", "final", "readouts"] = Field(
        default="final", description="Checkpoints kept for good: at the end of the run, or at every readout."
    )
    keep_at_tokens: tuple[PositiveInt, ...] = Field(
        default=(), description="Token counts at which a checkpoint is written and kept for good, for branches."
    )


class BranchConfig(Frozen):
    """Where a run starts instead of at an initialisation: weights and moments of another run, its trunk.

    Model, data and seed are the trunk's, so the data goes on where the trunk was; everything else may change.
    """

    parent: str = Field(
        pattern="^[0-9a-f]{12}$",
        description="Run id of the trunk, in the same study.",
        json_schema_extra={"allowed": "12 hex digits"},
    )
    tokens: PositiveInt = Field(description="Tokens of the trunk at which this run leaves it.")


class RunConfig(Frozen):
    """One training job."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    lr: PositiveFloat = Field(default=2**-7, description="Peak learning rate at base width.")
    batch_tokens: PositiveInt = Field(default=2**11, description="B: tokens per optimizer step, over all devices.")
    budget_tokens: PositiveInt = Field(default=2**18, description="T: tokens of the whole run.")
    readout_tokens: tuple[PositiveInt, ...] = Field(
        default=(), description="Token counts at which validation loss is read; budget_tokens is always the last."
    )
    seed: Unsigned = Field(default=0, description="Seeds the initialisation and the order of the data.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="Compute precision; master weights and accumulation are fp32."
    )
    explode_ratio: AboveOne = Field(
        default=2.0,
        description="A training loss (mean since the last record) above explode_ratio x the loss at initialisation "
        "ends the run as diverged.",
    )
    spike_ratio: AboveOne = Field(
        default=2.0,
        description="A step's training loss above spike_ratio x the running mean of those before is a spike; counted.",
    )
    on_spike: Literal["record", "skip"] = Field(
        default="record",
        description="skip: leave out the update of a step whose loss spikes or is not finite; its tokens count.",
    )
    ema_half_life_tokens: PositiveInt | None = Field(
        default=None,
        description="Half-life, in tokens, of an average of the weights that is validated beside them (empty: none).",
    )
    branch: BranchConfig | None = Field(default=None, description="Start from another run's checkpoint (empty: don't).")


class TrunkConfig(Frozen):
    """How the runs of a study branch off shared trunks instead of training from scratch."""

    at: str = Field(
        default="decay",
        coerce_numbers_to_str=True,
        description="Tokens at which a run leaves its trunk, as arithmetic on its fields (`budget_tokens - 2^16`); "
        "`decay`: at the last step of the trunk before the learning rate decays.",
    )
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields in which the trunk differs from the run; its learning rate is constant.",
        json_schema_extra={"allowed": "fields with their values"},
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
        default=RunConfig(), description="The run that the axes vary (or the path of a run's YAML file)."
    )
    axes: dict[str, AxisValues] = Field(
        default_factory=dict,
        description="Dotted field -> values, crossed: a list or a range (`2^8..2^13`, `2^-10..2^-5 by 2^0.5`).",
        json_schema_extra={"allowed": "fields with their values"},
    )
    zipped: tuple[dict[str, AxisValues], ...] = Field(
        default=(),
        description="Groups of fields whose values move together, each written like `axes`.",
        json_schema_extra={"allowed": "a list of groups of fields with their values"},
    )
    where: tuple[str, ...] = Field(
        default=(), description="Conditions on a run's fields, e.g. `batch_tokens <= budget_tokens / 16`."
    )
    trunk: TrunkConfig | None = Field(
        default=None, description="Branch the runs off shared trunks (empty: every run starts from scratch)."
    )
