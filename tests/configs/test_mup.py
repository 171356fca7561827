import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.mup import forward_multipliers, rules
from configs.schema import ModelConfig

widths = st.integers(1, 64).map(lambda heads: 24 * heads)


def model(width: int, parametrization: str, **changes: object) -> ModelConfig:
    shape = {"base_width": 96, "head_dim": 24, "depth": 3, "output_init_std": 0.05, "output_multiplier": 3.0}
    return ModelConfig.model_validate({**shape, "width": width, "parametrization": parametrization, **changes})


def test_sp_equals_mup_at_base_width_bit_for_bit():
    assert rules(model(96, "sp")) == rules(model(96, "mup"))
    assert forward_multipliers(model(96, "sp")) == forward_multipliers(model(96, "mup"))


@given(widths)
def test_the_table_of_mup(width: int):
    r, m = width / 96, model(width, "mup")
    table, base = rules(m), rules(model(96, "mup"))
    for role in table:
        matrix = role in ("hidden", "residual_out")
        assert table[role].lr_multiplier == (1 / r if matrix else 1)
        assert table[role].eps_multiplier == 1 / r
        assert table[role].init_std == pytest.approx(base[role].init_std * (r**-0.5 if matrix else 1))
    assert table["hidden"].init_std == pytest.approx(m.hidden_init_std / math.sqrt(r))
    assert table["residual_out"].init_std == pytest.approx(table["hidden"].init_std / math.sqrt(6))
    assert forward_multipliers(m).logits == pytest.approx(3 / r)


@given(widths)
def test_the_table_of_sp(width: int):
    r, m = width / 96, model(width, "sp")
    for rule in rules(m).values():
        assert (rule.lr_multiplier, rule.eps_multiplier) == (1, 1)
    assert rules(m)["output"].init_std == pytest.approx(0.05 / math.sqrt(r))
    assert rules(m)["hidden"].init_std == rules(model(width, "mup"))["hidden"].init_std
    assert forward_multipliers(m).logits == 3


@given(widths, st.sampled_from(["mup", "sp"]))
def test_decay_per_step_is_independent_of_width_and_spares_embeddings_and_norms(width: int, parametrization: str):
    for role, rule in rules(model(width, parametrization)).items():
        shrink = rule.lr_multiplier * rule.weight_decay_multiplier
        assert shrink == pytest.approx(0 if role in ("embedding", "norm", "bias") else 1)


def test_attention_is_one_over_root_d_at_the_base_head_and_one_over_d_beyond():
    wide = {"base_head_dim": 24, "head_dim": 96}
    assert forward_multipliers(model(96, "mup")).attention == pytest.approx(24**-0.5)
    assert forward_multipliers(model(384, "mup", **wide)).attention == pytest.approx(24**-0.5 / 4)
    assert forward_multipliers(model(384, "sp", **wide)).attention == pytest.approx(96**-0.5)
