"""Exponents of width: planted ones are found, with intervals that cover, and each is judged by what is allowed."""

import numpy as np
import pandas as pd
import pytest

from analysis.coordinates import coordinate_slopes, exponent, passes

WIDTHS = (64, 128, 256, 512)


def planted(exponents: dict[tuple[str, str, int], float], noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Three seeds a width, RMS = N^exponent with log-normal noise, for every (kind, quantity, step)."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "kind": kind,
            "quantity": quantity,
            "step": step,
            "width": width,
            "seed": s,
            "rms": width**power * 2 ** (noise * draw.normal()),
        }
        for (kind, quantity, step), power in exponents.items()
        for width in WIDTHS
        for s in range(3)
    )


def test_a_planted_exponent_is_recovered_exactly():
    width = np.array(WIDTHS, float)
    found = exponent(width, 3 * width**0.37)
    assert found.value == pytest.approx(0.37)
    assert found.low == pytest.approx(0.37)
    assert found.high == pytest.approx(0.37)


def test_two_points_have_a_slope_but_no_interval():
    found = exponent(np.array([64.0, 256.0]), np.array([1.0, 2.0]))
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)


def test_intervals_cover_at_their_rate():
    covered = 0
    for seed in range(400):
        table = planted({("ffn", "update", 1): 0.2}, noise=0.3, seed=seed)
        found = exponent(table["width"].to_numpy(float), table["rms"].to_numpy())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert 0.92 < covered / 400 < 0.98


@pytest.mark.parametrize(
    ("power", "verdict"), [(0.0, "flat"), (0.099, "flat"), (-0.099, "flat"), (0.101, "grows"), (-0.101, "shrinks")]
)
def test_an_exponent_beyond_a_tenth_fails(power: float, verdict: str):
    (slope,) = coordinate_slopes(planted({("ffn", "update", 3): power}))
    assert slope.verdict == verdict
    assert passes([slope]) == (verdict == "flat")


def test_initial_logits_may_fade_but_their_update_may_not():
    half = {("logits", "size", 0): -0.5, ("logits", "size", 2): -0.3, ("logits", "update", 2): -0.3}
    verdicts = [slope.verdict for slope in coordinate_slopes(planted(half))]
    assert verdicts == ["fades, as it should", "fades, as it should", "shrinks"]


def test_attention_logits_may_fade_only_where_heads_grow():
    table = planted({("attention_logits", "size", 0): -0.5})
    assert not passes(coordinate_slopes(table))
    assert passes(coordinate_slopes(table, grown_heads=True))


def test_logits_that_grow_fail_all_the_same():
    assert not passes(coordinate_slopes(planted({("logits", "size", 0): 0.5})))


def test_a_head_that_starts_at_zero_is_said_to_be_zero():
    table = planted({("logits", "size", 0): 0.0}).assign(rms=0.0)
    (slope,) = coordinate_slopes(table)
    assert (slope.verdict, slope.passed, slope.exponent.status) == ("zero", True, "not_identified")


def test_an_exploded_activation_fails():
    table = planted({("ffn", "update", 1): 0.0})
    table.loc[table["width"] == 512, "rms"] = np.nan
    assert not passes(coordinate_slopes(table))
