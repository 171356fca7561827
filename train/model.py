"""The muP decoder: a plain Granite model from transformers whose forward multipliers are config fields.

Tensor shapes: B sequences, S positions, D width, V vocabulary.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers import GraniteConfig, GraniteForCausalLM
from transformers.models.granite import modeling_granite

from configs.errors import ConfigError
from configs.mup import forward_multipliers, init_stds
from configs.schema import ModelConfig
from train.parametrization import role_of

Whole = Callable[[nn.Parameter], AbstractContextManager]


def granite_config(model: ModelConfig) -> GraniteConfig:
    """The Hugging Face configuration of `model`, which says nothing of qk_norm; `train.folding` has one that does."""
    multipliers = forward_multipliers(model)
    heads = model.width // model.head_dim
    return GraniteConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.width,
        intermediate_size=model.ffn_ratio * model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=model.seq_len,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.tied,
        # Granite divides the logits by logits_scaling.
        logits_scaling=1.0 / multipliers.logits,
        embedding_multiplier=multipliers.embedding,
        attention_multiplier=multipliers.attention,
        residual_multiplier=multipliers.residual,
        attention_dropout=0.0,
        use_cache=False,
    )


def skeleton(model: ModelConfig) -> GraniteForCausalLM:
    """The model on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return _network(model)


def blank(model: ModelConfig, liger: bool = False) -> GraniteForCausalLM:
    """The model with weights that mean nothing yet; with Liger's fused norm, rotation and SwiGLU if asked.

    Raises ConfigError if Liger is asked for and cannot run.
    """
    if liger:
        fuse_kernels()
    return _network(model)


def _network(model: ModelConfig) -> GraniteForCausalLM:
    network = GraniteForCausalLM(granite_config(model))
    if model.qk_norm:
        for block in network.model.layers:
            attention: Any = block.self_attn
            for projection, name in ((attention.q_proj, "q_norm"), (attention.k_proj, "k_norm")):
                norm = modeling_granite.GraniteRMSNorm(model.head_dim, eps=network.config.rms_norm_eps)  # or Liger's
                attention.add_module(name, norm)
                projection.register_forward_hook(_by_head(norm, model.head_dim))
    return network


def _by_head(norm: nn.Module, head_dim: int) -> Callable[..., torch.Tensor]:
    """A hook that normalises a projection's output, (..., heads x head size), head by head."""

    def hook(projection: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return norm(output.unflatten(-1, (-1, head_dim))).flatten(-2)

    return hook


def build(model: ModelConfig, seed: int) -> GraniteForCausalLM:
    """The model with its initial weights, a pure function of (model, seed)."""
    network = blank(model)
    initialise(network, model, seed)
    return network


@torch.no_grad()
def initialise(network: nn.Module, model: ModelConfig, seed: int, whole: Whole = nullcontext) -> None:
    """Draw every parameter by its role; each has its own generator, so no parameter shifts another's numbers.

    Numbers are drawn in fp32 on the CPU, then rounded and moved: they do not depend on device or precision. `whole`
    is a context in which a sharded parameter is there entire.
    """
    std = init_stds(model)
    for name, parameter in network.named_parameters():
        role = role_of(name)
        with whole(parameter):
            if role in ("norm", "final_norm"):
                parameter.fill_(1.0)
            elif role == "bias":
                parameter.zero_()
            else:
                digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
                drawn = torch.empty(parameter.shape).normal_(0.0, 1.0, generator=generator)
                parameter.copy_(drawn.mul_(std[role]))


def fuse_kernels() -> None:
    """Replace Granite's norm, rotation and SwiGLU by Liger's kernels, for all models built from now on.

    The loss is not fused: Liger's accumulates the head's gradient in the compute precision. Raises ConfigError.
    """
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_granite  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("engine.liger = true: not installed; pip install 'bcrit[liger]', or leave it false") from None
    if not torch.cuda.is_available():
        raise ConfigError("engine.liger = true: its kernels need a GPU; leave it false here")
    apply_liger_kernel_to_granite(cross_entropy=False, fused_linear_cross_entropy=False)


def loss_of(network: Callable[..., Any], tokens_BS1: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats over all B x S targets; input (B, S + 1) token ids."""
    logits_BSV = network(input_ids=tokens_BS1[:, :-1]).logits
    return nn.functional.cross_entropy(logits_BSV.flatten(0, 1).float(), tokens_BS1[:, 1:].flatten())
