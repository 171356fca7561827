import numpy as np
import pytest

from analysis.analyse import analyse, to_json
from analysis.best_batch import best_batches
from analysis.laws import Points, points_of
from analysis.optimum import find_optima
from analysis.results import BestBatch, Estimate
from analysis.scaling_rules import scaling_rules, verdict_of
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_lr, planted_table

BATCHES = np.arange(8.0, 15.0)  # log2
T = 2**19


def best_at(batch: float | None, low: float | None, high: float | None, status: str = "ok") -> list[BestBatch]:
    estimate = Estimate(batch, low, high, "tokens", status, "")
    return [BestBatch(None, T, estimate, estimate, estimate, (1, 2))]


def points(slope: float, noise: float = 0.1, rng: np.random.Generator | None = None, noise_dof: int = 0) -> Points:
    """eta* ~ B^slope at one budget and two widths with levels of their own."""
    batch, width = np.tile(BATCHES, 2), np.repeat([6.0, 7.0], BATCHES.size)
    error = noise * rng.standard_normal(batch.size) if rng else 0.0
    lr = slope * batch + 0.3 * (width == 7) + error
    return Points(width, np.full(batch.size, 19.0), batch, lr, np.eye(batch.size) * noise**2, noise_dof)


@pytest.mark.parametrize(
    ("form", "batch_crit", "below", "above"),
    [
        ("power", 2**11, "sqrt", "sqrt"),
        ("surge", 2**30, "sqrt", "sqrt"),
        ("surge", 2**2, "neither", "neither"),  # falls as B^-1/2
        ("linear_saturation", 2**30, "linear", "linear"),
        ("linear_saturation", 2**2, "neither", "neither"),  # flat
    ],
)
def test_planted_rules_get_their_verdict(form, batch_crit, below, above):
    middle = float(planted_lr(2**10.5, form, 1.0, batch_crit))
    table = planted_table(
        form=form, batch_crit=batch_crit, batch_crit_exponent=0.0, lr_crit=2**-7.5 / middle, noise=0.002
    )
    optima = find_optima(table)
    rules = scaling_rules(points_of(optima), best_batches(optima.cells, optima.noise))
    assert [(r.side, r.tokens) for r in rules] == [(s, t) for t in (2**18, T, 2**20, None) for s in ("below", "above")]
    assert {r.side: r.verdict for r in rules if r.tokens is None} == {"below": below, "above": above}


def test_a_noiseless_slope_is_exact():
    optima = find_optima(planted_table(form="power", lr_crit=2**-8))
    for rule in scaling_rules(points_of(optima), best_batches(optima.cells, optima.noise)):
        assert rule.slope.value == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.4, 0.6, "sqrt"),
        (0.9, 1.2, "linear"),
        (0.4, 1.1, "cannot tell"),
        (-0.1, 0.6, "cannot tell"),  # also no dependence at all
        (-0.4, 0.4, "neither"),
        (0.6, 0.9, "neither"),
        (None, None, "cannot tell"),
    ],
)
def test_the_verdict_is_what_the_interval_holds(low, high, verdict):
    assert verdict_of(Estimate(0.5, low, high, "1", "ok", "")) == verdict


def test_a_batch_inside_the_interval_of_the_best_is_on_neither_side():
    rules = {r.side: r for r in scaling_rules(points(0.5), best_at(2**11, 2**10.5, 2**11.5))}
    assert {side: rule.n_points for side, rule in rules.items()} == {"below": 6, "above": 6}


def test_a_bound_of_the_best_batch_leaves_one_side():
    rules = {r.side: r for r in scaling_rules(points(0.5), best_at(None, 2**13, None, "lower_bound"))}
    assert (rules["below"].n_points, rules["below"].verdict) == (12, "sqrt")
    assert (rules["above"].n_points, rules["above"].verdict) == (0, "cannot tell")
    assert rules["above"].slope.status == "not_identified"


def test_few_noisy_points_cannot_tell():
    rng = np.random.default_rng(1)
    rules = scaling_rules(points(0.5, 3.0, rng), best_at(2**9, 2**8.9, 2**9.1))
    assert {r.verdict for r in rules} == {"cannot tell"}


def test_coverage():
    rng = np.random.default_rng(3)
    rules = [scaling_rules(points(0.5, 0.2, rng), best_at(2**11, 2**10.9, 2**11.1)) for _ in range(DRAWS)]
    for side in (0, 1):
        assert_covers(f"slope, {rules[0][side].side}", [holds(pair[side].slope, 0.5) for pair in rules])


def test_the_file_holds_them():

    (first, *_) = to_json(analyse(planted_table()))["scaling_rules"]
    assert set(first) == {"side", "tokens", "slope", "verdict", "n_points"}
