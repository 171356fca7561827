"""The loss as a plain function of whole fp32 weights, beside the engine: nothing of the engine is ever touched.

Probes differentiate twice, step and step back; DeepSpeed's hooks, compiled blocks, shards and bf16 stand in the way of
all that. So every rank takes a whole copy in fp32 (4 bytes a parameter, while a probe lasts) and its share of the
probe's sequences. Attention is written out: the fused kernels have no second derivative.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import functional_call

from configs.schema import ModelConfig
from train.engine import Engine, device
from train.model import loss_of, skeleton
from train.ranks import world
from train.state import WEIGHT, link_moments, read, step_of

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Quadratic:
    """A loss around a point: its value, gradient (n,) and products with its Hessian, all means over the ranks."""

    loss: float
    gradient: Tensor
    hessian: Callable[[Tensor], Tensor]  # (n,) -> (n,)


def loss_of_weights(model: ModelConfig) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
    """The mean cross-entropy of a model, in nats, as a function of its weights and token ids (B, S + 1)."""
    network = skeleton(model)
    network.set_attn_implementation("eager")
    network.model.rotary_emb = type(network.model.rotary_emb)(network.config).to(device())

    def loss(weights: Mapping[str, Tensor], tokens_BS1: Tensor) -> Tensor:
        return loss_of(lambda **inputs: functional_call(network, dict(weights), kwargs=inputs), tokens_BS1)

    return loss


def whole_weights(engine: Engine) -> Weights:
    """A copy of the fp32 weights by name; to be called on all ranks."""
    return _copies(engine, WEIGHT)


def whole_state(engine: Engine) -> tuple[dict[str, Weights], float]:
    """Copies of the optimizer's moments, by key and parameter name, and its steps; to be called on all ranks.

    Before the first step there are none.
    """
    states = engine.basic_optimizer.state
    keys = {key for state in states.values() for key, value in state.items() if torch.is_tensor(value)} - {"step"}
    if keys:
        link_moments(engine)
    return {key: _copies(engine, key) for key in sorted(keys)}, step_of(engine)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """All elements, (n,), in the order of the names."""
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def quadratic(loss: Callable[[Mapping[str, Tensor]], Tensor], weights: Weights) -> Quadratic:
    """Value, gradient and Hessian of the mean over ranks of `loss` at `weights`.

    The graph of the gradient is kept, so that a product costs one backward pass through it.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
    inputs = list(leaves.values())
    value = loss(leaves)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, inputs, create_graph=True)])

    def hessian(vector: Tensor) -> Tensor:
        with torch.enable_grad():
            parts = torch.autograd.grad(gradient, inputs, vector, retain_graph=True)
        return mean_over_ranks(torch.cat([part.flatten() for part in parts]))

    return Quadratic(mean_over_ranks(value.detach()).item(), mean_over_ranks(gradient.detach()), hessian)


def mean_over_ranks(mine: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, the same on all of them."""
    if world() > 1:
        mine = mine.clone()
        dist.all_reduce(mine)
        mine /= world()
    return mine


def _copies(engine: Engine, key: str) -> Weights:
    found: Weights = {}
    for name, parameter in engine.module.named_parameters():
        value = read(engine, parameter, key)
        assert value is not None, f"{key} of {name} cannot be read"
        found[name] = value.detach().float().clone()
    return found
