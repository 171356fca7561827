"""Every cell of the parametrisation against the README's formula, and proof that a wrong cell does not pass."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import mup
from configs.expressions import evaluate
from configs.mup import forward_multipliers, rules
from configs.schema import RunConfig
from tests.configs.mup_cells import CELLS, README, README_CELLS, ROLES, attention, check_cell, names, run_config

RUNS = {
    "wider and deeper": {},
    "wider": {"width": 256, "base_depth": None, "depth_alpha": 1.0},
    "narrower and shallower": {"width": 16, "depth": 1, "base_depth": 4, "depth_alpha": 0.5},
    "deeper": {"width": 32, "depth": 10, "depth_alpha": 1.0},
    "wider heads, tied, normed": {"width": 128, "head_dim": 32, "base_head_dim": 8, "tied": True, "qk_norm": True},
    "zero head": {"output_init_std": 0.0, "width": 96},
}
by_parametrization = pytest.mark.parametrize("parametrization", ["mup", "sp"])
by_cell = pytest.mark.parametrize(("role", "column"), CELLS, ids=["-".join(cell) for cell in CELLS])
DECAY_RULES = ("base_lr", "group_lr", "independent")
positive = st.floats(2**-6, 2**6)
many = settings(max_examples=50, deadline=None)


@st.composite
def runs(draw, parametrization: str, **fixed) -> RunConfig:
    """Runs of any width, depth, multipliers and stds."""
    multipliers = ("embedding_multiplier", "residual_multiplier", "output_multiplier", "embedding_lr_multiplier")
    stds = ("embedding_init_std", "hidden_init_std", "output_init_std")
    model = {
        "width": 8 * draw(st.integers(1, 64)),
        "depth": draw(st.integers(1, 64)),
        "base_depth": draw(st.none() | st.integers(1, 64)),
        "depth_alpha": draw(st.floats(0.5, 1)),
        **{name: draw(positive) for name in (*multipliers, *stds)},
    }
    return run_config(parametrization, **model | fixed)


# The cells.


@by_cell
@by_parametrization
def test_a_cell(role, column, parametrization):
    for model in RUNS.values():
        check_cell(run_config(parametrization, **model), role, column)


@by_parametrization
@many
@given(data=st.data())
def test_all_cells_of_any_run(parametrization, data):
    config = data.draw(runs(parametrization))
    for role, column in CELLS:
        check_cell(config, role, column)


def test_the_readme_has_the_roles_of_the_code_and_no_others():
    assert set(rules(run_config())) == set(ROLES)
    assert set(README_CELLS) == {*CELLS, ("attention logits", "forward_multiplier")}


def test_the_source_of_every_cell_is_explained_below_the_table():
    explained = set(re.findall(r"\[([A-Z])\] ", README.partition("Sources: ")[2].partition("\n\n")[0]))
    assert {tag for _, tags in README_CELLS.values() for tag in tags.split()} == explained


# Mutants: the cell off by a factor, and the cell that forgets one of the names in its formula.


def break_cell(monkeypatch, role, column, change):
    """Replace one number of what `rules` returns, for every run."""
    unbroken = mup.rules

    def broken(config):
        table = unbroken(config)
        return table | {role: replace(table[role], **{column: change(config, getattr(table[role], column))})}

    monkeypatch.setattr(mup, "rules", broken)


@by_cell
@by_parametrization
def test_a_cell_that_is_off_is_found_in_every_run(role, column, parametrization, monkeypatch):
    break_cell(monkeypatch, role, column, lambda config, number: number * 1.001 or 1e-6)
    for model in RUNS.values():
        with pytest.raises(AssertionError, match=column):
            check_cell(run_config(parametrization, **model), role, column)


DEPENDENCIES = [
    (role, column, name)
    for role, column in CELLS
    for name in names(run_config())
    if re.search(rf"\b{name}\b", README_CELLS[role, column][0])
]


@pytest.mark.parametrize(("role", "column", "name"), DEPENDENCIES, ids=["-".join(each) for each in DEPENDENCIES])
def test_a_cell_that_forgets_a_name_is_found(role, column, name, monkeypatch):
    formula = README_CELLS[role, column][0]
    break_cell(monkeypatch, role, column, lambda config, _: evaluate(formula, names(config) | {name: 1.0}))
    with pytest.raises(AssertionError, match=column):
        check_cell(run_config(), role, column)


def test_every_name_that_the_readme_explains_is_needed():
    used = {name for *_, name in DEPENDENCIES}
    assert used | {"d", "d_0"} == set(names(run_config()))


# The base.


@pytest.mark.parametrize("base_depth", [None, 6])
@many
@given(data=st.data())
def test_at_base_width_and_depth_mup_is_sp_bit_for_bit(base_depth, data):
    config = data.draw(runs("mup", width=32, depth=6, base_depth=base_depth, base_head_dim=8))
    optimizer = config.optimizer.model_copy(update={"decay_rule": data.draw(st.sampled_from(DECAY_RULES))})
    config = config.model_copy(update={"optimizer": optimizer})
    standard = config.model_copy(update={"model": config.model.model_copy(update={"parametrization": "sp"})})
    assert rules(config) == rules(standard)
    assert forward_multipliers(config.model) == forward_multipliers(standard.model)


@many
@given(data=st.data())
def test_at_its_base_depth_a_model_of_any_width_is_as_if_depth_were_not_scaled(data):
    config = data.draw(runs("mup", depth=6, base_depth=6))
    unscaled = config.model_copy(update={"model": config.model.model_copy(update={"base_depth": None})})
    assert rules(config) == rules(unscaled)
    assert forward_multipliers(config.model) == forward_multipliers(unscaled.model)


@many
@given(data=st.data())
def test_sp_takes_no_account_of_the_base_depth(data):
    config = data.draw(runs("sp", base_depth=3))
    without = config.model_copy(update={"model": config.model.model_copy(update={"base_depth": None})})
    assert rules(config) == rules(without)


def test_with_alpha_1_no_rate_depends_on_depth():
    deep, base = (rules(run_config(depth=depth, depth_alpha=1.0)) for depth in (64, 2))
    for role in ROLES:
        for column in ("lr_multiplier", "weight_decay_multiplier", "init_std"):
            assert getattr(deep[role], column) == getattr(base[role], column), (role, column)
    assert deep["residual_out"].forward_multiplier == base["residual_out"].forward_multiplier / 32


def test_a_tied_model_and_one_with_qk_norm_have_the_table_of_the_others():
    assert rules(run_config(tied=True, qk_norm=True)) == rules(run_config())


# Weight decay.


def shrinkage(config: RunConfig, role: str) -> float:
    """What a step at peak rate takes off a weight of this role, relative to it."""
    rule = rules(config)[role]
    return config.lr * rule.lr_multiplier * config.optimizer.weight_decay * rule.weight_decay_multiplier


@by_parametrization
@pytest.mark.parametrize("rule", DECAY_RULES)
@many
@given(data=st.data())
def test_what_a_step_takes_off_a_weight(rule, parametrization, data):
    config = data.draw(runs(parametrization))
    optimizer = config.optimizer.model_copy(update={"decay_rule": rule})
    config = config.model_copy(update={"lr": data.draw(positive), "optimizer": optimizer})
    for role in ROLES:
        rate = {"base_lr": config.lr, "group_lr": config.lr * rules(config)[role].lr_multiplier, "independent": 1.0}
        decayed = role in ("hidden", "residual_out", "output")
        assert shrinkage(config, role) == pytest.approx(0.1 * rate[rule] if decayed else 0, rel=1e-12), role


def test_what_each_decay_rule_keeps_when_width_and_learning_rate_change():
    def by_rule(rule: str, lr: float, **model) -> float:
        return shrinkage(run_config(rule=rule, **model).model_copy(update={"lr": lr}), "hidden")

    # (kept over width, kept over lr)
    for rule, keeps in {"base_lr": (True, False), "group_lr": (False, False), "independent": (True, True)}.items():
        here = by_rule(rule, 0.01)
        assert (by_rule(rule, 0.01, width=256) == pytest.approx(here)) is keeps[0], rule
        assert (by_rule(rule, 0.02) == pytest.approx(here)) is keeps[1], rule


# Attention.


def test_heads_of_one_size_keep_their_attention_at_every_width_and_under_sp():
    for width in (16, 32, 512):
        assert forward_multipliers(run_config(width=width).model).attention == pytest.approx(8**-0.5)
        assert forward_multipliers(run_config("sp", width=width).model).attention == pytest.approx(8**-0.5)


@many
@given(st.integers(1, 64))
def test_wider_heads_have_one_over_d_attention_and_root_d_under_sp(times):
    shape = {"width": 32 * times, "head_dim": 8 * times, "base_head_dim": 8}
    assert forward_multipliers(run_config(**shape).model).attention == pytest.approx(8**-0.5 / times)
    assert forward_multipliers(run_config("sp", **shape).model).attention == pytest.approx((8 * times) ** -0.5)


@by_parametrization
@pytest.mark.parametrize("run", RUNS)
def test_the_readme_s_attention(run, parametrization):
    config = run_config(parametrization, **RUNS[run])
    assert forward_multipliers(config.model).attention == pytest.approx(attention(config), rel=1e-12)
