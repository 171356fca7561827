"""What a step is fed: this rank's share of the samples that are next, and the weights of its micro-batches."""

import torch
import torch.distributed as dist

from configs.plan import Plan, first_sequence
from configs.schema import RunConfig
from configs.svag import batch_weights, length_of
from train.data.batches import TokenStore, sequences
from train.engine import device


def samples(store: TokenStore, config: RunConfig, plan: Plan, begin: int) -> torch.Tensor:
    """This rank's sequences of the step after `begin` tokens, (micro_batch_seqs x accumulation, seq_len + 1) token ids.

    A step uses the next global samples, whatever the number of ranks, micro-batches, and the batch sizes before it.
    Of SVAG's two batches each rank has its share of the first, then of the second.
    """
    batches = len(batch_weights(length_of(config)))
    count = plan.micro_batch_seqs * plan.accumulation // batches
    starts = range(first_sequence(config, begin) + dist.get_rank() * count, 2**62, plan.step_seqs // batches)
    parts = [torch.from_numpy(sequences(store, config.seed, first, count)) for first in starts[:batches]]
    batch = torch.cat(parts) if batches > 1 else parts[0]
    return batch.pin_memory() if device().type == "cuda" else batch


def micro_batch_weights(config: RunConfig, plan: Plan) -> list[float] | None:
    """What multiplies the gradient of each micro-batch before their mean is taken, under SVAG."""
    weights = batch_weights(length_of(config))
    if len(weights) == 1:
        return None
    return [len(weights) * weight for weight in weights for _ in range(plan.accumulation // len(weights))]
