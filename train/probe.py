"""A model at one checkpoint as what a measurement asks it: gradients, Hessian times vectors, the loss a step away.

Vectors are flat, fp32, (n,): all parameters one after another, in units in which a step of learning rate lr subtracts
lr x V whatever the parameter's group: a group's learning-rate multiplier m goes with every derivative (theta = m phi).
One process, one device; the run's files are only read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from configs.errors import ConfigError
from configs.schema import RunConfig
from train.data.batches import open_split, sequences
from train.data.open import open_corpus
from train.engine import device
from train.export import checkpoint_of, config_of, master_weights
from train.model import blank, loss_of
from train.parametrization import table


@dataclass(frozen=True)
class Probe:
    """A loss at a point, and data that it has not seen."""

    parameters: tuple[nn.Parameter, ...]
    multiplier: tuple[float, ...]  # of each parameter's learning rate
    loss: Callable[[torch.Tensor], torch.Tensor]  # mean over sequences (count, ...), nats
    draw: Callable[[int, int], torch.Tensor]  # (first, count) -> sequences first .. first + count - 1
    available_seqs: int
    seq_len: int  # tokens of a sequence
    piece_seqs: int  # most sequences of one forward pass


def gradient(probe: Probe, batch: torch.Tensor) -> torch.Tensor:
    """Of the mean loss over `batch`, (n,)."""
    total = None
    for piece, share in _pieces(probe, batch):
        found = _flat(probe, torch.autograd.grad(probe.loss(piece), probe.parameters))
        total = found * share if total is None else total.add_(found, alpha=share)
    assert total is not None
    return total


def hessian_times(probe: Probe, batch: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Hessian of the mean loss over `batch` times `vector` (n,), (n,)."""
    total, parts = torch.zeros_like(vector), _parts(probe, vector)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        for piece, share in _pieces(probe, batch):
            first = torch.autograd.grad(probe.loss(piece), probe.parameters, create_graph=True)
            slope = sum((g * v).sum() for g, v in zip(first, parts, strict=True))
            second = torch.autograd.grad(slope, probe.parameters, materialize_grads=True)  # pyright: ignore
            total.add_(_flat(probe, second), alpha=share)
    return total


@torch.no_grad()
def loss_of_batch(probe: Probe, batch: torch.Tensor) -> float:
    """Mean loss over `batch`, nats."""
    return sum(share * probe.loss(piece).item() for piece, share in _pieces(probe, batch))


@contextmanager
def moved(probe: Probe, step: torch.Tensor) -> Iterator[None]:
    """Inside, the parameters are `step` (n,) away; after it they are what they were, bit for bit."""
    saved = [parameter.detach().clone() for parameter in probe.parameters]
    try:
        with torch.no_grad():
            for parameter, part in zip(probe.parameters, _parts(probe, step), strict=True):
                parameter.add_(part)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(probe.parameters, saved, strict=True):
                parameter.copy_(value)


def probe_of(run_dir: Path, tokens: int | None, data_dir: Path) -> tuple[Probe, RunConfig, int]:
    """A run's fp32 weights at a checkpoint of any ZeRO stage (None: the newest), its configuration, tokens seen there.

    The data are the sequences of the run's order that come after those it had seen. Raises ConfigError.
    """
    config = config_of(run_dir)
    checkpoint = checkpoint_of(run_dir, config, tokens)
    reached = int(checkpoint.name)
    store = open_split(open_corpus(config.data, data_dir), "train", config.model.seq_len)
    network, where = blank(config.model), device()
    weights = master_weights(checkpoint / "state")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])
    network.to(where)  # pyright: ignore[reportArgumentType]
    multipliers = {row.name: row.rule.lr_multiplier for row in table(network, config)}
    names, parameters = zip(*network.named_parameters(), strict=True)
    seen = reached // config.model.seq_len

    def draw(first: int, count: int) -> torch.Tensor:
        return torch.from_numpy(sequences(store, config.seed, seen + first, count)).to(where)

    probe = Probe(
        parameters=parameters,
        multiplier=tuple(multipliers[name] for name in names),
        loss=lambda batch: loss_of(network, batch),
        draw=draw,
        available_seqs=store.n_sequences - seen,
        seq_len=config.model.seq_len,
        piece_seqs=config.engine.micro_batch_seqs,
    )
    return probe, config, reached


def unscaled(probe: Probe, vector: torch.Tensor) -> torch.Tensor:
    """A gradient (..., n) as that of theta, without learning-rate multipliers."""
    parts = vector.split([parameter.numel() for parameter in probe.parameters], dim=-1)
    return torch.cat([part / m for part, m in zip(parts, probe.multiplier, strict=True)], dim=-1)


def check_available(probe: Probe, asked: int, how: str) -> None:
    """Raises ConfigError if `asked` sequences are more than the run has left unseen; `how` says what to lower."""
    if asked > probe.available_seqs:
        raise ConfigError(
            f"{asked:,} unseen training sequences are asked for, the corpus has {probe.available_seqs:,} left behind "
            f"this checkpoint: {how}"
        )


def _pieces(probe: Probe, batch: torch.Tensor) -> Iterator[tuple[torch.Tensor, float]]:
    for piece in batch.split(probe.piece_seqs):
        yield piece, len(piece) / len(batch)


def _flat(probe: Probe, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([(t.detach() * m).flatten() for t, m in zip(tensors, probe.multiplier, strict=True)])


def _parts(probe: Probe, vector: torch.Tensor) -> list[torch.Tensor]:
    """A vector in the shapes of the parameters, as a change of theta."""
    parts = vector.split([parameter.numel() for parameter in probe.parameters])
    return [
        part.view(parameter.shape) * m
        for part, parameter, m in zip(parts, probe.parameters, probe.multiplier, strict=True)
    ]
