"""Growth laws and what checks them, on points whose laws are known."""

import numpy as np
import pytest

from analysis.analyse import analyse
from analysis.bootstrap import bootstrap_curve, bootstrap_line, resample
from analysis.collapse import collapse
from analysis.fitting import p_value
from analysis.growth import Bootstrap, growth_laws, sensitivity_laws
from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.optimum import find_optima
from analysis.power_law import LawPoint, fit_power_law
from analysis.results import BestBatch, Estimate
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_lr, planted_table

NOISE = Noise({}, {}, 60, 0.0, 0.0)
NO_POINTS = Points(*np.empty((4, 0)), covariance=np.empty((0, 0)), noise_dof=60)
BUDGETS, WIDTHS, BATCHES = (2**16, 2**17, 2**18, 2**19), (64, 128), (2**8, 2**9, 2**10)


def surge_points(rng, noise=0.1, width_exponent=0.0, lr_width=0.0):
    """eta* of 2 widths, 3 budgets and 7 batches, B_crit ~ T^1 N^width_exponent, with known errors."""
    width, tokens, batch = (
        axis.ravel() for axis in np.meshgrid([6.0, 7.0], [18.0, 19.0, 20.0], np.arange(8.0, 15.0), indexing="ij")
    )
    crit = 2 ** (tokens - 8 + width_exponent * (width - 6.5))
    lr = np.log2(planted_lr(2**batch, "surge", 2 ** (-7 + lr_width * (width - 6.5)), crit))
    lr = lr + noise * rng.standard_normal(lr.size)
    return Points(width, tokens, batch, lr, np.eye(lr.size) * max(noise, 1e-3) ** 2, 60)


def measured(rng, sigma, exponent=-0.3, batch_exponent=0.2, width_exponent=0.1):
    """A sensitivity of 0.02 nats with an absolute error: at the largest budgets hardly above it."""
    points = []
    for n in WIDTHS:
        for t in BUDGETS:
            for b in BATCHES:
                exact = 0.02 * (t / 2**16) ** exponent * (b / 2**8) ** batch_exponent * (n / 64) ** width_exponent
                v, half = exact + sigma * rng.standard_normal(), sigma * NOISE.quantile
                points.append(LawPoint(t, n, b, Estimate(v, v - half, v + half, "nats", "ok", "")))
    return points


def test_a_sensitivity_hardly_above_its_noise_has_an_honest_exponent():
    """In logarithms this law comes out too flat: the low values get too little weight, or none when below zero."""
    rng, hits, values = np.random.default_rng(0), {"tokens": [], "batch": [], "width": []}, []
    truth = {"tokens": -0.3, "batch": 0.2, "width": 0.1}
    for _ in range(DRAWS):
        law = fit_power_law(measured(rng, 0.006), NOISE, batch_slope=True, absolute=True)
        values.append(law.exponent("tokens").value)
        for name, value in truth.items():
            hits[name].append(holds(law.exponent(name), value))
    assert np.mean(values) == pytest.approx(-0.3, abs=0.02)
    for name, hit in hits.items():
        assert_covers(f"exponent of a sensitivity in {name}", hit)


def test_planted_sensitivities_are_exact_without_noise():
    optima = find_optima(planted_table(curvature_exponent=-0.25))
    laws = {law.measure: law for law in sensitivity_laws(optima.cells, optima.noise)}
    for name, scale in (("curvature", 1), ("window1", 1 / 3), ("window2", 4 / 3)):  # S_w(k) = a k^2 / 3
        law = laws[name]
        assert law.exponent_tokens.value == pytest.approx(-0.25, abs=1e-4)
        assert law.exponent_batch.value == pytest.approx(0, abs=1e-4)
        assert law.exponent_width.value == pytest.approx(0, abs=1e-4)
        assert 2**law.coefficient.value == pytest.approx(0.02 * scale, rel=0.01)


def test_a_bend_is_seen_and_the_exponent_is_the_same_with_fixed_effects():
    best = []
    for n in WIDTHS:
        for t in BUDGETS:
            x = np.log2(t) - 17.5
            value = 2.0 ** (0.5 * x + 0.1 * x**2 + (n == 128))
            star = Estimate(value, value / 1.01, value * 1.01, "tokens", "ok", "")
            best.append(BestBatch(n, t, star, star, star, (1, 2)))
    laws = {law.quantity: law for law in growth_laws(NO_POINTS, (), (), best, NOISE, Bootstrap(10))}
    law = laws["batch_best"]
    assert law.bend.value == pytest.approx(0.1, abs=1e-6)
    assert law.bend.low > 0
    assert law.exponent.value == pytest.approx(law.exponent_within.value) == pytest.approx(0.5)
    assert law.exponent_width.value == pytest.approx(1)


def test_the_bootstrap_agrees_with_the_computed_interval():
    points = surge_points(np.random.default_rng(1))
    for law in growth_laws(points, (), (), (), NOISE, Bootstrap(1000)):
        if law.quantity in ("batch_crit:time_transfer_surge", "lr_crit"):
            computed, drawn = (e.high - e.low for e in (law.exponent, law.bootstrap))
            assert 0.6 < drawn / computed < 1.5, law.quantity
            assert law.bootstrap.value == pytest.approx(law.exponent.value)


def test_the_bootstrap_is_the_same_for_the_same_seed_and_weights_are_repeats():
    counts = resample(9, 50, 3)
    assert np.array_equal(counts, resample(9, 50, 3))
    assert not np.array_equal(counts, resample(9, 50, 4))
    assert np.all(counts.sum(axis=1) == 9)
    rng = np.random.default_rng(0)
    design, y = np.column_stack([np.ones(9), np.arange(9.0)]), rng.standard_normal(9)
    for row, found in zip(counts[:5], bootstrap_line(design, y, np.ones(9), counts[:5]), strict=True):
        repeat = np.repeat(np.arange(9), row.astype(int))
        assert found == pytest.approx(np.linalg.lstsq(design[repeat], y[repeat], rcond=None)[0])


def test_a_resampled_curve_is_the_fit_to_the_repeated_points():
    points = surge_points(np.random.default_rng(2))
    fit = fit_law(points, "surge")
    counts = resample(points.lr.size, 3, 0)
    thetas = bootstrap_curve(fit.model, fit.best.theta, np.diag(points.covariance), counts)
    for row, found in zip(counts, thetas, strict=True):
        repeat = np.repeat(np.arange(row.size), row.astype(int))
        again = Points(
            *(a[repeat] for a in (points.width, points.tokens, points.batch, points.lr)), np.eye(repeat.size) * 0.01, 60
        )
        assert found == pytest.approx(fit_law(again, "surge").best.theta, abs=1e-4)


def test_a_resample_that_loses_a_budget_determines_nothing():
    found = bootstrap_line(np.array([[1.0, 0.0], [1.0, 1.0]]), np.zeros(2), np.ones(2), np.array([[2.0, 0.0]]))
    assert np.isnan(found).all()


def test_widths_that_do_not_matter_are_called_different_in_one_of_twenty_draws():
    rng, below = np.random.default_rng(5), {}
    for _ in range(DRAWS):
        for test in collapse(surge_points(rng), (), (), NOISE):
            below.setdefault(test.quantity, []).append(test.p_value < 0.05)
    assert set(below) == {"lr", "batch_crit:time_transfer_surge"}
    for name, hits in below.items():
        assert 0.01 <= np.mean(hits) <= 0.10, name


def test_widths_that_matter_are_seen():
    tests = {t.quantity: t for t in collapse(surge_points(np.random.default_rng(6), lr_width=0.3), (), (), NOISE)}
    assert tests["lr"].p_value < 1e-3
    assert holds(tests["lr"].exponent_width, 0.3)
    tests = {t.quantity: t for t in collapse(surge_points(np.random.default_rng(6), width_exponent=1), (), (), NOISE)}
    assert tests["batch_crit:time_transfer_surge"].p_value < 1e-3
    assert holds(tests["batch_crit:time_transfer_surge"].exponent_width, 1.0)


def test_one_width_has_nothing_to_compare():
    points = surge_points(np.random.default_rng(0))
    assert collapse(points.select(points.width == 6), (), (), NOISE) == ()


def test_p_values_by_hand():
    assert p_value(3.841, 1, 10.0, 10, 0) == pytest.approx(0.05, abs=1e-3)
    assert p_value(4.965, 1, 10.0, 10, 10) == pytest.approx(0.05, abs=1e-3)
    assert p_value(-1e-12, 1, 10.0, 10, 0) == 1.0


def test_choices_span_the_windows_and_the_forms_that_are_not_told_apart():
    found = {law.quantity: law for law in analyse(planted_table(noise=0.004), bootstrap=Bootstrap(10)).growth}
    for quantity in ("batch_crit:time_transfer_surge", "lr_crit", "batch_best", "lr_at_batch:1024", "curvature"):
        law = found[quantity]
        assert law.choices.low <= law.exponent.value <= law.choices.high, quantity
        assert law.choices.low < law.choices.high
        assert "7 points, robust" in law.choices.method
    assert found["sensitivity:window1"].choices is None
