"""An exponential average of the weights of the forward pass, kept in fp32 and whole on every rank (not under ZeRO-3).

In bf16 it averages rounded weights: over a half-life of many steps their rounding averages out with them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def start_ema(network: nn.Module, saved: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The average as it was saved, or the weights as they are."""
    now = {name: parameter.detach().float().clone() for name, parameter in network.named_parameters()}
    return now if saved is None else {name: saved[name].to(now[name].device) for name in now}


def update_ema(ema: dict[str, torch.Tensor], network: nn.Module, forgotten: float) -> None:
    """ema += forgotten x (weights - ema), with forgotten = 1 - 2^(-B / half-life) for a step of B tokens."""
    for average, parameter in zip(ema.values(), network.parameters(), strict=True):
        average.lerp_(parameter.detach().float(), forgotten)


@contextmanager
def averaged(network: nn.Module, ema: dict[str, torch.Tensor]) -> Iterator[None]:
    """The network with the average in place of its weights, which return bit for bit."""
    kept = [parameter.detach().clone() for parameter in network.parameters()]
    _copy(network, list(ema.values()))
    try:
        yield
    finally:
        _copy(network, kept)


@torch.no_grad()
def _copy(network: nn.Module, weights: list[torch.Tensor]) -> None:
    for parameter, weight in zip(network.parameters(), weights, strict=True):
        parameter.copy_(weight)
