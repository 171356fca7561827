"""Config + hardware -> every derived number of a run, as pure arithmetic; every rule between two fields lives here.

Nothing is rounded or clamped: what does not divide is a ConfigError that names value, rule and nearest legal values.
"""

from dataclasses import dataclass
from itertools import pairwise

from configs.errors import ConfigError
from configs.manifest import count_sequences
from configs.memory import Memory, check_memory, memory
from configs.moments import check_noise
from configs.mup import Role, rules
from configs.optimizers import TRAITS, check_optimizer
from configs.schema import ModelConfig, RunConfig
from configs.svag import check_svag, length_of, read_tokens, step_tokens


@dataclass(frozen=True)
class Hardware:
    """What a run is executed on."""

    world_size: int  # processes, one per device
    micro_batch_seqs: int | None = None  # most sequences of one forward pass; None: the run's engine.micro_batch_seqs
    device_memory: int | None = None  # bytes of one device; None: not known, so nothing is refused for its size


@dataclass(frozen=True)
class Plan:
    """What a run will do. A step: micro_batch_seqs x accumulation x world_size = step_seqs."""

    start_tokens: int  # where a branch leaves its trunk; 0 for a run from scratch
    steps: int
    tokens: int  # the budget T = start_tokens + steps x step_tokens
    step_tokens: int  # B; under SVAG B / l^2
    step_seqs: int  # those of B; under SVAG of 2 B
    micro_batch_seqs: int
    accumulation: int
    world_size: int
    warmup_steps: int
    readout_steps: tuple[int, ...]  # aligned with readout_tokens
    readout_tokens: tuple[int, ...]  # strictly increasing; the last one is the budget
    kept_tokens: tuple[int, ...]  # where checkpoints are written and kept for good
    log_every_steps: int
    lr_by_role: dict[Role, float]  # peak learning rate of each optimizer group
    n_params: int
    n_params_non_embedding: int  # all but the token embedding; an untied head counts, it multiplies every token
    flops_per_token: int
    flops: int
    memory: Memory  # of each device


def plan(config: RunConfig, hardware: Hardware) -> Plan:
    """The plan of a run. Raises ConfigError for the first rule that a value breaks."""
    _check_model(config.model)
    check_optimizer(config)
    check_svag(config)
    _check_engine(config)
    micro_batch_seqs = _micro_batch(config, hardware)
    check_noise(config, micro_batch_seqs)
    step_seqs = read_tokens(config) // config.model.seq_len
    _check_tokens_of_run(config)
    if config.log.sharpness.every_tokens:
        _check_probe(config, hardware.world_size)
    start = start_tokens(config)
    steps = (config.budget_tokens - start) // step_tokens(config)
    log_every_tokens = config.log.every_tokens or step_tokens(config) * max(1, steps // 256)
    total = n_params(config.model)
    if hardware.device_memory is not None:
        check_memory(config, total, micro_batch_seqs, hardware.world_size, hardware.device_memory)
    return Plan(
        start_tokens=start,
        steps=steps,
        tokens=config.budget_tokens,
        step_tokens=step_tokens(config),
        step_seqs=step_seqs,
        micro_batch_seqs=micro_batch_seqs,
        accumulation=step_seqs // (hardware.world_size * micro_batch_seqs),
        world_size=hardware.world_size,
        warmup_steps=config.schedule.warmup_tokens // step_tokens(config),
        readout_steps=tuple((t - start) // step_tokens(config) for t in readouts(config)),
        readout_tokens=readouts(config),
        kept_tokens=kept_tokens(config),
        log_every_steps=log_every_tokens // step_tokens(config),
        lr_by_role={role: config.lr * rule.lr_multiplier for role, rule in rules(config).items()},
        n_params=total,
        n_params_non_embedding=total - n_params_embedding(config.model),
        flops_per_token=flops_per_token(config.model),
        flops=flops_per_token(config.model) * (data_tokens(config) - start),
        memory=memory(config, total, micro_batch_seqs, hardware.world_size),
    )


def start_tokens(config: RunConfig) -> int:
    """Tokens that a run does not train itself, because its trunk did."""
    return config.branch.tokens if config.branch else 0


def data_tokens(config: RunConfig) -> int:
    """Tokens of data that a run and its trunk read: the budget, but more under SVAG."""
    start = start_tokens(config)
    return start + (config.budget_tokens - start) // step_tokens(config) * read_tokens(config)


def readouts(config: RunConfig) -> tuple[int, ...]:
    """Token counts at which validation loss is read: those asked for, and the budget."""
    asked = config.readout_tokens
    return asked if asked and asked[-1] == config.budget_tokens else (*asked, config.budget_tokens)


def kept_tokens(config: RunConfig) -> tuple[int, ...]:
    """Token counts at which a checkpoint is kept for good."""
    at = {"none": (), "final": (config.budget_tokens,), "readouts": readouts(config)}[config.checkpoint.keep]
    return tuple(sorted({*config.checkpoint.keep_at_tokens, *at}))


def n_params_embedding(model: ModelConfig) -> int:
    """Parameters of the token embedding."""
    return model.vocab_size * model.width


def n_params(model: ModelConfig) -> int:
    """Parameters of a Granite decoder: embedding, head (unless tied), final norm; per block four attention matrices,
    three feed-forward matrices, two norms and, with qk_norm, two more of a head's size; all without biases.
    """
    d, ffn = model.width, model.ffn_ratio * model.width
    block = 4 * d**2 + 3 * d * ffn + 2 * d + (2 * model.head_dim if model.qk_norm else 0)
    return n_params_embedding(model) * (1 if model.tied else 2) + model.depth * block + d


def flops_per_token(model: ModelConfig) -> int:
    """Forward and backward FLOPs of one training token by the PaLM convention (arXiv 2204.02311, appendix B).

    6 per parameter that multiplies a token (all but the embedding, a look-up; a tied one is the head as well), and
    12 x depth x width x seq_len for attention scores and values, counted without the saving of the causal mask.
    """
    multiplied = n_params(model) - (0 if model.tied else n_params_embedding(model))
    return 6 * multiplied + 12 * model.depth * model.width * model.seq_len


def first_sequence(config: RunConfig, tokens: int) -> int:
    """The number of the first sequence of the step that follows `tokens`."""
    start = start_tokens(config)
    steps = (tokens - start) // step_tokens(config)
    return (start + steps * read_tokens(config)) // config.model.seq_len


def check_tokens(config: RunConfig, train_tokens: int, valid_tokens: int, vocab_size: int) -> None:
    """Refuse data that is too small for one pass without repetition, or has more token types than the model.

    `train_tokens` and `valid_tokens` are what the packed data holds. Raises ConfigError.
    """
    seq_len = config.model.seq_len
    if vocab_size > config.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size = {config.model.vocab_size} is below the data's vocabulary of {vocab_size}: "
            f"use {vocab_size} or more"
        )
    for field, wanted, held, part in (
        ("budget_tokens", data_tokens(config), train_tokens, "training"),
        ("data.valid_tokens", config.data.valid_tokens, valid_tokens, "validation"),
    ):
        sequences = count_sequences(held, seq_len)
        if wanted // seq_len > sequences:
            raise ConfigError(
                f"{field} = {wanted} needs {wanted // seq_len} sequences of model.seq_len = {seq_len}, the {part} data "
                f"has {sequences}: use at most {sequences * seq_len} or prepare more data"
            )


def _check_model(model: ModelConfig) -> None:
    base_head_dim = model.base_head_dim or model.head_dim
    _check_multiple("model.width", model.width, "model.head_dim", model.head_dim)
    _check_multiple("model.base_width", model.base_width, "the base head size", base_head_dim)
    if model.width == model.base_width and base_head_dim != model.head_dim:
        raise ConfigError(
            f"model.base_head_dim = {base_head_dim} differs from model.head_dim = {model.head_dim} at the base width, "
            f"where mup must equal sp: use {model.head_dim}"
        )
    if model.depth_alpha != 1 and model.base_depth is None:
        raise ConfigError(
            f"model.depth_alpha = {model.depth_alpha} without model.base_depth: nothing scales with depth then; set "
            "model.base_depth, or leave depth_alpha at 1"
        )


def _check_engine(config: RunConfig) -> None:
    """What DeepSpeed cannot do, or does wrongly."""
    if config.precision == "bf16" and config.engine.zero_stage == 0:
        raise ConfigError(
            "engine.zero_stage = 0 with precision = bf16: DeepSpeed takes an optimizer step of its own at start-up "
            "there; use engine.zero_stage 1 or precision fp32"
        )
    if config.engine.zero_stage == 3 and config.engine.compile:
        raise ConfigError(
            "engine.compile = true with engine.zero_stage = 3: its hooks gather weights in the middle of every block, "
            "which breaks the graph; leave engine.compile empty or use engine.zero_stage 2"
        )
    if config.engine.zero_stage == 3 and config.ema_half_life_tokens:
        raise ConfigError(
            f"ema_half_life_tokens = {config.ema_half_life_tokens} with engine.zero_stage = 3: no rank has the weights "
            "that are averaged; leave it empty or use engine.zero_stage 2"
        )


def _micro_batch(config: RunConfig, hardware: Hardware) -> int:
    """Sequences of one forward pass: the fewest equal parts of a rank's share of the batch that fit."""
    world_size, seq_len = hardware.world_size, config.model.seq_len
    limit = config.engine.micro_batch_seqs if hardware.micro_batch_seqs is None else hardware.micro_batch_seqs
    if world_size < 1:
        raise ConfigError(f"world_size = {world_size}: use at least 1 process")
    if limit < 1:
        raise ConfigError(f"micro_batch_seqs = {limit}: use at least 1 sequence")
    _check_multiple("batch_tokens", config.batch_tokens, "model.seq_len", seq_len)
    _check_multiple("batch_tokens", config.batch_tokens, "model.seq_len x world_size", seq_len * world_size)
    per_rank = config.batch_tokens // seq_len // world_size
    return next(m for m in range(min(limit, per_rank), 0, -1) if per_rank % m == 0)


def _check_tokens_of_run(config: RunConfig) -> None:
    batch, budget, schedule = config.batch_tokens, config.budget_tokens, config.schedule
    if config.branch:
        if config.branch.tokens >= budget:
            raise ConfigError(
                f"branch.tokens = {config.branch.tokens} is not below budget_tokens = {budget}: branch earlier"
            )
        _check_multiple("branch.tokens", config.branch.tokens, "model.seq_len", config.model.seq_len)
    _check_step("budget_tokens", budget, config)
    if schedule.warmup_tokens > start_tokens(config):  # else it was over in the trunk
        _check_multiple("schedule.warmup_tokens", schedule.warmup_tokens, "batch_tokens", batch, lowest=0)
    if schedule.warmup_tokens > budget:
        raise ConfigError(
            f"schedule.warmup_tokens = {schedule.warmup_tokens} is above budget_tokens = {budget}: use less"
        )
    if schedule.warmup != "linear" and not schedule.warmup_tokens:
        raise ConfigError(
            f"schedule.warmup = {schedule.warmup} with schedule.warmup_tokens = 0: the search for the critical rate "
            "starts at the first step of a warmup; give its length, or leave schedule.warmup at linear"
        )
    if schedule.warmup != "linear" and length_of(config) > 1:
        raise ConfigError(
            f"schedule.warmup = {schedule.warmup} with optimizer.svag = {config.optimizer.svag}: a critical rate is "
            "one of the optimizer itself; leave schedule.warmup at linear, or svag empty"
        )
    if schedule.warmup != "linear" and config.branch:
        raise ConfigError(
            f"schedule.warmup = {schedule.warmup} in a branch: it starts before the first step, which was the trunk's; "
            "leave it at linear, or train the run from scratch"
        )
    if schedule.kind == "wsd" and schedule.warmup_tokens > (1 - schedule.decay_fraction) * budget:
        raise ConfigError(
            f"schedule.warmup_tokens = {schedule.warmup_tokens} reaches into the decay, the last "
            f"schedule.decay_fraction = {schedule.decay_fraction} of budget_tokens = {budget}: use less of either"
        )
    for name, tokens in (
        ("log.every_tokens", config.log.every_tokens),
        ("log.sharpness.every_tokens", config.log.sharpness.every_tokens),
        ("checkpoint.every_tokens", config.checkpoint.every_tokens),
    ):
        if tokens is not None:
            _check_multiple(name, tokens, "batch_tokens", batch)
    _check_multiple("data.valid_tokens", config.data.valid_tokens, "model.seq_len", config.model.seq_len)
    _check_readouts(config)
    for tokens in config.checkpoint.keep_at_tokens:
        _check_within("checkpoint.keep_at_tokens", tokens, config)


def _check_readouts(config: RunConfig) -> None:
    asked, budget = config.readout_tokens, config.budget_tokens
    for tokens in asked:
        _check_within("readout_tokens", tokens, config)
    if any(a >= b for a, b in pairwise(asked)):
        raise ConfigError(f"readout_tokens = {list(asked)} must increase: use {sorted(set(asked))}")
    if config.schedule.kind != "constant" and len(readouts(config)) > 1:
        raise ConfigError(
            f"readout_tokens below budget_tokens = {budget} with schedule.kind = {config.schedule.kind}: before the "
            "decay has ended a loss is not that of a shorter budget; run each budget, or use schedule.kind constant"
        )


def _check_probe(config: RunConfig, world_size: int) -> None:
    seqs, seq_len = config.log.sharpness.seqs, config.model.seq_len
    _check_multiple("log.sharpness.seqs", seqs, "world_size", world_size)
    if seqs * seq_len > config.budget_tokens:
        raise ConfigError(
            f"log.sharpness.seqs = {seqs} are {seqs * seq_len} tokens, the run has budget_tokens = "
            f"{config.budget_tokens}: use at most {config.budget_tokens // seq_len}"
        )
    if TRAITS[config.optimizer.kind].moments != 2:
        raise ConfigError(
            f"log.sharpness with optimizer.kind = {config.optimizer.kind}: the pre-conditioned sharpness is Adam's; "
            "use adamw, or leave log.sharpness.every_tokens empty"
        )
    if config.engine.liger:
        raise ConfigError(
            "log.sharpness with engine.liger = true: its kernels have no second derivative; use engine.liger false"
        )


def _check_within(name: str, tokens: int, config: RunConfig) -> None:
    """`tokens` must be the end of a step of this run."""
    budget, start = config.budget_tokens, start_tokens(config)
    if tokens > budget:
        raise ConfigError(f"{name}: {tokens} is beyond budget_tokens = {budget}: remove it or raise the budget")
    if tokens <= start and config.branch:
        raise ConfigError(f"{name}: {tokens} is not after branch.tokens = {start}: remove it")
    _check_step(f"{name} (or a smaller budget of the study)", tokens, config)


def _check_step(name: str, tokens: int, config: RunConfig) -> None:
    start, batch = start_tokens(config), config.batch_tokens
    if not start:
        _check_multiple(name, tokens, "batch_tokens", batch)
    elif (tokens - start) % batch:
        below = start + (tokens - start) // batch * batch
        raise ConfigError(
            f"{name} = {tokens} is not branch.tokens = {start} plus a multiple of batch_tokens = {batch}: "
            f"use {below} or {below + batch}"
        )


def _check_multiple(name: str, value: int, unit_name: str, unit: int, lowest: int = 1) -> None:
    if value % unit:
        below = value // unit * unit
        legal = [str(v) for v in (below, below + unit) if v >= lowest]
        raise ConfigError(f"{name} = {value} is not a multiple of {unit_name} = {unit}: use {' or '.join(legal)}")
