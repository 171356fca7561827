import json
import warnings

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse, to_json
from configs.errors import ConfigError
from tests.analysis.coverage import holds
from tests.planted import planted_table

QUICKSTART = {"batches": (256, 1024, 4096, 16384), "lrs": tuple(2.0**k for k in range(-10, -5))}


@pytest.fixture(scope="module")
def noiseless():
    return analyse(planted_table(lr_crit_exponent=-0.2, batch_crit_exponent=0.7))


def test_growth_laws_are_exact(noiseless):
    growth = {law.quantity: law for law in noiseless.growth}
    truth = {
        "batch_crit:time_transfer_surge": 0.7,
        "batch_crit_per_budget:time_transfer_surge": 0.7,
        "lr_crit": -0.2,
        "batch_best": 0.5,
        "curvature": -0.3,
        "sensitivity:window1": -0.3,
    }
    for quantity, exponent in truth.items():
        assert growth[quantity].exponent.value == pytest.approx(exponent, abs=1e-6), quantity
    assert growth["batch_crit:time_transfer_surge"].coefficient.value == pytest.approx(np.log2(1500), abs=1e-6)
    assert growth["batch_best"].coefficient.value == pytest.approx(np.log2(900), abs=1e-6)
    for quantity in ("batch_crit:time_transfer_surge", "curvature", "batch_best"):
        assert growth[quantity].exponent_width.value == pytest.approx(0.0, abs=1e-6)


def test_fixed_batch_exponents_have_the_sign_of_the_regime(noiseless):
    """Far below B_crit eta* falls with T, far above it rises (Time Transfer, v1)."""
    growth = {law.quantity: law.exponent for law in analyse(planted_table()).growth}
    assert growth["lr_at_batch:256"].high < 0 < growth["lr_at_batch:8192"].low


def test_json_is_strict_and_complete(noiseless):
    laws = to_json(noiseless)
    keys = {"meta", "cells", "lr_laws", "critical_batch", "growth", "sensitivity", "best_batch", "warnings"}
    assert keys <= set(laws)
    assert json.loads(json.dumps(laws, allow_nan=False)) == laws
    assert {"value", "low", "high", "unit", "status", "method"} == set(laws["cells"][0]["lr"])
    assert len(laws["sensitivity"]) == len(laws["cells"]) == 36
    assert laws["meta"]["schedule"] == ["constant"]


def test_a_quickstart_grid_with_edges_and_divergence():
    table = planted_table(**QUICKSTART, noise=0.004, noise_kind="run", lr_crit=2**-6.3, diverge_above=1.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(table)
    states = {cell.state for cell in found.cells}
    assert len(found.cells) == 24
    assert {"interior", "edge_high"} <= states
    assert any("add higher ones" in text for text in found.warnings)
    json.dumps(to_json(found), allow_nan=False)
    exponent = next(law for law in found.growth if law.quantity == "batch_crit:time_transfer_surge").exponent
    assert holds(exponent, 1.0)


def test_without_a_spare_run_the_scatter_about_the_law_measures_the_exponent():
    """Three learning rates: cells have no noise to show, but eta*(T) lies near a power law and the interval says so."""
    budgets = tuple(2**k for k in range(16, 24))
    setting = {"widths": (64,), "batches": (2**10,), "budgets": budgets, "lrs": (2.0**-9, 2.0**-7.5, 2.0**-6)}
    table = planted_table(**setting, form="power", lr_crit_exponent=0.25, noise=0.001, rng_seed=2)
    exponent = next(law for law in analyse(table).growth if law.quantity == "lr_at_batch:1024").exponent
    assert holds(exponent, 0.25 - 0.5)
    assert exponent.high - exponent.low < 0.1


def test_it_is_deterministic():
    table = planted_table(**QUICKSTART, noise=0.004)
    assert analyse(table) == analyse(table.sample(frac=1, random_state=0))


def test_five_columns_are_enough():
    table = planted_table(widths=(64,), budgets=(2**19,), diverge_above=3.5)
    foreign = table[["width", "tokens", "batch_tokens", "lr", "loss"]]
    found = analyse(foreign)
    surge = next(c for c in found.critical_batch if c.definition == "time_transfer_surge")
    assert surge.batch.value == pytest.approx(1500, rel=1e-6)
    assert not found.growth


@pytest.mark.parametrize("batches", [(1024,), (512, 1024)])
def test_too_few_batches_say_so(batches):
    found = analyse(planted_table(batches=batches))
    assert not found.critical_batch
    assert any("B_crit is not fitted" in text for text in found.warnings)
    json.dumps(to_json(found), allow_nan=False)


def test_nothing_tuned_is_still_an_answer():
    found = analyse(planted_table(lrs=(2.0**-4, 2.0**-3, 2.0**-2)))
    assert {cell.state for cell in found.cells} == {"edge_low"}
    assert not found.lr_laws
    json.dumps(to_json(found), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="lr"), "no column lr"),
        (lambda t: t.assign(status="running"), "no run has a finite loss"),
        (lambda t: t.assign(loss=np.nan, status="diverged"), "no run has a finite loss"),
        (lambda t: t.assign(lr=-1.0), "lr is -1.0"),
        (lambda t: pd.concat([t, t.head(1).assign(loss=9.0)]), "two rows with different loss"),
        (lambda t: t.assign(schedule=np.where(t["batch_tokens"] > 512, "wsd", "constant")), "schedule mixes"),
        (lambda t: t.assign(parametrization=np.where(t["width"] > 64, "sp", "mup")), "parametrization mixes"),
        (lambda t: t.assign(data_fingerprint=t["seed"].astype(str) + t["width"].astype(str)), "data_fingerprint mixes"),
        (lambda t: t.assign(schedule="wsd", budget_tokens=2**30), "end of its schedule"),
    ],
)
def test_a_table_that_would_mislead_is_refused_in_one_line(change, words):
    with pytest.raises(ConfigError, match=words) as error:
        analyse(change(planted_table(**QUICKSTART)))
    assert "\n" not in str(error.value)


def test_what_is_left_out_is_said():
    table = planted_table(**QUICKSTART)
    table = pd.concat([table, table.head(3), table.tail(2).assign(seed=5, status="running", loss=np.nan)])
    found = analyse(table)
    assert any("3 rows repeat" in text for text in found.warnings)
    assert any("2 running" in text for text in found.warnings)
    assert found.meta["rows_by_status"] == {"finished": 123, "running": 2}


def test_a_loss_above_the_untrained_models_counts_as_diverged():
    table = planted_table(**QUICKSTART)
    top = table["lr"] == table["lr"].max()
    found = analyse(table.assign(loss=table["loss"].mask(top, 60.0)))
    assert {cell.n_diverged for cell in found.cells} == {1}
    assert any("untrained" in text for text in found.warnings)


def test_readouts_inside_a_decay_are_not_budgets():
    table = planted_table(**QUICKSTART).assign(schedule="wsd", budget_tokens=2**20)
    found = analyse(table)
    assert {cell.tokens for cell in found.cells} == {2**20}
    assert any("decaying schedule" in text for text in found.warnings)


def test_a_thin_noisy_grid_comes_to_an_end():
    """On this table a profile once walked beside the limit of its parameter for ever, a rounding error short."""
    lrs, batches = tuple(2.0**k for k in range(-9, -4)), (2**9, 2**10, 2**11, 2**12)
    law = {"batch_crit": 5000, "best_batch": 300, "noise": 0.006, "diverge_above": 2.2}
    assert analyse(planted_table(lrs=lrs, batches=batches, **law)).cells
