"""Sharpness on a fixed probe batch: how curved the loss is, as it is and as the optimizer sees it.

Kalra & Barkeshli, Why Warmup the Learning Rate? (arXiv 2406.09405), section 3 and its code.

sharpness: the largest eigenvalue of the Hessian H of the probe batch's loss, over all parameters.
preconditioned: that of P^-1 H for the P that Adam would divide by if the probe batch came next, at step t,

    P = (1 - beta1^t) (sqrt(v / (1 - beta2^t)) + eps) lr / lr_group,    v = beta2 v_before + (1 - beta2) g^2,

as in the authors' code (the printed formula lacks the root). lr / lr_group folds the parametrisation's learning rates
in, so that the one peak lr meets the threshold (2 + 2 beta1) / ((1 - beta1) lr). g is the probe's gradient, clipped as
training clips; as v has seen it, a token that only the probe has does not divide by eps. What is solved for is
P^-1/2 H P^-1/2, symmetric and of the same spectrum. Weight decay, which adds lr x decay to a step, is in neither.

For RMSprop P is (sqrt(v) + eps) lr / lr_group, for SGD lr / lr_group; other optimizers have no P, as their steps are no
linear function of the gradient.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from configs.plan import Plan
from configs.schema import OptimizerConfig, RunConfig
from train.data.batches import TokenStore, sequences
from train.eigen import Top, top_eigenpair
from train.engine import Engine, device
from train.landscape import Quadratic, Weights, flat, loss_of_weights, quadratic, whole_state, whole_weights
from train.parametrization import Row
from train.ranks import rank
from train.second_moment import clip_factor, initial_second_moment

MOST_PRODUCTS = 200


@dataclass
class Probe:
    """The probe batch, this rank's share of it, and the vectors found last, from which the next search starts."""

    tokens: Tensor  # (B, S + 1)
    found: dict[str, Tensor] = field(default_factory=dict)


def open_probe(store: TokenStore, config: RunConfig, plan: Plan) -> Probe:
    """The first sequences that the run trains on, the same at any batch and number of ranks."""
    mine = config.log.sharpness.seqs // plan.world_size
    batch = sequences(store, config.seed, rank() * mine, mine)
    return Probe(torch.from_numpy(batch).to(device()))


def probe_sharpness(
    probe: Probe, engine: Engine, rows: Iterable[Row], config: RunConfig, tokens: int
) -> dict[str, float | int | str | None]:
    """One metrics row at the state after `tokens`: both sharpnesses, the probe's loss, how sure they are, the cost.

    `residual` is the larger relative residual: an eigenvalue lies that close to what is said. `products` counts
    products with the Hessian. To be called on all ranks; the engine stays as it is.
    """
    began = time.monotonic()
    weights = whole_weights(engine)
    loss = loss_of_weights(config.model)
    around = quadratic(lambda weights: loss(weights, probe.tokens), weights)
    tolerance = config.log.sharpness.tolerance
    tops = {"sharpness": _top(probe, "sharpness", tolerance, tokens, around, None)}
    p = _preconditioner(engine, rows, config, weights, around)
    if p is not None:
        tops["preconditioned"] = _top(probe, "preconditioned", tolerance, tokens, around, p.rsqrt())
    return {
        "kind": "sharpness",
        "tokens": tokens,
        "loss": around.loss,
        "sharpness": tops["sharpness"].value,
        "preconditioned": tops["preconditioned"].value if "preconditioned" in tops else None,
        "residual": max(top.residual for top in tops.values()),
        "products": sum(top.products for top in tops.values()),
        "seconds": time.monotonic() - began,
    }


def preconditioner(
    optimizer: OptimizerConfig, v: Tensor, gradient: Tensor, step: float, eps: Tensor, lr_multiplier: Tensor
) -> Tensor | None:
    """P above, (n,), as it would be in the optimizer's step number `step` + 1 on `gradient`; all tensors (n,).

    `v` is the second moment before that step, `eps` and `lr_multiplier` are what each element's group has.
    """
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    gradient = gradient * clip_factor(gradient.norm(), optimizer)
    v = beta2 * v + (1 - beta2) * gradient**2
    match optimizer.kind:
        case "adamw":
            root = (v / (1 - beta2 ** (step + 1))).sqrt()
            return (1 - beta1 ** (step + 1)) * (root + eps) / lr_multiplier
        case "rmsprop":
            return (v.sqrt() + eps) / lr_multiplier
        case "sgd":
            return 1 / lr_multiplier
        case _:
            return None


def top_of(around: Quadratic, start: Tensor, scale: Tensor | None, tolerance: float) -> Top:
    """The top eigenpair of the Hessian, or of scale x H x scale (scale a diagonal, (n,)), from `start`."""
    if scale is None:
        return top_eigenpair(around.hessian, start, tolerance, MOST_PRODUCTS)
    return top_eigenpair(lambda v: scale * around.hessian(scale * v), start, tolerance, MOST_PRODUCTS)


def per_element(weights: Weights, values: Mapping[str, float]) -> Tensor:
    """A value a parameter, spread over its elements, (n,)."""
    return flat({name: torch.full_like(tensor, values[name]) for name, tensor in weights.items()})


def _preconditioner(
    engine: Engine, rows: Iterable[Row], config: RunConfig, weights: Weights, around: Quadratic
) -> Tensor | None:
    rules = {row.name: row.rule for row in rows}
    eps = per_element(weights, {name: config.optimizer.eps * rule.eps_multiplier for name, rule in rules.items()})
    lr_multiplier = per_element(weights, {name: rule.lr_multiplier for name, rule in rules.items()})
    state, step = whole_state(engine)
    if "exp_avg_sq" in state:
        v = flat(state["exp_avg_sq"])
    elif config.optimizer.second_moment != "zero":
        factor = clip_factor(around.gradient.norm(), config.optimizer)
        parts = (factor * around.gradient).split([tensor.numel() for tensor in weights.values()])
        named = {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}
        v = flat(initial_second_moment(config.optimizer.second_moment, named, config.seed))
    else:
        v = torch.zeros_like(around.gradient)
    return preconditioner(config.optimizer, v, around.gradient, step, eps, lr_multiplier)


def _top(probe: Probe, name: str, tolerance: float, tokens: int, around: Quadratic, scale: Tensor | None) -> Top:
    """From the last vector and as much of a random one: alone, the last would stay where another has overtaken it."""
    generator = torch.Generator().manual_seed(tokens)
    start = torch.randn(len(around.gradient), generator=generator).to(around.gradient)
    start /= start.norm()
    if name in probe.found:
        start += probe.found[name].to(start)
    top = top_of(around, start, scale, tolerance)
    probe.found[name] = top.vector.cpu()  # beside the model there may be no room
    return top
