"""K runs of one shape stacked into one model by `torch.func`: what could be gained by it, before anything is built.

Members differ in learning rate, member k has lr x 2^(-k / K); the optimizer is AdamW over stacked tensors.
"""

from collections.abc import Iterator

import torch
from torch.func import functional_call, stack_module_state, vmap

from configs.plan import Plan
from configs.schema import RunConfig
from train.bench.loops import Loop, Stores, batches, network_of, timed
from train.engine import device
from train.model import loss_of


def stacked(
    config: RunConfig, plan: Plan, stores: Stores, steps: int, members: int
) -> tuple[Loop, dict[str, torch.Tensor]]:
    """A loop whose step is one of each of `members` runs; its seconds a step are those of all of them together.

    Beside it the stacked parameters, (members, ...) each.
    """
    networks = [network_of(config) for _ in range(members)]
    parameters, _ = stack_module_state(networks)
    rates = torch.tensor([config.lr * 2 ** (-k / members) for k in range(members)], device=device())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    template, (beta1, beta2), taken = networks[0], (float(config.optimizer.beta1), float(config.optimizer.beta2)), 0

    def loss(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        return loss_of(_Called(template, weights), tokens)  # pyright: ignore[reportArgumentType]

    losses = vmap(loss)

    def step(batch: torch.Tensor) -> None:
        nonlocal taken
        taken += 1
        for micro in batch.split(plan.micro_batch_seqs):
            (losses(parameters, micro.expand(members, *micro.shape)).sum() / plan.accumulation).backward()
        with torch.no_grad():
            grads = [_grad(p) for p in parameters.values()]
            norms = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
            clip = (config.optimizer.clip_norm / norms).clamp(max=1.0) if config.optimizer.clip_norm else None
            size = rates / (1 - beta1**taken)
            for (name, p), g in zip(parameters.items(), grads, strict=True):
                shape = (members, *[1] * (p.dim() - 1))
                g = g if clip is None else g * clip.view(shape)
                first, second = moments[name]
                first.lerp_(g, 1 - beta1)
                second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                root = (second / (1 - beta2**taken)).sqrt_().add_(config.optimizer.eps)
                p.sub_(size.view(shape) * first / root)
                p.grad = None

    data: Iterator[torch.Tensor] = batches(config, plan, stores, steps)
    return lambda: timed(step, data, steps), parameters


class _Called:
    """A network with other weights, called like one."""

    def __init__(self, network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
        self._network, self._weights = network, weights

    def __call__(self, **inputs: torch.Tensor) -> object:
        return functional_call(self._network, self._weights, (), inputs)


def _grad(parameter: torch.Tensor) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad
