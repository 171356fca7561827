import numpy as np
import pytest

from analysis.fitting import threshold
from analysis.forms import FORMS
from analysis.laws import Points, fit_law, fit_lr_laws, points_of, predict_lr
from analysis.optimum import find_optima
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_lr, planted_table

TINY = {"widths": (64,), "batches": tuple(2**k for k in range(7, 14)), "lrs": tuple(2.0**k for k in range(-10, -4))}
EXPONENTS = {
    "lr_crit_exponent": -0.2,
    "lr_width_exponent": 0.05,
    "batch_crit_exponent": 0.7,
    "batch_crit_width_exponent": 0.1,
}


def points_at_one_budget(form, noise, rng, *, batch_crit=2**11, n_batches=7):
    """eta* with errors put on directly: batches 2^8 ... and one budget, as in the simulations of the specification."""
    batch = np.arange(8.0, 8 + n_batches)
    lr = np.log2(planted_lr(2**batch, form, 2**-7, batch_crit)) + noise * rng.standard_normal(batch.size)
    same = np.zeros_like(batch)
    return Points(same + 6, same + 19, batch, lr, np.eye(batch.size) * noise**2)


@pytest.mark.parametrize("form", FORMS)
def test_derivatives(form):
    x, step = np.linspace(-6, 6, 41), 1e-5
    curve = FORMS[form].curve
    for shape in (-1.0, 3.0):
        _, dx, dshape = curve(x, shape)
        assert dx == pytest.approx((curve(x + step, shape)[0] - curve(x - step, shape)[0]) / (2 * step), abs=1e-8)
        assert dshape == pytest.approx((curve(x, shape + step)[0] - curve(x, shape - step)[0]) / (2 * step), abs=1e-8)


def test_surge_plateau_has_its_peak_at_one_and_the_plateau_of_theorem_4():
    x, k = np.array([0.0, 40.0, -40.0]), 1 + 2.0**3
    y, dx, _ = FORMS["surge_plateau"].curve(x, 3.0)
    assert (y[0], dx[0]) == pytest.approx((0, 0))
    assert 2.0 ** y[1] == pytest.approx(2 * np.sqrt(k) / (1 + k))
    assert dx[2] == pytest.approx(0.5)


@pytest.mark.parametrize("form", ["surge", "sqrt_saturation", "linear_saturation"])
def test_noiseless_law_is_exact_per_budget_and_over_all(form):
    points = points_of(find_optima(planted_table(form=form, **EXPONENTS)))
    lr_name = FORMS[form].lr_name
    at_width = points.select(points.width == 6)
    for tokens in (2**18, 2**19, 2**20):
        fit = fit_law(at_width, form, tokens=tokens)
        t = tokens / 2**19
        assert fit.estimate("batch_crit").value == pytest.approx(1500 * t**0.7, rel=1e-6)
        assert fit.estimate(lr_name).value == pytest.approx(2**-7 * t**-0.2, rel=1e-6)
    fit = fit_law(points, form)
    truth = {"lr_tokens_exponent": -0.2, "lr_width_exponent": 0.05}
    truth |= {"batch_crit_tokens_exponent": 0.7, "batch_crit_width_exponent": 0.1}
    for name, value in truth.items():
        assert fit.estimate(name).value == pytest.approx(value, abs=1e-6)
        assert holds(fit.estimate(name), value)
    n = 2**0.5  # quoted at the geometric mean of the widths, 64 sqrt(2)
    assert fit.estimate("batch_crit").value == pytest.approx(1500 * n**0.1, rel=1e-6)
    assert fit_law(points, form, reference_tokens=2**20).estimate("batch_crit").value == pytest.approx(
        1500 * n**0.1 * 2**0.7, rel=1e-6
    )


def test_noiseless_power_law_is_exact():
    points = points_of(find_optima(planted_table(form="power", lr_crit=2**-8, batch_crit_exponent=0.0)))
    fit = fit_law(points, "power")
    assert fit.estimate("batch_exponent").value == pytest.approx(0.5, abs=1e-6)
    assert fit.estimate("lr_tokens_exponent").value == pytest.approx(0.0, abs=1e-6)


def test_predicted_rates_are_the_planted_ones():
    points = points_of(find_optima(planted_table(**EXPONENTS)))
    laws, _ = fit_lr_laws(points)
    surge = next(law for law in laws if law.form == "surge")
    batch = np.array([100.0, 1000.0, 10000.0])
    exact = planted_lr(batch, "surge", 2**-7 * 2**-0.2 * 2**0.05, 1500 * 2**0.7 * 2**0.1)
    assert predict_lr(surge, batch, tokens=2**20, width=128) == pytest.approx(exact, rel=1e-6)


def test_coverage_from_runs_to_laws():
    """200 run tables with noise in the losses: eta* of a cell, B_crit per budget and over all, and its exponent."""
    hits = {"eta* of a cell": [], "B_crit per T": [], "B_crit, all T": [], "exponent of B_crit": []}
    for draw in range(DRAWS):
        optima = find_optima(planted_table(**TINY, noise=0.006, rng_seed=draw))
        cell = optima.cells[draw % len(optima.cells)]
        exact = planted_lr(cell.batch_tokens, "surge", 2**-7, 1500 * cell.tokens / 2**19)
        hits["eta* of a cell"].append(holds(cell.lr, float(exact)))
        points = points_of(optima)
        per_budget, together = fit_law(points, "surge", tokens=2**19), fit_law(points, "surge", reference_tokens=2**19)
        hits["B_crit per T"].append(holds(per_budget.estimate("batch_crit"), 1500))
        hits["B_crit, all T"].append(holds(together.estimate("batch_crit"), 1500))
        hits["exponent of B_crit"].append(holds(together.estimate("batch_crit_tokens_exponent"), 1.0))
    for name, hit in hits.items():
        assert_covers(name, hit)


def test_coverage_when_one_run_serves_all_budgets():
    """The noise of a run is then shared by its readouts, and the exponent is known better than by independent runs."""
    hits, widths = [], {"run": [], "row": []}
    for draw in range(DRAWS // 2):
        points = points_of(find_optima(planted_table(**TINY, noise=0.006, noise_kind="run", rng_seed=draw)))
        estimate = fit_law(points, "surge").estimate("batch_crit_tokens_exponent")
        hits.append(holds(estimate, 1.0))
        widths["run"].append(estimate.high - estimate.low)
        if draw < 10:
            points = points_of(find_optima(planted_table(**TINY, noise=0.006, rng_seed=draw)))
            estimate = fit_law(points, "surge").estimate("batch_crit_tokens_exponent")
            widths["row"].append(estimate.high - estimate.low)
    assert_covers("exponent of B_crit, shared noise", hits)
    assert np.median(widths["run"]) < 0.8 * np.median(widths["row"])


def test_coverage_and_error_at_one_budget_with_known_errors():
    """Specification, row 5: 0.2 octaves, 7 batches: |error| <= 0.35 octaves in 68 % of draws."""
    rng = np.random.default_rng(5)
    fits = [fit_law(points_at_one_budget("surge", 0.2, rng), "surge") for _ in range(DRAWS)]
    estimates = [fit.estimate("batch_crit") for fit in fits]
    assert all(e.status == "ok" for e in estimates)
    assert np.quantile([abs(np.log2(e.value / 2**11)) for e in estimates], 0.68) <= 0.35
    assert_covers("B_crit at one T, known errors", [holds(e, 2**11) for e in estimates])


def test_batch_crit_above_the_grid_is_censored():
    """Specification, row 5: a lower bound in about 26 / 74 / 95 % of draws at 1 / 2 / 4 octaves above the top."""
    rng = np.random.default_rng(7)
    rates = []
    for octaves in (1, 2, 4):
        batch_crit = 2.0 ** (14 + octaves)
        estimates = [
            fit_law(points_at_one_budget("surge", 0.2, rng, batch_crit=batch_crit), "surge").estimate("batch_crit")
            for _ in range(60)
        ]
        assert all(e.value is None and e.high is None for e in estimates if e.status == "lower_bound")
        assert np.mean([holds(e, batch_crit) for e in estimates]) >= 0.9
        rates.append(np.mean([e.status == "lower_bound" for e in estimates]))
    print("right-censored at 1, 2, 4 octaves above the grid:", rates)
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > 0.85


def test_aicc_chooses_the_planted_surge():
    rng = np.random.default_rng(11)
    verdicts = [fit_lr_laws(points_at_one_budget("surge", 0.1, rng))[1].verdict for _ in range(20)]
    assert verdicts.count("surge") >= 19


def test_a_pure_power_law_is_not_taken_for_a_bend():
    rng = np.random.default_rng(13)
    verdicts = [fit_lr_laws(points_at_one_budget("power", 0.1, rng))[1].verdict for _ in range(8)]
    print("verdicts on a planted power law:", {v: verdicts.count(v) for v in verdicts})
    assert sum(v in ("ambiguous", "power") for v in verdicts) >= 7


def test_few_points_give_no_verdict_and_fewer_batches_no_law():
    rng = np.random.default_rng(0)
    laws, verdict = fit_lr_laws(points_at_one_budget("surge", 0.1, rng, n_batches=3))
    assert verdict.verdict == "too few points"
    assert all(law.aicc is None for law in laws)
    assert fit_law(points_at_one_budget("surge", 0.1, rng, n_batches=2), "surge") is None


def test_interval_rule_never_shrinks():
    assert threshold(0.1, 10, 0) == pytest.approx(3.841, abs=1e-3)
    assert threshold(15.0, 10, 0) == pytest.approx(1.5 * 3.841, abs=1e-3)
    assert threshold(40.0, 10, 0) == pytest.approx(4 * 4.965, abs=1e-2)  # improbable: F(1, 10) takes over
    assert threshold(0.0, 0, 10) == pytest.approx(4.965, abs=1e-3)
