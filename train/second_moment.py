"""GI-Adam: the second moment starts from the first gradient squared (Kalra & Barkeshli, arXiv 2406.09405, section 6).

    v_0 = g_0^2, m_0 = 0, and both bias corrections as they are.

E[v_t] is then right without its correction, so dividing it by 1 - beta2^t makes step t smaller by sqrt(1 - beta2^t): a
warmup for nothing. g_0 is the gradient of the first batch, clipped as training clips; that batch is then trained on
like any other (the authors' code draws one more batch, a choice that a single pass over the data does not want). The
control, "random", keeps only the size: v_0 = (|g_0| z / |z|)^2 with normal z, over all parameters together.
"""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from configs.schema import OptimizerConfig, RunConfig, SecondMoment
from train.engine import Engine
from train.state import MOMENTS, read_gradient, start_optimizer, write


def initial_second_moment(kind: SecondMoment, gradients: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """v_0 by parameter name from the first gradient, for the kinds "gradient" and "random"."""
    if kind == "gradient":
        return {name: gradient.float() ** 2 for name, gradient in gradients.items()}
    drawn = {name: _normal(name, gradient, seed) for name, gradient in gradients.items()}
    scale = _norm(gradients) / _norm(drawn)
    return {name: (scale * z) ** 2 for name, z in drawn.items()}


@torch.no_grad()
def start_second_moment(engine: Engine, config: RunConfig) -> None:
    """Set v before the first step; to be called on all ranks between the last backward pass and the step."""
    gradients: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        gradient = read_gradient(engine, parameter)
        assert gradient is not None, f"the gradient of {name} cannot be read"
        gradients[name] = gradient.detach().float().clone()
    if engine.zero_optimization_stage():  # at stage 0 they have been clipped
        factor = clip_factor(_norm(gradients), config.optimizer)
        gradients = {name: factor * gradient for name, gradient in gradients.items()}
    start_optimizer(engine, 0.0)
    for name, v in initial_second_moment(config.optimizer.second_moment, gradients, config.seed).items():
        write(engine, engine.module.get_parameter(name), MOMENTS[1], v)


def clip_factor(norm: Tensor, optimizer: OptimizerConfig) -> Tensor:
    """What clipping multiplies a gradient of this norm by."""
    limit = optimizer.clip_norm or float("inf")
    return (limit / (norm + 1e-6)).clamp(max=1.0)


def _norm(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([tensor.float().norm() for tensor in tensors.values()]).norm()


def _normal(name: str, like: Tensor, seed: int) -> Tensor:
    """Normal numbers of this parameter's own, whatever the ranks."""
    digest = hashlib.sha256(f"{seed}:{name}:second moment".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(like.shape, generator=generator).to(like.device)
