"""Validation on a fixed token set, the same for every run, and the sizes of activations seen on the way.

Windows are partitioned by index over ranks; each rank runs the same number of forward passes (padding repeats a
window with weight 0), so no rank waits for another; sums are reduced once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from train.model import loss_of
from train.ranks import mean_over_ranks

OBSERVED_WINDOWS = 8  # a fixed number, so that sizes of activations do not depend on the micro-batch


@torch.no_grad()
def validate(network: nn.Module, windows: np.ndarray, micro_batch_seqs: int, device: torch.device) -> float:
    """Mean cross-entropy in nats over all targets of `windows` (n, seq_len + 1), the same on every rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    total = torch.zeros(2, dtype=torch.float64, device=device)  # sum of losses, number of targets
    network.eval()
    for first in range(0, len(windows), world * micro_batch_seqs):
        start = first + rank * micro_batch_seqs
        mine = windows[start : start + micro_batch_seqs]
        tokens = torch.from_numpy(mine if len(mine) else windows[:1]).to(device)
        logits = network(input_ids=tokens[:, :-1]).logits
        if len(mine):
            targets = tokens[:, 1:].flatten()
            losses = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
            total[0] += losses.double().sum()
            total[1] += targets.numel()
    network.train()
    dist.all_reduce(total)
    return (total[0] / total[1]).item()


@torch.no_grad()
def look_ahead(network: nn.Module, micro: Sequence[torch.Tensor]) -> float:
    """The mean loss of micro-batches (B, S + 1), equally large, over all ranks: that of a step before it is taken."""
    return mean_over_ranks([torch.stack([loss_of(network, batch) for batch in micro]).mean()])[0]


@torch.no_grad()
def activation_sizes(network: nn.Module, windows: np.ndarray, device: torch.device) -> dict[str, float]:
    """RMS of activations by module kind (see `observe`) over the first OBSERVED_WINDOWS windows."""
    network.eval()
    # A compiled model would be compiled again for its hooks.
    with observe(network) as squares, torch.compiler.set_stance("force_eager"):
        for window in windows[:OBSERVED_WINDOWS]:
            network(input_ids=torch.from_numpy(window[None, :-1]).to(device))
    network.train()
    return {kind: (sum(values) / len(values)) ** 0.5 for kind, values in squares.items()}


@contextmanager
def observe(network: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Collect the mean square of activations by module kind while the model runs forward.

    Kinds: embedding (as it enters the first block), attention and ffn (branch outputs), residual (as it enters the
    final norm), logits (after their multiplier).
    """
    squares: dict[str, list[float]] = {}

    def record(kind: str, activation: torch.Tensor) -> None:
        squares.setdefault(kind, []).append(activation.float().square().mean().item())

    def on_output(kind: str):  # noqa: ANN202
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            record(kind, output[0] if isinstance(output, tuple) else getattr(output, "logits", output))

        return hook

    def on_input(kind: str):  # noqa: ANN202
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            record(kind, args[0] if args else kwargs["hidden_states"])

        return hook

    handles = []
    for name, module in network.named_modules():
        if name.endswith("self_attn"):
            handles.append(module.register_forward_hook(on_output("attention")))
        elif name.endswith(".mlp"):
            handles.append(module.register_forward_hook(on_output("ffn")))
        elif name.endswith("layers.0"):
            handles.append(module.register_forward_pre_hook(on_input("embedding"), with_kwargs=True))
        elif name.endswith("model.norm"):
            handles.append(module.register_forward_pre_hook(on_input("residual"), with_kwargs=True))
    handles.append(network.register_forward_hook(on_output("logits")))
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()
