"""The line search on a quadratic whose theory is known: best rates, drops and B_noise within Monte Carlo error."""

import numpy as np
import pytest

from analysis.line_search import Search, form_of, measure
from analysis.surge_theory import sign_optimum, sign_scales
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.analysis.test_surge_prediction import Toy, toy

SEQ_LEN, BLOCKS = 8, 16
BATCHES = 2.0 ** np.arange(4, 12)


def search(q: Toy, seed: int, batch: float, blocks: int = BLOCKS, rates: int = 7, shift: float = 0.0) -> Search:
    """Steps from one point of a quadratic: one batch a block, exact losses, rates in half octaves around the best."""
    rng = np.random.default_rng([seed, int(batch)])
    best = sign_optimum(q.mu, q.sigma, q.hessian, batch).lr[0]
    lr = best * 2.0 ** ((np.arange(rates) - rates // 2) / 2 + shift)
    v = np.sign(q.mu + q.sigma / np.sqrt(batch) * rng.standard_normal((blocks, q.mu.size)))
    along, bend = v @ q.mu, np.einsum("ki,ij,kj->k", v, q.hessian, v)
    return Search(batch * SEQ_LEN, lr, lr * along[:, None] - lr**2 * bend[:, None] / 2)


def test_best_rate_and_drop_are_those_of_theorem_2():
    q = toy()
    exact = sign_optimum(q.mu, q.sigma, q.hessian, BATCHES)
    found = measure([search(q, 0, batch, blocks=40_000) for batch in BATCHES])
    for step, lr, drop in zip(found.steps, exact.lr, exact.loss_drop, strict=True):
        for estimate, truth in ((step.lr, lr), (step.loss_drop, drop)):
            error = (estimate.high - estimate.low) / 2 / 1.96
            assert estimate.value == pytest.approx(truth, abs=3.3 * error)
            assert error < 0.08 * truth


def test_intervals_cover():
    q = toy(strength=0.02)
    exact = sign_optimum(q.mu, q.sigma, q.hessian, BATCHES)
    hits: dict[str, list[bool]] = {"lr": [], "drop": []}
    for seed in range(DRAWS):
        step = measure([search(q, seed, BATCHES[5], blocks=64)]).steps[0]
        hits["lr"].append(holds(step.lr, exact.lr[5]))
        hits["drop"].append(holds(step.loss_drop, exact.loss_drop[5]))
    for name, found in hits.items():
        assert_covers(name, found)


def test_the_noise_batch_comes_back_where_theory_holds():
    q = toy()
    noise = SEQ_LEN * sign_scales(q.mu, q.sigma, q.hessian).batch_noise
    assert BATCHES[0] * SEQ_LEN < noise < BATCHES[-1] * SEQ_LEN
    found = measure([search(q, 1, batch, blocks=4000) for batch in BATCHES])
    for estimate in (found.noise_from_lr, found.noise_from_drop):
        assert estimate.status == "ok"
        assert estimate.value == pytest.approx(noise, rel=0.15)
    few = measure([search(q, 1, batch, blocks=4000) for batch in BATCHES], up_to=BATCHES[1] * SEQ_LEN)
    assert "beyond the validity bound" in few.noise_from_lr.method
    assert "beyond" not in found.noise_from_lr.method


def test_a_diagonal_hessian_has_no_noise_batch_near_the_grid():
    """What is left of a bend is that of E(B) near the validity bound, 20,000 sequences here."""
    q = toy()
    diagonal = Toy(q.mu, q.sigma, np.diag(np.diag(q.hessian)))
    found = measure([search(diagonal, 2, batch, blocks=4000) for batch in BATCHES]).noise_from_lr
    assert found.low > 2 * BATCHES[-1] * SEQ_LEN


@pytest.mark.parametrize(("shift", "status"), [(-4.0, "lower_bound"), (4.0, "upper_bound")])
def test_a_best_rate_at_the_edge_is_a_bound(shift, status):
    q = toy()
    wide = search(q, 3, 256.0, blocks=2000, rates=3, shift=shift)
    if status == "upper_bound":  # so far beyond the best rate the loss rises: there is none that lowers it
        wide = Search(wide.batch_tokens, wide.lr, wide.drop - wide.drop.mean(0).min() + 1e-9)
    step = measure([wide]).steps[0]
    assert step.lr.status == status
    assert step.lr.value is None


def test_noise_alone_has_no_best_rate():
    rng = np.random.default_rng(0)
    step = measure([Search(64.0, np.array([1e-3, 2e-3, 4e-3]), rng.standard_normal((16, 3)))]).steps[0]
    assert step.lr.status == "not_identified"


def test_a_surge_is_seen_and_a_rise_without_end_is_none():
    """With an off-diagonal sum lr*(B) peaks inside the grid; without, it goes on as sqrt(B), as all forms begin."""
    q = toy()
    _, verdict = form_of([search(q, 1, batch, blocks=4000) for batch in BATCHES], tokens=2**15)
    assert verdict.candidates == ("surge",), verdict
    q = Toy(q.mu, q.sigma, np.diag(np.diag(q.hessian)))
    laws, _ = form_of([search(q, 1, batch, blocks=4000) for batch in BATCHES], tokens=2**15)
    (surge,) = (law for law in laws if law.form == "surge")
    assert surge.parameters["batch_crit"].low > BATCHES[-1] * SEQ_LEN
    assert form_of([search(q, 1, 64.0)], tokens=2**15)[1].verdict == "too few points"
