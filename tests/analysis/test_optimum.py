import numpy as np
import pandas as pd
import pytest

from analysis.optimum import find_optima
from analysis.parabola import fit_parabola, fit_robust, vertex_interval
from tests.planted import planted_lr, planted_table

ONE_CELL = {"widths": (64,), "budgets": (2**19,), "batches": (2**10,)}


def truth(batch: float, tokens: float) -> float:
    return float(planted_lr(batch, "surge", 2**-7, 1500 * tokens / 2**19))


def test_noiseless_optima_are_exact():
    optima = find_optima(planted_table())
    assert len(optima.cells) == 36
    for cell in optima.cells:
        assert cell.state == "interior"
        assert np.log2(cell.lr.value) == pytest.approx(np.log2(truth(cell.batch_tokens, cell.tokens)), abs=1e-6)
        assert cell.curvature.value == pytest.approx(0.02 * (cell.tokens / 2**19) ** -0.3, rel=1e-6)
        assert len(cell.window) == 5


@pytest.mark.parametrize(
    ("lrs", "state", "status"),
    [
        (range(-6, -1), "edge_low", "upper_bound"),
        (range(-13, -8), "edge_high", "lower_bound"),
        ((-8, -7), "too_few", "not_identified"),
    ],
)
def test_a_minimum_at_the_edge_is_a_bound(lrs, state, status):
    (cell,) = find_optima(planted_table(**ONE_CELL, lrs=tuple(2.0**k for k in lrs))).cells
    exact = truth(2**10, 2**19)
    assert (cell.state, cell.lr.status, cell.lr.value, cell.log2_lr_sigma) == (state, status, None, None)
    assert cell.lr.high is None or exact <= cell.lr.high
    assert cell.lr.low is None or exact >= cell.lr.low
    assert cell.curvature.status == "not_identified"


def test_a_diverged_run_closes_the_grid_from_above_but_never_enters_the_parabola():
    lrs = tuple(2.0**k for k in range(-10, -5))  # eta* = 2^-7.03: -7 is the highest that finishes
    (cell,) = find_optima(planted_table(**ONE_CELL, lrs=lrs, diverge_above=0.5)).cells
    assert cell.n_diverged == 1
    assert max(cell.window) == 2.0**-7
    assert cell.state == "interior"
    assert cell.lr.value == pytest.approx(truth(2**10, 2**19), rel=1e-6)


def test_a_flat_curve_is_not_an_optimum():
    table = planted_table(**ONE_CELL, curvature=0.0, noise=0.01, rng_seed=3)
    (cell,) = find_optima(table).cells
    assert cell.state != "interior"
    assert cell.lr.value is None


def test_an_interval_wider_than_the_sweep_is_not_an_optimum():
    """At 95 % the curvature may just differ from zero while lr* could be anything; nothing is printed to 2^384."""
    states = set()
    for seed in range(60):
        table = planted_table(widths=(64,), budgets=(2**19,), curvature=0.008, noise=0.01, rng_seed=seed)
        for cell in find_optima(table).cells:
            states.add(cell.state)
            if cell.state == "interior":
                lrs = table["lr"]
                assert cell.lr.high / cell.lr.low < lrs.max() / lrs.min()
    assert "not_convex" in states


def test_a_batch_off_its_parabola_keeps_its_own_noise():
    """Few steps make a steep, crooked U; it must widen its own intervals, not those of every cell of the budget."""
    table = planted_table(widths=(32, 64), budgets=(2**19,), seeds=(0, 1), noise=0.005)
    batch = table["batch_tokens"].max()
    crooked = table["batch_tokens"] == batch
    octaves = np.log2(table["lr"][crooked]) - np.log2(table["lr"]).mean()
    table.loc[crooked, "loss"] += 0.15 * np.maximum(octaves, 0) ** 3
    noise = find_optima(table).noise
    assert set(noise.misfit) == {(2**19, batch)}
    assert noise.of(2**19, batch) > 3 * noise.sigma[2**19]
    assert noise.sigma[2**19] == pytest.approx(0.005, rel=0.4)


def test_extra_seeds_near_the_optimum_do_not_tilt_it():
    table = planted_table(**ONE_CELL, seeds=(0, 1, 2))
    table["loss"] += 0.05 * table["seed"]  # a seed's own level
    kept = table[(table["seed"] == 0) | (np.abs(np.log2(table["lr"]) + 8) <= 1)]
    (cell,) = find_optima(kept).cells
    assert cell.n_seeds == 3
    assert cell.lr.value == pytest.approx(truth(2**10, 2**19), rel=1e-6)


def test_three_learning_rates_give_a_value_with_the_interval_of_the_grid():
    optima = find_optima(planted_table(**ONE_CELL, lrs=(2.0**-8, 2.0**-7, 2.0**-6)))
    (cell,) = optima.cells
    assert optima.noise.dof == 0
    assert cell.lr.value == pytest.approx(truth(2**10, 2**19), rel=1e-6)
    assert (cell.lr.low, cell.lr.high) == (2.0**-8, 2.0**-6)
    assert (cell.loss.low, cell.loss.high, cell.loss_sigma) == (None, None, None)


def test_row_order_does_not_matter():
    table = planted_table(noise=0.005)
    assert find_optima(table).cells == find_optima(table.sample(frac=1, random_state=1)).cells


def test_noise_of_runs_read_out_at_several_budgets_is_seen_as_shared():
    shared = find_optima(planted_table(noise=0.005, noise_kind="run")).noise
    apart = find_optima(planted_table(noise=0.005, noise_kind="row")).noise
    assert shared.correlation > 0.7
    assert apart.correlation < 0.35
    assert np.mean(list(apart.sigma.values())) == pytest.approx(0.005, rel=0.25)


def test_a_curve_that_is_no_parabola_widens_the_interval():
    table = planted_table(widths=(64,))
    octaves = np.log2(table["lr"]) - [
        np.log2(truth(b, t)) for b, t in zip(table["batch_tokens"], table["tokens"], strict=True)
    ]
    cubic = table.assign(loss=table["loss"] + 0.002 * octaves**3)
    noise = find_optima(cubic).noise
    assert noise.window_octaves > 0.01
    assert find_optima(table).noise.window_octaves < 1e-9


def test_fiellers_interval_of_a_hand_example():
    x, y = np.array([-1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0])
    fit = fit_parabola(x, y, used=np.ones(3, bool))
    assert (fit.a, fit.b, fit.vertex, fit.minimum) == pytest.approx((1, 0, 0, 0), abs=1e-12)
    # var a = 1.5 s^2, var b = 0.5 s^2, cov 0: 4 t^2 (1 - 1.5 q^2 s^2) = 0.5 q^2 s^2
    q, s = 2.0, 0.1
    half = np.sqrt(0.5 * q**2 * s**2 / (4 * (1 - 1.5 * q**2 * s**2)))
    assert vertex_interval(fit, s, q) == pytest.approx((-half, half))
    assert vertex_interval(fit, 1.0, q) is None


def test_cells_without_any_loss_are_left_out():
    table = pd.concat([planted_table(**ONE_CELL), planted_table(**ONE_CELL).assign(batch_tokens=64, loss=np.nan)])
    assert [cell.batch_tokens for cell in find_optima(table).cells] == [2**10]


def test_every_window_agrees_on_a_parabola():
    for cell in find_optima(planted_table()).cells:
        assert {"3 points", "5 points", "7 points", "7 points, robust"} <= set(cell.lr_by_window)
        assert cell.window_octaves < 1e-6


def test_the_spread_over_windows_shows_a_curve_that_is_no_parabola():
    table = planted_table(**ONE_CELL)
    octaves = np.log2(table["lr"]) - np.log2(truth(2**10, 2**19))
    (cell,) = find_optima(table.assign(loss=table["loss"] + 0.002 * octaves**3)).cells
    lrs = np.log2([cell.lr.value, *cell.lr_by_window.values()])
    assert cell.window_octaves == pytest.approx(np.ptp(lrs))
    assert cell.window_octaves > 0.02
    assert find_optima(planted_table(**ONE_CELL, lrs=(2.0**-6, 2.0**-5))).cells[0].window_octaves is None


def test_a_window_by_rise_takes_the_runs_below_it():
    """a = 0.02 at 2^-7.04: within 0.1 nats of the lowest run lie those up to sqrt(5) octaves away."""
    lrs = tuple(2.0**k for k in range(-12, -3))
    table = planted_table(**ONE_CELL, lrs=lrs)
    far = np.abs(np.log2(table["lr"]) - np.log2(truth(2**10, 2**19))) > 2.3
    (cell,) = find_optima(table.assign(loss=table["loss"].mask(far, table["loss"] + 1.0))).cells
    assert np.log2(cell.lr_by_window["up to 0.1 nats"]) == pytest.approx(np.log2(truth(2**10, 2**19)), abs=1e-6)


def test_one_bad_run_moves_the_robust_optimum_less():
    x = np.arange(-3.0, 4.0)
    y = 0.02 * x**2 + 0.001 * np.array([1, -1, 1, -1, 1, -1, 1])
    y[5] += 0.05
    used = np.ones(7, bool)
    assert abs(fit_robust(x, y, used=used).vertex) < 0.6 * abs(fit_parabola(x, y, used=used).vertex)
    assert fit_robust(x, 0.02 * (x - 0.3) ** 2, used=used).vertex == pytest.approx(0.3)
