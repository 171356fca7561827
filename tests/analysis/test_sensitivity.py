import numpy as np
import pytest

from analysis.optimum import find_optima
from analysis.sensitivity import window_weights, wortsman
from tests.planted import planted_table


def test_wortsman_by_hand():
    """Losses 3.0, 2.5, 2.8 and one diverged, loss at initialisation 5: mean(3, 2.5, 2.8, 5) - 2.5."""
    loss = [3.0, 2.5, 2.8, np.nan]
    assert wortsman(loss, 5.0) == pytest.approx(0.825)
    assert wortsman(loss[::-1], 5.0) == pytest.approx(0.825)
    assert wortsman([3.0, 2.5, 2.8, 90.0], 5.0) == pytest.approx(0.825)  # worse than at initialisation counts as that
    assert wortsman(loss, None) is None
    assert wortsman([3.0, 2.5, 2.8], None) == pytest.approx(8.3 / 3 - 2.5)
    assert wortsman([2.0, 2.0], 5.0) == 0
    assert wortsman([np.nan, np.nan], 5.0) is None


@pytest.mark.parametrize("octaves", [1, 2])
@pytest.mark.parametrize("center", [0.0, 0.37])
def test_a_parabola_gives_a_k2_over_3(octaves, center):
    x = np.arange(-3.0, 4.0)
    weights = window_weights(x, center, octaves)
    assert weights @ (0.02 * (x - center) ** 2) == pytest.approx(0.02 * octaves**2 / 3, rel=0.01)
    assert weights @ np.ones(7) == pytest.approx(1)


def test_a_window_beyond_the_grid_is_not_extrapolated():
    assert window_weights(np.arange(-1.0, 2.0), 0.1, 1) is None
    assert window_weights(np.arange(2.0), 0.5, 0.5) is None


def test_cells_carry_all_three():
    for cell in find_optima(planted_table()).cells:
        a = 0.02 * (cell.tokens / 2**19) ** -0.3
        assert cell.curvature.value == pytest.approx(a, rel=1e-6)
        assert cell.sensitivity["window1"].value == pytest.approx(a / 3, rel=0.01)
        assert cell.sensitivity["window2"].value == pytest.approx(4 * a / 3, rel=0.01)


def test_divergence_without_a_loss_at_initialisation_is_not_identified():
    table = planted_table(widths=(64,), budgets=(2**19,), batches=(2**10,), diverge_above=2.5)
    (known,) = find_optima(table).cells
    (unknown,) = find_optima(table.assign(loss_init=np.nan)).cells
    assert known.sensitivity["wortsman"].status == "ok"
    assert known.sensitivity["wortsman"].value == pytest.approx(
        wortsman(table.sort_values("lr")["loss"], np.log(257)), rel=1e-9
    )
    assert unknown.sensitivity["wortsman"].status == "not_identified"
    assert unknown.sensitivity["window1"].status == "ok"


def test_noise_in_the_window_measures_is_in_their_interval():
    values, halves = [], []
    for draw in range(100):
        table = planted_table(widths=(64,), budgets=(2**19,), batches=(2**10, 2**11, 2**12), noise=0.003, rng_seed=draw)
        estimate = find_optima(table).cells[0].sensitivity["window2"]
        values.append(estimate.value)
        halves.append((estimate.high - estimate.low) / 2)
    assert np.mean(values) == pytest.approx(4 * 0.02 / 3, rel=0.05)
    assert np.std(values) == pytest.approx(
        np.mean(halves) / 2.45, rel=0.3
    )  # Student's quantile at 6 degrees of freedom
