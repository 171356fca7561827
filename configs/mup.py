"""The arithmetic of the parametrisation: what every role of parameter is multiplied by as the width grows.

With r = width / base_width, everything is a power of r: at r = 1 `mup` and `sp` are the same numbers, bit for bit.

| role | init std, mup | init std, sp | lr, mup / sp | weight decay, mup / sp | eps, mup / sp |
|---|---|---|---|---|---|
| embedding | const | const | 1 / 1 | 0 / 0 | 1/r / 1 |
| hidden | r^-1/2 | r^-1/2 | 1/r / 1 | r / 1 | 1/r / 1 |
| residual_out | (2 depth r)^-1/2 | (2 depth r)^-1/2 | 1/r / 1 | r / 1 | 1/r / 1 |
| output | const | r^-1/2 | 1 / 1 | 1 / 1 | 1/r / 1 |
| norm (gain 1), bias (0) | 0 | 0 | 1 / 1 | 0 / 0 | 1/r / 1 |

Sources: Yang et al., Tensor Programs V (arXiv 2203.03466), table 8, in the form of the code of Time Transfer
(arXiv 2410.05838): for an untied head, a logits multiplier 1/r in place of an output init and learning rate that fall.

Weight decay. Decoupled AdamW shrinks a weight by lr x weight_decay per step, so the multiplier r beside the learning
rate's 1/r keeps lr x weight_decay, the time in which a weight is forgotten, independent of width. Embeddings, norms
and biases are never decayed.

Adam's epsilon. Under mup the logits are multiplied by 1/r while the head's entries W and the activations x stay O(1)
in width. So the head's gradient, (1/r) dloss/dlogits x^T, falls as 1/r, and so does every coordinate of the gradient of
the residual stream, g = (1/r) W^T dloss/dlogits. All other gradients are g passed backwards. The embedding's and the
norms' are g times O(1), a residual output's is g a^T. The gradient of its input, W_out^T g, is a sum of O(r) terms:
random ones of size r^-1/2 x 1/r from the init, aligned ones of size 1/r x 1/r from what training added; both sums are
O(1/r), and so on through every matrix further down. All gradients fall as 1/r, hence so must eps, in every role, to
keep its place beside the root of the second moment. In the global gradient norm the hidden matrices' share stays O(1),
r^2 entries of size 1/r, and the share of embedding and head falls as r^-1/2: clipping binds no harder with width, and
clip_norm gets no multiplier. Under sp no single power is common to all roles, and eps stays as it is.
"""

import math
from dataclasses import dataclass
from typing import Literal

from configs.schema import ModelConfig

Role = Literal["embedding", "hidden", "residual_out", "output", "norm", "bias"]


@dataclass(frozen=True)
class RoleRule:
    """How the parameters of one role are initialised and trained; multipliers act on the optimizer's config."""

    init_std: float  # of a normal around 0; norm gains are 1 and biases 0, so theirs is 0
    lr_multiplier: float
    weight_decay_multiplier: float
    eps_multiplier: float


@dataclass(frozen=True)
class ForwardMultipliers:
    """The scalars of the forward pass; all but `attention` multiply the output of what they are named after."""

    embedding: float
    attention: float  # multiplies q.k before the softmax
    residual: float  # multiplies each branch before it is added
    logits: float


def width_ratio(model: ModelConfig) -> float:
    """r: how many times wider than the base the model is."""
    return model.width / model.base_width


def rules(model: ModelConfig) -> dict[Role, RoleRule]:
    """The rule of every role; see the table above."""
    r = width_ratio(model)
    mup = model.parametrization == "mup"
    matrix_lr, matrix_decay, eps = (1 / r, r, 1 / r) if mup else (1.0, 1.0, 1.0)
    hidden_std = model.hidden_init_std / math.sqrt(r)
    output_std = model.output_init_std if mup else model.output_init_std / math.sqrt(r)
    return {
        "embedding": RoleRule(model.embedding_init_std, 1.0, 0.0, eps),
        "hidden": RoleRule(hidden_std, matrix_lr, matrix_decay, eps),
        "residual_out": RoleRule(hidden_std / math.sqrt(2 * model.depth), matrix_lr, matrix_decay, eps),
        "output": RoleRule(output_std, 1.0, 1.0, eps),
        "norm": RoleRule(0.0, 1.0, 0.0, eps),
        "bias": RoleRule(0.0, 1.0, 0.0, eps),
    }


def forward_multipliers(model: ModelConfig) -> ForwardMultipliers:
    """The scalars of the forward pass.

    Attention: under mup 1/sqrt(head_dim) at the base head size and 1/head_dim beyond it, since q and k align.
    """
    mup = model.parametrization == "mup"
    base_head_dim = model.base_head_dim if mup and model.base_head_dim else model.head_dim
    return ForwardMultipliers(
        embedding=model.embedding_multiplier,
        attention=math.sqrt(base_head_dim) / model.head_dim,
        residual=model.residual_multiplier,
        logits=model.output_multiplier / width_ratio(model) if mup else model.output_multiplier,
    )
