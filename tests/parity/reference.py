"""The plain PyTorch training loop that DeepSpeed is measured against.

One process, torch's AdamW, torch's clipping; nothing of `train.engine`. It shares with the trainer what is no matter
of layout: the model and its initial weights, the data, the table of optimizer groups, the schedule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.granite.modeling_granite import GraniteRMSNorm

from configs.schema import RunConfig
from tests.parity.cells import lr_at
from train.model import build
from train.parametrization import optimizer_groups, table

Tensors = dict[str, Tensor]
Split = Callable[[Tensor], Sequence[Tensor]]  # batch -> its micro-batches


@dataclass(frozen=True)
class State:
    """Master weights and Adam's moments by parameter name, after `step` steps."""

    step: int
    parameters: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors


@dataclass(frozen=True)
class Trajectory:
    """What a run did: loss, and norm of the mean gradient before clipping, of each step; and where it ended."""

    losses: list[float]
    norms: list[float]
    end: State


def whole(batch: Tensor) -> Sequence[Tensor]:
    """The batch at once."""
    return (batch,)


def into(parts: int) -> Split:
    """Equal micro-batches in the order of the samples, as ranks and accumulation steps cut a batch."""
    return lambda batch: batch.chunk(parts)


@dataclass(frozen=True)
class Loop:
    """How the loop computes; the default is fp32 throughout."""

    split: Split = whole
    compute: torch.dtype = torch.float32  # of weights and activations, and so of a micro-batch's gradient
    accumulate: torch.dtype = torch.float32  # of the sum of gradients over micro-batches
    master: torch.dtype = torch.float32  # of the weights that AdamW steps, and of its moments
    fused: bool = False  # AdamW as one kernel, which rounds in other places
    clip_norm: float | None = None  # instead of the config's
    edit_group: Callable[[dict[str, Any]], None] = lambda group: None  # what befalls an optimizer group


EXACT = Loop(compute=torch.float64, accumulate=torch.float64, master=torch.float64)


def run(config: RunConfig, batches: Sequence[Tensor], loop: Loop, start: State | None = None) -> Trajectory:
    """Train on `batches`, (B, S + 1) token ids each, from the initial weights or going on from `start`."""
    network = build(config.model, config.seed)
    if loop.compute == torch.float64:
        _widen_norms(network)
    weights = dict(network.named_parameters())
    masters = {}
    for name, weight in weights.items():
        weight.data = (start.parameters[name] if start else weight.data).to(loop.compute, copy=True)
        masters[name] = nn.Parameter((start.parameters[name] if start else weight.data).to(loop.master, copy=True))
    groups = optimizer_groups(network, table(network, config), config)
    for group in groups:
        group["params"] = [masters[name] for name in group["names"]]
        loop.edit_group(group)
    betas = (config.optimizer.beta1, config.optimizer.beta2)
    optimizer = torch.optim.AdamW(groups, betas=betas, foreach=False, fused=loop.fused)
    if start:
        for name, master in masters.items():
            optimizer.state[master] = {
                "step": torch.tensor(float(start.step)),
                "exp_avg": start.exp_avg[name].to(loop.master, copy=True),
                "exp_avg_sq": start.exp_avg_sq[name].to(loop.master, copy=True),
            }
    clip_norm = config.optimizer.clip_norm if loop.clip_norm is None else loop.clip_norm
    losses, norms, first = [], [], start.step if start else 0
    for step, batch in enumerate(batches, first):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(config, step) * group["lr_multiplier"]
        loss, gradients = _mean_gradient(network, loop.split(batch), loop)
        for name, master in masters.items():
            master.grad = gradients[name].to(loop.master)
        losses.append(loss)
        norms.append(nn.utils.clip_grad_norm_(masters.values(), clip_norm).item())
        optimizer.step()
        for name, weight in weights.items():
            weight.data.copy_(masters[name].data)

    def moment(key: str) -> Tensors:
        return {name: optimizer.state[master][key] for name, master in masters.items()}

    parameters = {name: master.detach() for name, master in masters.items()}
    end = State(first + len(losses), parameters, moment("exp_avg"), moment("exp_avg_sq"))
    return Trajectory(losses, norms, end)


def _mean_gradient(network: nn.Module, micro_batches: Sequence[Tensor], loop: Loop) -> tuple[float, Tensors]:
    """Mean over micro-batches of the loss and of its gradient by parameter name."""
    weights = dict(network.named_parameters())
    sums = {name: torch.zeros_like(weight, dtype=loop.accumulate) for name, weight in weights.items()}
    at_least_fp32 = torch.promote_types(loop.compute, torch.float32)
    total = torch.zeros((), dtype=at_least_fp32)
    for tokens_BS1 in micro_batches:
        logits_BSV = network(input_ids=tokens_BS1[:, :-1]).logits.to(at_least_fp32)
        loss = nn.functional.cross_entropy(logits_BSV.flatten(0, 1), tokens_BS1[:, 1:].flatten()) / len(micro_batches)
        loss.backward()
        total += loss.detach()
        for name, weight in weights.items():
            sums[name] += weight.grad
            weight.grad = None
    return total.item(), sums


def _widen_norms(network: nn.Module) -> None:
    """Replace Granite's norms, which compute in fp32 whatever they are given."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, GraniteRMSNorm):
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)
