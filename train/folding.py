"""A trained network as an architecture of transformers, which computes the same and needs none of our code.

Without QK norm that is Granite, as trained: its forward multipliers are fields of its configuration. With QK norm it is
Qwen3: Granite's block with the norms of each head's query and key, but without multipliers. So weights take them in:
- embedding: the token embedding;
- residual branch: the two matrices that end a branch, o and down;
- attention: the gain of the query's norm, times sqrt(head size), by which Qwen3 divides the scores;
- logits: the gain of the final norm, divided by the embedding's multiplier where the embedding is the head as well.
"""

import math

import torch
from transformers import PreTrainedConfig, Qwen3Config

from configs.mup import forward_multipliers
from configs.schema import ModelConfig
from train.model import granite_config


def target_config(model: ModelConfig) -> PreTrainedConfig:
    """The configuration of the architecture that a trained `model` is exported to."""
    granite = granite_config(model)
    if not model.qk_norm:
        return granite
    shared = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "attention_bias",
        "attention_dropout",
    )
    return Qwen3Config(
        **{name: getattr(granite, name) for name in shared}, head_dim=model.head_dim, use_sliding_window=False
    )


def factors(model: ModelConfig) -> dict[str, float]:
    """End of a parameter's name -> what the export multiplies it by; nothing where the architecture has multipliers."""
    if not model.qk_norm:
        return {}
    multipliers = forward_multipliers(model)
    return {
        "embed_tokens.weight": multipliers.embedding,
        "self_attn.o_proj.weight": multipliers.residual,
        "mlp.down_proj.weight": multipliers.residual,
        "self_attn.q_norm.weight": multipliers.attention * math.sqrt(model.head_dim),
        "model.norm.weight": multipliers.logits / (multipliers.embedding if model.tied else 1.0),
    }


def fold(weights: dict[str, torch.Tensor], model: ModelConfig) -> dict[str, torch.Tensor]:
    """The weights of the network that `target_config` describes, from those of a trained one; a tied head is there."""
    ends = factors(model)
    folded = {
        name: next((weight * factor for end, factor in ends.items() if name.endswith(end)), weight)
        for name, weight in weights.items()
    }
    if model.tied:  # whose head some of DeepSpeed's files leave out, and others repeat
        folded["lm_head.weight"] = folded["model.embed_tokens.weight"]
    return folded
