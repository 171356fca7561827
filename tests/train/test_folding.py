"""A network with QK norm and its Qwen3 are one function; every factor and every shared setting is needed for that."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteForCausalLM, Qwen3ForCausalLM

from configs.schema import ModelConfig
from train import folding
from train.folding import factors, fold, target_config
from train.model import build

TOKENS = torch.arange(48).reshape(2, 24) * 5
MODEL = ModelConfig(
    width=64,
    base_width=16,
    depth=2,
    base_depth=1,
    depth_alpha=0.5,
    head_dim=32,
    base_head_dim=16,
    qk_norm=True,
    embedding_init_std=0.01,  # so small that the norms' epsilon counts
    embedding_multiplier=3.0,
    output_multiplier=7.0,
    residual_multiplier=0.6,
    rope_theta=100.0,
)


def trained(model: ModelConfig) -> GraniteForCausalLM:
    """A network whose norm gains are not all 1 any more."""
    network = build(model, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return network


@torch.no_grad()
def difference(model: ModelConfig) -> float:
    """Largest difference of logits between a network and the one it is exported as, of the largest logit."""
    network = trained(model)
    target = AutoModelForCausalLM.from_config(target_config(model))
    target.load_state_dict(fold(dict(network.named_parameters()), model), strict=True)
    expected = network(TOKENS).logits
    return ((target(TOKENS).logits - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_the_exported_network_computes_the_same(tied, qk_norm):
    model = MODEL.model_copy(update={"tied": tied, "qk_norm": qk_norm})
    target = target_config(model)
    assert (target.architectures, target.model_type) == (None, "qwen3" if qk_norm else "granite")
    assert target.tie_word_embeddings == tied
    assert isinstance(AutoModelForCausalLM.from_config(target), Qwen3ForCausalLM if qk_norm else GraniteForCausalLM)
    assert difference(model) < 3e-6  # seen: 6.4e-7


@pytest.mark.parametrize("end", factors(MODEL))
def test_every_factor_is_needed(end, monkeypatch):
    monkeypatch.setattr(folding, "factors", lambda model: factors(model) | {end: 1.0})
    assert difference(MODEL) > 1e-2


def test_weights_are_not_changed_in_place():
    weights = {name: parameter.detach() for name, parameter in trained(MODEL).named_parameters()}
    before = {name: weight.clone() for name, weight in weights.items()}
    fold(weights, MODEL)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_powers_of_two_leave_every_digit():
    """Widths and depths that double round nothing, so an export in bf16 is the trainer's rounding."""
    model = ModelConfig(width=128, base_width=32, depth=2, base_depth=1, head_dim=64, base_head_dim=16, qk_norm=True)
    plain = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "output_multiplier": 1.0}
    model = model.model_copy(update=plain)
    assert factors(model) == {
        "embed_tokens.weight": 1.0,
        "self_attn.o_proj.weight": 0.5,
        "mlp.down_proj.weight": 0.5,
        "self_attn.q_norm.weight": 0.5,
        "model.norm.weight": 0.25,
    }
