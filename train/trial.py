"""Trial steps: what one step of any learning rate would do to the loss, from one and the same state.

They are taken on a whole fp32 copy of weights and optimizer state (see `train.landscape`), by the run's own kind of
optimizer and with its groups, decay and clipping. The engine is only read, so there is nothing to restore in it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import RunConfig
from train.engine import Engine
from train.landscape import loss_of_weights, mean_over_ranks, whole_state, whole_weights
from train.optimizers import make_optimizer
from train.second_moment import initial_second_moment


def trial_steps(engine: Engine, config: RunConfig, micro: Sequence[Tensor]) -> tuple[Callable[[float], float], float]:
    """The loss after a step of a learning rate, and the loss before, both of this batch and means over the ranks.

    `micro`: this rank's micro-batches, (B, S + 1) each, equally large; the step follows their gradient. To be called on
    all ranks, as is the function returned: a forward pass over the batch each time.
    """
    loss = loss_of_weights(config.model)
    weights, state, steps = whole_weights(engine), *whole_state(engine)
    parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in weights.items()}
    optimizer = make_optimizer(_groups(engine, parameters), config.optimizer)
    for batch in micro:
        (loss(parameters, batch) / len(micro)).backward()
    for parameter in parameters.values():
        assert parameter.grad is not None
        parameter.grad = mean_over_ranks(parameter.grad)
    nn.utils.clip_grad_norm_(parameters.values(), config.optimizer.clip_norm or float("inf"))
    if not state and config.optimizer.second_moment != "zero":
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        v = initial_second_moment(config.optimizer.second_moment, gradients, config.seed)
        state, steps = {"exp_avg_sq": v, "exp_avg": {name: torch.zeros_like(p) for name, p in weights.items()}}, 0.0

    @torch.no_grad()
    def loss_here() -> float:
        return mean_over_ranks(torch.stack([loss(parameters, batch) for batch in micro]).mean()).item()

    @torch.no_grad()
    def loss_after(lr: float) -> float:
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            optimizer.state[parameter] = _copy(state, name, steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_multiplier"]
        optimizer.step()
        return loss_here()

    return loss_after, loss_here()


def _groups(engine: Engine, parameters: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    """The engine's groups around other parameters of the same names."""
    keys = ("names", "lr", "lr_multiplier", "weight_decay", "eps", "betas")
    return [
        {key: group[key] for key in keys} | {"params": [parameters[name] for name in group["names"]]}
        for group in engine.optimizer.param_groups
    ]


def _copy(state: dict[str, dict[str, Tensor]], name: str, steps: float) -> dict[str, Tensor]:
    """The state of a parameter; empty, as before the first step, if there is none."""
    if not state:
        return {}
    return {key: tensors[name].clone() for key, tensors in state.items()} | {"step": torch.tensor(steps)}
