from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from analysis.branched import branched_batch, branched_batches
from analysis.critical_batch import critical_batches
from analysis.crossings import crossings_at, targets
from analysis.hyperbola import (
    Crossings,
    beyond_the_best,
    fit_hyperbola,
    inverse_regression,
    overhead_batch,
    steps_law,
)
from analysis.laws import fit_lr_laws, points_of
from analysis.optimum import find_optima
from analysis.results import Estimate
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_table

BATCH_SEQS = 64 * 2 ** np.arange(9)
ZHANG = {  # model (steps to target at 64 ... 16384 sequences), a, b, batch of 20 % overhead: 2410.21676 and its code
    "85M": ([46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600], 1293.83, 2.83426e6, 745.32),
    "151M": ([96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300], 1752.42, 5.67748e6, 955.16),
    "302M": ([196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879], 2095.35, 1.13833e7, 1393.73),
    "604M": ([311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800], 2459.93, 1.94497e7, 1888.52),
    "1.2B": ([642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500], 3897.31, 4.33811e7, 2533.41),
}


LOSS_ROUTES = ("hyperbola", "surge_noise", "power_lines")


def steps_crossings(batch, steps, reached=None) -> Crossings:
    batch, steps = np.asarray(batch, float), np.asarray(steps, float)
    reached = np.ones(batch.size, bool) if reached is None else reached
    return Crossings(np.zeros(batch.size), np.log2(batch), np.log2(batch * steps), reached)


def found_in(table: pd.DataFrame):
    optima = find_optima(table)
    points = points_of(optima)
    laws = [law for tokens in sorted(table["tokens"].unique()) for law in fit_lr_laws(points, tokens=tokens)[0]]
    return critical_batches(points, laws, (), optima.cells, optima.noise, table)


@pytest.mark.parametrize("model", ZHANG)
def test_zhangs_published_fits(model):
    steps, a, b, critical = ZHANG[model]
    assert steps_law(BATCH_SEQS, steps) == pytest.approx((a, b), rel=1e-4)
    fit = fit_hyperbola(steps_crossings(BATCH_SEQS, steps))
    assert fit is not None
    assert fit.used.all()  # tokens to target rise by up to 9 % towards small batches: noise, no U-shape
    assert fit.batch_crit.value == pytest.approx(b / a, rel=1e-4)
    assert overhead_batch(fit.batch_crit, 256).value == pytest.approx(critical, rel=1e-4)


def test_all_forms_of_the_law_agree_without_noise():
    """log S, 1/S on 1/E (Surge, section 4) and D = Dmin (1 + B/B_c) (Power Lines) are one law."""
    batch = np.array([64, 256, 1024, 4096, 16384.0])
    steps = 1000 * (1 + 2000 / batch)
    crossings = steps_crossings(batch, steps)
    fit, line = fit_hyperbola(crossings), inverse_regression(crossings)
    slope, intercept = np.polyfit(batch, batch * steps, 1)  # D = Dmin + (Dmin / B_c) B
    assert fit.batch_crit.value == pytest.approx(2000, rel=1e-6)
    assert line.value == pytest.approx(2000, rel=1e-6)
    assert intercept / slope == pytest.approx(2000, rel=1e-6)
    assert 2 ** fit.log2_min_steps[0.0] == pytest.approx(1000, rel=1e-6)


def test_the_overhead_is_what_its_name_says():
    """At the found batch the tokens are 1.2 times those of linear scaling from the reference, a B_ref + b."""
    a, b, reference = 1000.0, 2e6, 256.0
    batch = overhead_batch(Estimate(b / a, b / a / 2, None, "tokens", "ok", ""), reference).value
    assert a * batch + b == pytest.approx(1.2 * (a * reference + b))


def test_bounds_carry_over_to_the_overhead():
    bound = overhead_batch(Estimate(None, 1000.0, None, "tokens", "lower_bound", ""), 100)
    assert (bound.value, bound.low, bound.high, bound.status) == (None, 320.0, None, "lower_bound")


def test_a_u_shape_is_told_from_noise():
    batch = 2.0 ** np.arange(6, 15)
    rng = np.random.default_rng(0)
    noisy = 1000 * (1 + 2000 / batch) * np.exp(0.05 * rng.standard_normal(batch.size))
    assert not beyond_the_best(steps_crossings(batch, noisy)).any()
    bent = noisy * (1 + (200 / batch) ** 1.5)  # small batches lose time on top
    left_out = beyond_the_best(steps_crossings(batch, bent))
    assert left_out[:2].all()
    assert not left_out[3:].any()
    fit = fit_hyperbola(steps_crossings(batch, bent))
    assert "U-shaped, only batches from the cheapest up" in fit.batch_crit.method
    assert holds(fit.batch_crit, 2000)


def test_false_alarms_of_the_u_test_are_rare():
    batch, rng = 2.0 ** np.arange(6, 15), np.random.default_rng(1)
    draws = np.exp(0.05 * rng.standard_normal((DRAWS, batch.size)))
    alarms = [beyond_the_best(steps_crossings(batch, 1000 * (1 + 2000 / batch) * d)).any() for d in draws]
    assert np.mean(alarms) <= 0.05


def test_coverage_without_known_errors():
    batch, rng = 2.0 ** np.arange(6, 15), np.random.default_rng(2)
    draws = np.exp(0.05 * rng.standard_normal((DRAWS, batch.size)))
    fits = [fit_hyperbola(steps_crossings(batch, 1000 * (1 + 2000 / batch) * d)) for d in draws]
    assert_covers("B_c of the hyperbola", [holds(fit.batch_crit, 2000) for fit in fits])


def test_a_run_that_never_reaches_the_target_bounds_it():
    batch = 2.0 ** np.arange(6, 13)
    steps = 1000 * (1 + 2000 / batch)
    reached = batch < 1000
    ended = np.where(reached, steps, 0.8 * steps)  # the runs of larger batches end before they arrive
    fit = fit_hyperbola(steps_crossings(batch, ended, reached))
    assert fit.batch_crit.value == pytest.approx(2000, rel=1e-3)
    assert "3 of them censored" in fit.batch_crit.method
    as_if_arrived = fit_hyperbola(steps_crossings(batch, ended))
    assert abs(np.log2(as_if_arrived.batch_crit.value / 2000)) > 0.1


def test_what_never_arrived_can_close_an_interval():
    """Small batches alone fit S ~ 1/B, B_c at infinity; a large one that is not there after 1400 steps forbids that."""
    batch, noise = np.array([64, 128, 256, 512, 2**15.0]), np.array([1.01, 0.99, 1.01, 0.99, 1])
    steps = 1000 * (1 + 20_000 / batch) * noise
    steps[-1] = 1400
    reached = batch < 1000
    alone = fit_hyperbola(steps_crossings(batch[reached], steps[reached])).batch_crit
    assert alone.status == "lower_bound"
    closed = fit_hyperbola(steps_crossings(batch, steps, reached)).batch_crit
    assert closed.status == "ok"
    assert holds(closed, 20_000)


def test_two_batches_are_too_few():
    assert fit_hyperbola(steps_crossings([64, 64, 128], [100, 101, 60])) is None


def test_crossings_are_exact_where_loss_is_a_power_of_tokens():
    table = planted_table(floor="hyperbola", irreducible=0.0)
    optima = find_optima(table)
    assert targets(optima.cells) == [2**18, 2**19]
    for route in ("between", "power_law"):
        for tokens in targets(optima.cells):
            found = crossings_at(optima.cells, tokens, optima.noise, route)
            smallest = min(found.log2_batch)
            exact = np.log2(tokens) + np.log2((1 + 2**found.log2_batch / 2000) / (1 + 2**smallest / 2000))
            np.testing.assert_allclose(found.log2_tokens[found.reached], exact[found.reached], atol=1e-6)
            assert (found.log2_tokens[~found.reached] == 20).all()
            assert (exact[~found.reached] > 20).all()


def test_planted_hyperbola_is_exact_without_irreducible_loss():
    """Losses that are powers of tokens are interpolated exactly, so B_c is too, by every route."""
    found = [c for c in found_in(planted_table(floor="hyperbola", irreducible=0.0)) if c.definition in LOSS_ROUTES]
    assert {(c.definition, c.tokens) for c in found} == {(name, t) for name in LOSS_ROUTES for t in (2**18, 2**19)}
    for critical in found:
        assert critical.batch.value == pytest.approx(2000, rel=1e-5)


def test_planted_hyperbola_with_irreducible_loss_is_close():
    budgets = tuple(2**k for k in range(17, 22))
    found = [c for c in found_in(planted_table(floor="hyperbola", irreducible=1.0, budgets=budgets))]
    for critical in (c for c in found if c.definition in ("hyperbola", "surge_noise")):
        assert critical.batch.value == pytest.approx(2000, rel=0.02)


def test_noisy_hyperbola_holds_the_truth():
    table = planted_table(floor="hyperbola", irreducible=0.0, noise=0.002, rng_seed=4)
    found = [c for c in found_in(table) if c.definition in ("hyperbola", "power_lines")]
    assert len(found) == 4
    assert all(holds(c.batch, 2000) for c in found)


def test_every_definition_carries_its_name_and_its_factor():
    found = found_in(planted_table())
    surge = {c.tokens: c.batch.value for c in found if c.definition == "time_transfer_surge"}
    together = {c.tokens: c.batch.value for c in found if c.definition == "time_transfer_surge_all_budgets"}
    assert surge == pytest.approx({2**18: 750, 2**19: 1500, 2**20: 3000}, rel=1e-6)
    assert together == pytest.approx(surge, rel=1e-6)
    names = {"sqrt_saturation", "linear_saturation", "hyperbola", "overhead20"}
    assert names <= {c.definition for c in found}
    hyperbola = {c.tokens: c.batch.value for c in found if c.definition == "hyperbola"}
    for c in found:
        reference = hyperbola.get(c.tokens) or surge[c.tokens]
        assert c.factor == (None if c.batch.value is None else pytest.approx(c.batch.value / reference))


@pytest.mark.parametrize(
    ("losses", "status", "value", "low", "high"),
    [
        ((3.00, 3.005, 3.009, 3.02, 3.05), "ok", 2**0.5 * 400, 400, 800),
        ((3.00, 3.05, 3.00, 3.00, 3.00), "upper_bound", None, None, 200),  # non-monotone: the first failure ends it
        ((3.00, 2.95, 2.97, 2.95, 2.95), "ok", 2**0.5 * 200, 200, 400),  # the best below, not the first, is the measure
        ((3.00, 3.00, 3.01, 3.00, 3.00), "lower_bound", None, 1600, None),
        ((3.00, np.nan, 3.00, 3.00, 3.00), "upper_bound", None, None, 200),
        ((3.00, 3.00, 3.00, np.nan, 3.00), "ok", 2**0.5 * 400, 400, 800),
        ((np.nan, 3.00, 3.00, 3.00, 3.00), "not_identified", None, None, None),
    ],
)
def test_branches_by_hand(losses, status, value, low, high):
    batch, order = np.array([100, 200, 400, 800, 1600]), [3, 0, 4, 1, 2]
    found = branched_batch(batch[order], np.array(losses)[order])
    assert (found.status, found.low, found.high) == (status, low, high)
    assert found.value == (None if value is None else pytest.approx(value))


def test_branches_of_a_run_table():
    """Only runs off the same checkpoint to the same T are compared; each batch at its best learning rate."""
    rows = [
        {"parent": "trunk", "branch_tokens": 2**18, "tokens": 2**19, "batch_tokens": batch, "lr": lr, "loss": loss}
        for batch, best in ((512, 3.0), (1024, 3.004), (2048, 3.05))
        for lr, loss in ((0.01, best), (0.02, best + 0.1), (0.04, np.nan))
    ]
    cooldown = [row | {"parent": f"own{i}"} for i, row in enumerate(rows)]
    (found,) = branched_batches(pd.DataFrame(rows + cooldown))
    assert (found.definition, found.tokens) == ("branched", 2**18)
    assert (found.batch.low, found.batch.high) == (1024, 2048)
    assert not list(branched_batches(planted_table()))


def test_trunks_of_several_seeds_give_one_branched_batch_at_the_longest_branches():
    rows = [
        {"parent": f"trunk{seed}", "seed": seed, "width": 64, "branch_tokens": 2**18, "tokens": tokens, "lr": 0.01}
        | {"batch_tokens": batch, "loss": 3.0 + lost + 0.1 * seed + (0.5 if tokens < 2**20 else 0.0) * lost}
        for tokens in (2**19, 2**20)
        for batch, lost in ((512, 0.0), (1024, 0.008), (2048, 0.05))
        for seed in (0, 1)
    ]
    (found,) = branched_batches(pd.DataFrame(rows))
    assert (found.batch.low, found.batch.high) == (1024, 2048)  # at 2^19 1,024 tokens lose 0.012
    other = [row | {"parent": row["parent"] + "b"} for row in rows]  # other trunks of the same width and seeds
    assert len(list(branched_batches(pd.DataFrame(rows + other)))) == 4


@pytest.mark.parametrize("column", ["noise_scale", "step_noise"])
def test_a_noise_batch_is_used_where_a_column_holds_it(column):
    table = planted_table()
    table[column] = 500.0 * table["tokens"] / 2**18
    scales = {c.tokens: c.batch for c in found_in(table) if c.definition == column}
    assert {t: e.value for t, e in scales.items()} == pytest.approx({2**18: 500, 2**19: 1000, 2**20: 2000})
    assert all(asdict(e)["status"] == "ok" for e in scales.values())
