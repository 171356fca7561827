import pytest

from analysis.best_batch import best_batches
from analysis.optimum import find_optima
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_table


def best(**kwargs):
    optima = find_optima(planted_table(**kwargs))
    return best_batches(optima.cells, optima.noise)


def test_noiseless_best_batch_is_exact():
    found = best()
    assert [(b.tokens, b.width) for b in found] == [(t, w) for t in (2**18, 2**19, 2**20) for w in (64, 128, None)]
    for b in found:
        exact = 900 * (b.tokens / 2**19) ** 0.5
        assert b.batch.value == pytest.approx(exact, rel=1e-6)
        assert b.bracket[0] <= exact <= b.bracket[1]
        assert b.lr.value == pytest.approx(2**-7, rel=0.1)  # near the flat top of the surge


@pytest.mark.parametrize(("planted", "status"), [(100.0, "upper_bound"), (50_000.0, "lower_bound")])
def test_a_best_batch_at_the_end_of_the_grid_is_a_bound(planted, status):
    for b in best(best_batch=planted, best_batch_exponent=0.0):
        assert b.batch.status == status
        assert b.batch.value is None
        assert holds(b.batch, planted)
        assert b.lr.status == "not_identified"


def test_a_flat_bowl_is_not_identified():
    statuses = {b.batch.status for b in best(bowl=0.0, noise=0.005, widths=(64,))}
    assert "ok" not in statuses


def test_an_untuned_neighbour_forbids_a_best_batch():
    table = planted_table(widths=(64,), budgets=(2**19,))
    cut = table[(table["batch_tokens"] != 512) | (table["lr"] < 2**-8)]  # below its eta*: edge_high
    optima = find_optima(cut)
    (found,) = best_batches(optima.cells, optima.noise)
    assert found.batch.status == "not_identified"


def test_coverage():
    hits = []
    for draw in range(DRAWS):
        (found,) = best(widths=(64,), budgets=(2**19,), noise=0.003, rng_seed=draw)
        hits.append(holds(found.batch, 900) and found.batch.status == "ok")
    assert_covers("B*", hits)
