import numpy as np
import pytest

from analysis.critical_batch import critical_batches, hyperbolas, overhead_batch, steps_law
from analysis.laws import fit_lr_laws, points_of
from analysis.optimum import find_optima
from tests.analysis.coverage import holds
from tests.planted import planted_table

BATCH_SEQS = 64 * 2 ** np.arange(9)
ZHANG = {  # model (steps to target at 64 ... 16384 sequences), a, b, batch of 20 % overhead: 2410.21676 and its code
    "85M": ([46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600], 1293.83, 2.83426e6, 745.32),
    "151M": ([96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300], 1752.42, 5.67748e6, 955.16),
    "302M": ([196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879], 2095.35, 1.13833e7, 1393.73),
    "604M": ([311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800], 2459.93, 1.94497e7, 1888.52),
    "1.2B": ([642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500], 3897.31, 4.33811e7, 2533.41),
}


@pytest.mark.parametrize("model", ZHANG)
def test_zhangs_published_fits(model):
    steps, a, b, critical = ZHANG[model]
    assert steps_law(BATCH_SEQS, steps) == pytest.approx((a, b), rel=1e-4)
    assert overhead_batch(BATCH_SEQS, steps, reference_batch=256) == pytest.approx(critical, rel=1e-4)


def test_steps_law_equals_the_inverse_regression_without_noise():
    """1/S = -B_c / E + 1/Smin with E = B S is the same law (Surge, section 4)."""
    steps = 1000 * (1 + 2000 / BATCH_SEQS)
    a, b = steps_law(BATCH_SEQS, steps)
    slope, intercept = np.polyfit(1 / (BATCH_SEQS * steps), 1 / steps, 1)
    assert (a, b / a) == pytest.approx((1000, 2000), rel=1e-6)
    assert (1 / intercept, -slope) == pytest.approx((1000, 2000), rel=1e-6)


def test_planted_hyperbola_is_exact_without_irreducible_loss():
    """Losses that are powers of tokens are interpolated exactly, so B_c is too."""
    optima = find_optima(planted_table(floor="hyperbola", irreducible=0.0))
    found = hyperbolas(optima.cells, optima.noise)
    assert [c.tokens for c in found] == [2**18, 2**19]
    for critical in found:
        assert critical.batch.value == pytest.approx(2000, rel=1e-6)


def test_planted_hyperbola_with_irreducible_loss_is_close():
    budgets = tuple(2**k for k in range(17, 22))
    optima = find_optima(planted_table(floor="hyperbola", irreducible=1.0, budgets=budgets))
    for critical in hyperbolas(optima.cells, optima.noise):
        assert critical.batch.value == pytest.approx(2000, rel=0.02)


def test_noisy_hyperbola_holds_the_truth():
    table = planted_table(floor="hyperbola", irreducible=0.0, noise=0.002, rng_seed=4)
    optima = find_optima(table)
    found = hyperbolas(optima.cells, optima.noise)
    assert found
    assert all(holds(c.batch, 2000) for c in found)


def test_every_definition_carries_its_name():
    optima = find_optima(planted_table())
    points = points_of(optima)
    laws = [law for tokens in (2**18, 2**19, 2**20) for law in fit_lr_laws(points, tokens=tokens)[0]]
    found = critical_batches(points, laws, optima.cells, optima.noise)
    surge = {c.tokens: c.batch.value for c in found if c.definition == "time_transfer_surge"}
    together = {c.tokens: c.batch.value for c in found if c.definition == "time_transfer_surge_all_budgets"}
    assert surge == pytest.approx({2**18: 750, 2**19: 1500, 2**20: 3000}, rel=1e-6)
    assert together == pytest.approx(surge, rel=1e-6)
    names = {"sqrt_saturation", "linear_saturation", "hyperbola"}
    assert names <= {c.definition for c in found}
