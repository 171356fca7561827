"""The arithmetic of the parametrisation: what every role of parameter is multiplied by as the model grows.

With r = width / base_width, m = depth / base_depth (1 where base_depth is empty), a = depth_alpha and L the depth that
the initialisation knows (base_depth, or depth where that is empty), `mup` is, role by role:

| role | init std | forward x | lr x | weight decay x | eps x |
|---|---|---|---|---|---|
| embedding | embedding_init_std | embedding_multiplier | embedding_lr_multiplier | 0 | 1/r |
| hidden (q, k, v, gate, up) | hidden_init_std r^-1/2 | 1 | m^(a-1) / r | r / m^(a-1) | m^-a / r |
| residual_out (o, down) | hidden_init_std (2 L r)^-1/2 | residual_multiplier m^-a | as hidden | as hidden | m^-a / r |
| output (untied) | output_init_std | output_multiplier / r | 1 | 1 | 1/r |
| norm of a block, or bias | gain 1, bias 0 | 1 | m^(a-1) | 0 | m^-a / r |
| final_norm | gain 1 | 1 | 1 | 0 | 1/r |

`sp`, the standard parametrisation, has r = m = 1 in all of these but the init of matrices: hidden and residual_out as
above with L the depth, output as output_init_std r^-1/2. At base width and depth both are the same, bit for bit.

Sources: Yang et al., Tensor Programs V (arXiv 2203.03466), table 8, in the form of the code of Time Transfer
(arXiv 2410.05838): for an untied head, a logits multiplier 1/r in place of an output init and learning rate that fall.
Depth: Dey et al., CompleteP (arXiv 2505.01618), and its code in nanoGPT-mup; there, too, only blocks feel the depth.
The factor (2 L)^-1/2 is GPT-2's, taken at the base depth: beyond it CompleteP's branch multiplier does its work.

Attention. Logits are multiplied by sqrt(base head size) / head size under mup: 1/sqrt(d) at the base head size, 1/d
beyond it, because q and k align in training. A width grown by more heads of one size has no such factor.

Tied. The embedding is also the head: it has the embedding's init, rates and decay, and the output's forward multiplier
on its second use. Its init must serve both, so a tied base is tuned by itself: with embedding_init_std about
base_width^-1/2, embedding_multiplier its inverse and output_multiplier 1, activations and logits start at size 1.

Weight decay. AdamW multiplies a weight by 1 - lr_group x decay_group at each step; `optimizer.decay_rule` says what
that product is, and so what is kept when a tuned recipe moves to another width, learning rate or depth:
- base_lr (default): lr(t) x weight_decay, hence the multiplier 1 / (lr x) above. The time in which a weight is
  forgotten, 1 / (lr x weight_decay) steps, does not depend on width: wider models average over as many tokens, which is
  what transfers (Wang and Aitchison, arXiv 2405.13698; so does mup's MuAdamW). It still falls when lr rises.
- group_lr: lr(t) x lr_multiplier x weight_decay, multiplier 1: PyTorch's AdamW on muP's groups without further thought.
  A matrix r times wider remembers r times longer, so the best weight_decay moves with width.
- independent: weight_decay x the schedule's shape, multiplier 1 / (lr x lr_multiplier): the memory depends neither on
  width nor on the learning rate, so a sweep of lr does not sweep the decay too (Wortsman et al., arXiv 2309.14322).
Embeddings, norms and biases are never decayed.

Adam's epsilon. Under mup the logits are multiplied by 1/r while the head's entries W and the activations x stay O(1)
in width. So the head's gradient, (1/r) dloss/dlogits x^T, falls as 1/r, and so does every coordinate of the gradient of
the residual stream, g = (1/r) W^T dloss/dlogits. All other gradients are g passed backwards. The embedding's and the
norms' are g times O(1), a residual output's is g a^T. The gradient of its input, W_out^T g, is a sum of O(r) terms:
random ones of size r^-1/2 x 1/r from the init, aligned ones of size 1/r x 1/r from what training added; both sums are
O(1/r), and so on through every matrix further down. All gradients fall as 1/r, hence so must eps, in every role, to
keep its place beside the root of the second moment; within a branch multiplied by m^-a they fall by that too. In the
global gradient norm the hidden matrices' share stays O(1), r^2 entries of size 1/r, and the share of embedding and head
falls as r^-1/2: clipping binds no harder with width, and clip_norm gets no multiplier. Under sp no single power is
common to all roles, and eps stays as it is.

Other optimizers. The learning rates above are for steps whose size does not follow the gradient's: so are those of
RMSprop, Lion, sign descent, Adagrad and Adafactor. A step of SGD is as small as its gradient, which falls as the eps
multiplier says, so its rates are divided by that: under mup 1 for hidden matrices and r for the others at a = 1, as in
table 8 of Tensor Programs V and in mup's MuSGD.
"""

import math
from dataclasses import dataclass
from typing import Literal

from configs.schema import ModelConfig, RunConfig

Role = Literal["embedding", "hidden", "residual_out", "output", "norm", "final_norm", "bias"]
_DECAYED: tuple[Role, ...] = ("hidden", "residual_out", "output")


@dataclass(frozen=True)
class RoleRule:
    """How the parameters of one role are initialised and trained; multipliers act on the optimizer's config."""

    fan_in_ratio: float  # inputs of the matrix / those at base width; 1 where they do not grow
    init_std: float  # of a normal around 0; norm gains are 1 and biases 0, so theirs is 0
    forward_multiplier: float  # of what the parameter puts out
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


def depth_ratio(model: ModelConfig) -> float:
    """m: how many times deeper than the base the model is, where its parametrisation takes account of that."""
    return model.depth / model.base_depth if model.base_depth and model.parametrization == "mup" else 1.0


def init_stds(model: ModelConfig) -> dict[Role, float]:
    """The standard deviation from which every role is drawn; 0 for gains and biases, which are constants."""
    mup, r = model.parametrization == "mup", width_ratio(model)
    base_depth = model.base_depth if mup and model.base_depth else model.depth
    hidden = model.hidden_init_std / math.sqrt(r)
    return {
        "embedding": model.embedding_init_std,
        "hidden": hidden,
        "residual_out": hidden / math.sqrt(2 * base_depth),
        "output": model.output_init_std if mup else model.output_init_std / math.sqrt(r),
        "norm": 0.0,
        "final_norm": 0.0,
        "bias": 0.0,
    }


def forward_multipliers(model: ModelConfig) -> ForwardMultipliers:
    """The scalars of the forward pass."""
    mup = model.parametrization == "mup"
    base_head_dim = model.base_head_dim if mup and model.base_head_dim else model.head_dim
    return ForwardMultipliers(
        embedding=model.embedding_multiplier,
        attention=math.sqrt(base_head_dim) / model.head_dim,
        residual=model.residual_multiplier * depth_ratio(model) ** -model.depth_alpha,
        logits=model.output_multiplier / width_ratio(model) if mup else model.output_multiplier,
    )


def rules(config: RunConfig) -> dict[Role, RoleRule]:
    """The rule of every role; see the table above."""
    model, optimizer = config.model, config.optimizer
    std, forward = init_stds(model), forward_multipliers(model)
    r, m, a = width_ratio(model), depth_ratio(model), model.depth_alpha
    matrix, eps = (1 / r, 1 / r) if model.parametrization == "mup" else (1.0, 1.0)
    in_block, eps_in_block = m ** (a - 1), eps * m**-a

    def rule(role: Role, fan_in: float, multiplier: float, lr: float, eps: float) -> RoleRule:
        lr = lr / eps if optimizer.kind == "sgd" else lr
        decay = {"base_lr": 1 / lr, "group_lr": 1.0, "independent": 1 / (lr * config.lr)}[optimizer.decay_rule]
        return RoleRule(fan_in, std[role], multiplier, lr, decay if role in _DECAYED else 0.0, eps)

    return {
        "embedding": rule("embedding", 1.0, forward.embedding, model.embedding_lr_multiplier, eps),
        "hidden": rule("hidden", r, 1.0, matrix * in_block, eps_in_block),
        "residual_out": rule("residual_out", r, forward.residual, matrix * in_block, eps_in_block),
        "output": rule("output", r, forward.logits, 1.0, eps),
        "norm": rule("norm", 1.0, 1.0, in_block, eps_in_block),
        "final_norm": rule("final_norm", 1.0, 1.0, 1.0, eps),
        "bias": rule("bias", 1.0, 1.0, in_block, eps_in_block),
    }
