"""Memory of one GPU: what DeepSpeed holds, exactly, and what a forward and backward pass adds, estimated.

Model state, in bytes, of P parameters on W ranks; w is 4 in fp32 and 2 in bf16. Read in the sources of DeepSpeed 0.19.8
(runtime/engine.py, bf16_optimizer.py, zero/stage_1_and_2.py, zero/stage3.py) and counted in its engines by the tests.
Padding is left out: at most 2 W elements an optimizer group, under ZeRO-3 one a parameter.

| ZeRO | weights | gradients | master weights | moments |
|---|---|---|---|---|
| 0 | w P | 4 P | none | 8 P |
| 1 | w P | 4 P | 4 P / W | 8 P / W |
| 2 | w P | 4 P / W | 4 P / W | 8 P / W |
| 3 | w P / W | 4 P / W | 4 P / W | 8 P / W |

Moments are AdamW's, two numbers a parameter; others keep one, Adafactor the rows and columns of every matrix.

Gradients are accumulated in fp32 whatever the precision; the master copy is there in fp32 too.

Activations, in bytes a token and block of width d, feed-forward width f and h heads, counted as in Korthikanti et al.
(arXiv 2205.05198, section 4) for this model: no dropout, SwiGLU in place of GELU, attention that keeps h fp32 sums
instead of scores. What is kept: inputs of the matrix products (d each into q, k, v and into gate, up; d into o; f into
down), q, k, v, the gate, and the up projection; an RMSNorm's fp32 input and normalised output; silu(gate).

- eager: 8 d + w (8 d + 4 f) + 4 h + 8
- torch.compile or Liger, which recompute norms and silu: w (8 d + 3 f) + 4 h + 8
- qk_norm, two more norms of width d: 8 d + 2 w d + 8 h more; with Liger, which keeps their inputs as they are,
  2 w d + 8 h; with torch.compile alone nothing, because it keeps their inputs in place of q and k
- activation checkpointing: w d, and one block as above while it is recomputed

A sharpness probe and a warmup that looks at the loss work on whole fp32 copies, between steps, on every rank: vectors
of P numbers, counted by the tests. Activations of their batch are left out.

The loss holds 12 bytes a token and vocabulary entry: fp32 log-probabilities, their gradient, and that of the logits.
Not counted: the CUDA context, communication buffers, fragmentation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from configs.devices import GIB
from configs.errors import ConfigError
from configs.optimizers import TRAITS
from configs.schema import RunConfig

LIVE_PARAMETERS = 10**9  # that ZeRO-3 keeps gathered at most (its max_live_parameters)
PROBE_VECTORS = 26  # whole fp32 vectors of a sharpness probe at its peak
MOST_RANKS = 1024  # that a remedy proposes


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: int
    gradients: int
    master_weights: int
    moments: int
    average: int  # of the weights, if ema_half_life_tokens
    buckets: int  # gradients on their way to other ranks
    gathered: int  # estimate: weights of other ranks, under ZeRO-3
    copies: int  # estimate: of gradients while they are reduced and applied, when activations are gone
    activations: int  # estimate: kept from the forward pass of one micro-batch
    recomputed: int  # estimate: of one block, under activation checkpointing
    logits: int  # estimate: log-probabilities and gradients of the loss
    probe: int  # estimate: whole fp32 vectors of a sharpness probe, or of a warmup's trial steps

    @property
    def state(self) -> int:
        """What must be there at every step: exact."""
        return self.weights + self.gradients + self.master_weights + self.moments + self.average + self.buckets

    @property
    def total(self) -> int:
        """The estimated peak."""
        return self.state + self.gathered + max(self.copies, self.passing, self.probe)

    @property
    def passing(self) -> int:
        """What a forward and backward pass adds."""
        return self.activations + max(self.recomputed, self.logits)


def memory(config: RunConfig, n_params: int, micro_batch_seqs: int, world_size: int) -> Memory:
    """Memory of each GPU of a run, compiled unless it says otherwise."""
    stage, model, width = config.engine.zero_stage, config.model, config.model.width
    w = 2 if config.precision == "bf16" else 4
    share = -(-n_params // world_size)
    bucket = bucket_elements(n_params)
    staged = {0: 0, 1: 0 if w == 2 else 4, 2: 6 if w == 2 else 4, 3: 4}[stage]  # ZeRO-2 in bf16: 2, and a copy in fp32

    tokens, ffn, heads = micro_batch_seqs * model.seq_len, model.ffn_ratio * width, width // model.head_dim
    compiled, liger = config.engine.compile is not False and stage < 3, config.engine.liger
    kept = w * (8 * width + 3 * ffn) if compiled or liger else 8 * width + w * (8 * width + 4 * ffn)
    if model.qk_norm and (liger or not compiled):
        kept += 2 * w * width + 8 * heads + (0 if liger else 8 * width)
    block = tokens * (kept + 4 * heads + 8)
    checkpointed = config.engine.activation_checkpointing
    final_norm = tokens * (4 * width + 2 * w * width + 4)
    return Memory(
        weights=w * (share if stage == 3 else n_params),
        gradients=4 * (share if stage >= 2 else n_params),
        master_weights=4 * share if stage else 0,
        moments=4 * _moments(config, share if stage else n_params),
        average=4 * n_params if config.ema_half_life_tokens else 0,
        buckets=staged * bucket,
        gathered=w * min(n_params, LIVE_PARAMETERS) if stage == 3 and world_size > 1 else 0,
        copies=4 * (share if stage >= 2 and not config.ema_half_life_tokens else n_params),
        activations=model.depth * (w * width * tokens if checkpointed else block) + final_norm,
        recomputed=block if checkpointed else 0,
        logits=12 * model.vocab_size * tokens,
        probe=4 * _probe_vectors(config) * n_params,
    )


def _probe_vectors(config: RunConfig) -> int:
    """Whole fp32 vectors that are there at the peak of what looks at the loss between steps."""
    trial = 4 + 2 * TRAITS[config.optimizer.kind].moments if config.schedule.warmup != "linear" else 0
    return max(PROBE_VECTORS if config.log.sharpness.every_tokens else 0, trial)


def _moments(config: RunConfig, stepped: int) -> int:
    """Numbers that the optimizer keeps for the parameters that a rank steps."""
    model = config.model
    if config.optimizer.kind != "adafactor":
        return TRAITS[config.optimizer.kind].moments * stepped
    d, ffn = model.width, model.ffn_ratio * model.width
    block = 4 * 2 * d + 3 * (d + ffn) + 2 * d + (2 * model.head_dim if model.qk_norm else 0)
    return model.depth * block + d + (1 if model.tied else 2) * (model.vocab_size + d)


def bucket_elements(n_params: int) -> int:
    """Size of DeepSpeed's reduction buffer in elements: its default, which a small model does not fill."""
    return min(500_000_000, n_params)


def memory_text(held: Memory) -> str:
    """The sum of the parts in GiB; parts of nothing are left out."""
    states = ("weights", "gradients", "master_weights", "moments", "average", "buckets")
    passing = ("activations", "recomputed" if held.recomputed > held.logits else "logits")
    largest = max((held.copies, ("copies",)), (held.passing, passing), (held.probe, ("probe",)))
    peak = ("gathered", *largest[1])
    more = _gib(held.total - held.state)
    return f"model state {_gib(held.state)} GiB = {_sum(held, states)}; about {more} GiB more = {_sum(held, peak)}"


def check_memory(config: RunConfig, n_params: int, micro_batch_seqs: int, world_size: int, device_memory: int) -> None:
    """Refuse a run that does not fit on devices of `device_memory` bytes, with the sum and a change that mends it.

    Raises ConfigError, which says whether the model state alone is too large (certain) or the estimated peak is.
    """
    held = memory(config, n_params, micro_batch_seqs, world_size)
    if held.total > device_memory:
        excess = "the model state alone" if held.state > device_memory else "the estimated peak"
        raise ConfigError(
            f"engine.zero_stage = {config.engine.zero_stage} in {config.precision} on {_ranks(world_size)}, "
            f"{micro_batch_seqs} sequences at a time: {excess} exceeds a device's {_gib(device_memory)} GiB: "
            f"{memory_text(held)}: {_remedy(config, n_params, micro_batch_seqs, world_size, device_memory)}"
        )


def _remedy(config: RunConfig, n_params: int, micro_batch_seqs: int, world_size: int, device_memory: int) -> str:
    """The mildest change after which the run fits."""
    for changes, ranks in _changes(config, micro_batch_seqs, world_size):
        changed = config.model_copy(update={"engine": config.engine.model_copy(update=changes)})
        micro = changes.get("micro_batch_seqs", micro_batch_seqs)
        if memory(changed, n_params, micro, ranks).total <= device_memory:
            text = [f"engine.{field} = {str(value).lower()}" for field, value in changes.items()]
            return "use " + " and ".join(text + [_ranks(ranks)] * (ranks > world_size))
    return f"no engine settings fit on {_ranks(MOST_RANKS)}; use a smaller model or a larger device"


def _changes(config: RunConfig, micro_batch_seqs: int, world_size: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Fields of the engine and ranks, from what costs least to what costs most."""
    engine = config.engine
    smaller = [2**k for k in range(micro_batch_seqs.bit_length() - 1, -1, -1) if 2**k < micro_batch_seqs]
    fewest: dict[str, Any] = {"micro_batch_seqs": 1} if smaller else {}
    checkpointing: dict[str, Any] = {} if engine.activation_checkpointing else {"activation_checkpointing": True}
    for micro in smaller:
        yield {"micro_batch_seqs": micro}, world_size
    yield checkpointing, world_size
    yield checkpointing | fewest, world_size
    highest = 2 if config.ema_half_life_tokens or engine.compile else 3
    ranks = world_size
    while ranks <= MOST_RANKS:
        for stage in range(max(1, engine.zero_stage), highest + 1):
            sharded = {"zero_stage": stage} if stage > engine.zero_stage else {}
            yield sharded, ranks
            yield sharded | checkpointing | fewest, ranks
        ranks *= 2


def _sum(held: Memory, parts: tuple[str, ...]) -> str:
    return " + ".join(f"{part.replace('_', ' ')} {_gib(getattr(held, part))}" for part in parts if getattr(held, part))


def _gib(size: int) -> str:
    return f"{size / GIB:.3g}"


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"
