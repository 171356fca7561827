"""The gradient's noise as training goes on: squared norms of the parts of a batch, and of the mean gradient.

Parts are micro-batches and ranks (`log.noise: gradients`): a hook sees every local gradient before it is summed or
reduced. Or sequences (`gains`): the gradient of a norm's gain is a sum over positions of (gradient of the output x
normalised input), so the terms of one sequence are its own gradient (Gray et al. 2024, arXiv 2411.00999). Both see what
DeepSpeed is given, so the loss's division by the accumulation is undone, and SVAG's weights; nothing is clipped yet.

The mean gradient is read where a step begins, each rank's share of it. Nothing that training computes is touched, and
nothing waits: norms stay on the device until a record is written.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from configs.moments import WATCHED, half_life_tokens, part_tokens, two_batch, whole_tokens
from configs.plan import Plan
from configs.schema import RunConfig
from train.engine import Engine
from train.ranks import world
from train.state import local_gradient, stepped

KINDS = ("embedding", "attention", "ffn", "norm", "output")


@dataclass
class NoiseState:
    """What a run that is resumed goes on from."""

    pending: list[list[float]] = field(default_factory=list)  # vectors of the steps since the last record
    smoothed: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # weight; weighted |G|^2 and tr Sigma
    since: int = 0  # tokens of the last record


def kind_of(name: str) -> str:
    """The kind of layer that a parameter belongs to, by its name."""
    if name.endswith("norm.weight"):
        return "norm"
    ends = {"embed_tokens.weight": "embedding", "lm_head.weight": "output"}
    return next((kind for end, kind in ends.items() if name.endswith(end)), "ffn" if ".mlp." in name else "attention")


class NoiseProbe:
    """Hooks on an engine's network, and the norms they have seen since the last record."""

    def __init__(self, engine: Engine, config: RunConfig, plan: Plan) -> None:
        self._engine, self._accumulation, self._micro = engine, plan.accumulation, plan.micro_batch_seqs
        assert config.log.noise is not None
        self._gains, self._every = config.log.noise == "gains", WATCHED[config.log.noise]
        self._active = False
        self._squares: list[list[Tensor]] = [[] for _ in KINDS]  # of the micro-batch that is under way
        self._small: list[Tensor] = []  # (K,), one a micro-batch
        self._steps: list[Tensor] = []  # (2 K,), one a step: parts, then the mean gradient
        self._before: list[Tensor] | None = None  # weights, in a step that is recorded
        self._sizes: list[Tensor] = []  # (2,): squared norms of weights and of their last change
        self._watched: list[list[nn.Parameter]] = [[] for _ in KINDS]
        for name, parameter in engine.module.named_parameters():
            kind = KINDS.index(kind_of(name))
            if self._gains and KINDS[kind] != "norm":
                continue
            self._watched[kind].append(parameter)
            if not self._gains:
                parameter.register_hook(partial(self._see_gradient, kind))
        if self._gains:
            for name, module in engine.module.named_modules():
                if name.endswith("norm"):
                    module.register_forward_hook(self._see_forward)

    def begin(self, step: int, recorded: bool) -> None:
        """A step begins, its number from 1; the change of the weights is measured if it will be recorded."""
        self._active = step % self._every == 0
        self._before = [tensor.detach().clone() for tensor in stepped(self._engine)] if recorded else None

    def after_backward(self, weight: float, last: bool) -> None:
        """A micro-batch of SVAG's `weight` has gone backward; after the step's `last`, before its gradient is used."""
        if not self._active:
            return
        undo = (self._accumulation / weight) ** 2 * (self._micro if self._gains else 1)
        self._small.append(torch.stack([_sum(squares, self._engine.device) for squares in self._squares]) * undo)
        self._squares = [[] for _ in KINDS]
        if last:
            shares = world() if self._engine.zero_optimization_stage() else 1  # or it is there whole on every rank
            big = [_sum(self._gradient_squares(kind), self._engine.device) for kind in range(len(KINDS))]
            self._steps.append(torch.cat([torch.stack(self._small).mean(0), torch.stack(big) * shares]))
            self._small = []

    def after_step(self) -> None:
        """The weights have moved."""
        if self._before is None:
            return
        now = [tensor.detach() for tensor in stepped(self._engine)]
        shares = world() if self._engine.zero_optimization_stage() else 1
        moved = (before.sub_(after) for before, after in zip(self._before, now, strict=True))
        norms = [_sum([_square(tensor) for tensor in tensors], self._engine.device) for tensors in (now, moved)]
        self._sizes, self._before = [torch.stack(norms) * shares], None

    def taken(self) -> tuple[list[Tensor], list[Tensor]]:
        """This rank's vectors since the last call, whose means over ranks are the record; both lists are emptied."""
        steps, sizes = self._steps, self._sizes
        self._steps, self._sizes = [], []
        return steps, sizes

    def _gradient_squares(self, kind: int) -> list[Tensor]:
        found = (local_gradient(self._engine, parameter) for parameter in self._watched[kind])
        return [_square(gradient) for gradient in found if gradient is not None]

    def _see_gradient(self, kind: int, gradient: Tensor) -> None:
        if self._active:
            self._squares[kind].append(_square(gradient))

    def _see_forward(self, norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._active and output.requires_grad:
            output.register_hook(_per_sequence(norm, inputs[0].detach(), self._squares[KINDS.index("norm")].append))


def _per_sequence(norm: Any, hidden: Tensor, add: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """A hook on an RMSNorm's output, (B, ..., D): adds the sum over sequences of the squared norm of what each gives
    to its gain's gradient.
    """

    def hook(gradient: Tensor) -> None:
        x = hidden.float()
        normalised = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        own = (gradient.float() * normalised).flatten(1, -2).sum(1)
        add(own.square().sum())

    return hook


def _square(tensor: Tensor) -> Tensor:
    """The squared norm, in fp32."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float32).square()


def _sum(values: list[Tensor], device: torch.device) -> Tensor:
    return torch.stack(values).sum() if values else torch.zeros((), device=device)


def noise_row(
    config: RunConfig, plan: Plan, state: NoiseState, sizes: list[list[float]], tokens: int
) -> dict[str, Any] | None:
    """The metrics row of a record at `tokens`; None if no step since the last one was measured.

    trace is of one token; snr = |G|^2 B / tr Sigma, from this record alone; noise_scale (tokens) from both moments as
    they are smoothed over tokens, empty while |G|^2 is not above zero. Norms of weights and of their last change, a
    token, where they were measured. Empties what is pending.
    """
    if not state.pending:
        return None
    count, batches = len(KINDS), (part_tokens(config, plan.micro_batch_seqs), whole_tokens(config))
    means = [sum(column) / len(state.pending) for column in zip(*state.pending, strict=True)]
    mean_sq, trace = two_batch(sum(means[:count]), sum(means[count:]), *batches)
    span = tokens - state.since
    kept = 0.5 ** (span / half_life_tokens(plan.tokens - plan.start_tokens))
    new = (span, span * mean_sq, span * trace)
    state.smoothed = [old * kept + fresh for old, fresh in zip(state.smoothed, new, strict=True)]
    _, smooth_sq, smooth_trace = state.smoothed
    row: dict[str, Any] = {
        "kind": "noise",
        "tokens": tokens,
        "of": config.log.noise,
        "steps": len(state.pending),
        "mean_sq": mean_sq,
        "trace": trace,
        "snr": mean_sq * config.batch_tokens / trace if trace > 0 else None,
        "noise_scale": smooth_trace / smooth_sq if smooth_sq > 0 else None,
    }
    if sizes:
        ((weights, moved),) = sizes
        row |= {"weights_norm": weights**0.5, "update_norm_per_token": moved**0.5 / plan.step_tokens}
    if config.log.noise == "gradients":
        for index, kind in enumerate(KINDS):
            if means[index]:  # a tied model has no output
                moments = two_batch(means[index], means[count + index], *batches)
                row |= {f"mean_sq_{kind}": moments[0], f"trace_{kind}": moments[1]}
    state.pending, state.since = [], tokens
    return row
