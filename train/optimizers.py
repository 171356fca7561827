"""The optimizers of a study: torch's fused AdamW, and those that differ from it in how a gradient becomes a step.

All decay decoupled, as AdamW does: a weight loses lr x weight_decay of itself before the step. All but Adafactor act on
every number by itself, so that they may be given the flat shards of ZeRO. All state lies by tensor, for ZeRO-3 steps
its shards one after another.

- rmsprop: g / (sqrt(v) + eps), v the average of g^2 by beta2, without bias correction (torch.optim.RMSprop).
- adam_lagged, rmsprop_lagged: the same and Adam with the v of the step before, which does not know of g; so in theory
  noise is independent of its preconditioner. The first step only fills the moments (Malladi et al. 2022, 2205.10287,
  and their code, whose Adam corrects m by 1 - beta1^k and the old v by 1 - beta2^(k-1)).
- lion: sign(beta1 m + (1 - beta1) g), then m by beta2 (Chen et al. 2023, 2302.06675).
- sign: sign(m), m the average of g by beta1; sign descent where beta1 = 0 (Bernstein et al. 2018, 1802.04434).
- adagrad: g / (sqrt(sum of g^2) + eps) (torch.optim.Adagrad).
- sgd: m = beta1 m + g (torch.optim.SGD).
- adafactor: g / sqrt(v), v from the averages of g^2 over a matrix's rows and columns, which forget as 1 - k^-0.8; then
  clipped to RMS 1 a tensor. Neither the parameter's RMS nor 1 / sqrt(k) enters its rate, as both do in
  torch.optim.Adafactor: lr means what it does for Adam. sqrt(v) is at least eps (Shazeer and Stern 2018, 1804.04235).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from configs.schema import OptimizerConfig, OptimizerKind

FACTOR_DECAY = 0.8  # Adafactor's averages forget k^-0.8 of themselves at step k
State = dict[str, Tensor]
Update = Callable[[Tensor, State, dict[str, Any]], Tensor | None]  # gradient -> step / -lr; None: no step


def make_optimizer(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    """The optimizer of a run on groups that have lr, weight_decay and eps."""
    betas = (config.beta1, config.beta2)
    if config.kind == "adamw":
        return AdamW(groups, betas=betas, fused=True)
    return Stepper(groups, config.kind, betas)


class Stepper(Optimizer):
    """Decay, then -lr x what the kind's rule makes of the gradient; `step` counts by tensor, from 1."""

    def __init__(self, groups: list[dict[str, Any]], kind: OptimizerKind, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})
        self._update = UPDATES[kind]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                state["step"] += 1
                update = self._update(parameter.grad, state, group)
                if update is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"])


def _average(state: State, name: str, value: Tensor, beta: float) -> Tensor:
    """The exponential average of `value`, from zero."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].mul_(beta).add_(value, alpha=1 - beta)


def _rmsprop(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    second = _average(state, "exp_avg_sq", gradient.square(), group["betas"][1])
    return gradient / (second.sqrt() + group["eps"])


def _rmsprop_lagged(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor | None:
    before = state["exp_avg_sq"].sqrt() if "exp_avg_sq" in state else None
    _average(state, "exp_avg_sq", gradient.square(), group["betas"][1])
    return None if before is None else gradient / (before + group["eps"])


def _adam_lagged(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor | None:
    (beta1, beta2), step = group["betas"], float(state["step"])
    before = state["exp_avg_sq"].clone() if "exp_avg_sq" in state else None
    first = _average(state, "exp_avg", gradient, beta1)
    _average(state, "exp_avg_sq", gradient.square(), beta2)
    if before is None:
        return None
    return first / (1 - beta1**step) / ((before / (1 - beta2 ** (step - 1))).sqrt() + group["eps"])


def _lion(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    beta1, beta2 = group["betas"]
    before = state["exp_avg"] if "exp_avg" in state else torch.zeros_like(gradient)
    direction = (before * beta1).add_(gradient, alpha=1 - beta1).sign_()
    _average(state, "exp_avg", gradient, beta2)
    return direction


def _sign(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    return _average(state, "exp_avg", gradient, group["betas"][0]).sign()


def _adagrad(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    if "sum" not in state:
        state["sum"] = torch.zeros_like(gradient)
    return gradient / (state["sum"].add_(gradient.square()).sqrt() + group["eps"])


def _sgd(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    return state["momentum_buffer"].mul_(group["betas"][0]).add_(gradient)


def _adafactor(gradient: Tensor, state: State, group: dict[str, Any]) -> Tensor:
    beta, square, least = 1 - float(state["step"]) ** -FACTOR_DECAY, gradient.square(), group["eps"] ** 2
    if gradient.dim() < 2:
        second = _average(state, "variance", square, beta)
    else:
        rows = _average(state, "row_var", square.mean(-1, keepdim=True), beta)
        columns = _average(state, "col_var", square.mean(-2, keepdim=True), beta)
        second = rows @ columns / rows.mean(-2, keepdim=True).clamp(min=least)
    update = gradient * second.clamp(min=least).rsqrt()
    return update / (update.norm() / update.numel() ** 0.5).clamp(min=1.0)


UPDATES: dict[OptimizerKind, Update] = {
    "rmsprop": _rmsprop,
    "rmsprop_lagged": _rmsprop_lagged,
    "adam_lagged": _adam_lagged,
    "lion": _lion,
    "sign": _sign,
    "adagrad": _adagrad,
    "sgd": _sgd,
    "adafactor": _adafactor,
}
