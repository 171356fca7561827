import re

import numpy as np
import pytest
from rich.console import Console

from analysis.laws import Points, fit_law
from analysis.noise import Noise
from analysis.power_law import LawPoint, fit_power_law
from analysis.predict import params_of_width, predict
from analysis.prediction_table import print_predictions
from analysis.published import LAWS, Setting
from analysis.results import Estimate
from configs.errors import ConfigError
from tests.analysis.coverage import DRAWS, assert_covers, holds
from tests.planted import planted_lr, planted_table

LAW = {"lr_crit_exponent": -0.2, "batch_crit_exponent": 0.7}
NOISE = Noise({}, {}, 60, 0.0, 0.0)


@pytest.fixture(scope="module")
def table():
    return planted_table(**LAW)


def test_noiseless_laws_are_followed_beyond_the_grid(table):
    (inside, beyond) = predict(table, tokens=[2**19, 2**22], width=256, batch=2048)
    assert (inside.octaves_tokens, beyond.octaves_tokens, beyond.octaves_width) == (0, 2, 1)
    for prediction in (inside, beyond):
        t = prediction.tokens / 2**19
        assert prediction.laws["batch_best"].value == pytest.approx(900 * t**0.5, rel=1e-5)
        assert prediction.laws["batch_crit:time_transfer_surge"].value == pytest.approx(1500 * t**0.7, rel=1e-5)
        exact = float(planted_lr(2048, "surge", 2**-7 * t**-0.2, 1500 * t**0.7))
        assert prediction.laws["lr_at_batch:2048:surge"].value == pytest.approx(exact, rel=1e-5)
    assert set(beyond.laws) == set(inside.laws)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tokens": [2**23], "width": 64}, r"--tokens 8\.38861e\+06: 3\.0 octaves beyond the tuned budgets .* --force"),
        ({"tokens": [2**19], "width": 512}, r"--width 512: 2\.0 octaves beyond the tuned widths \(64, 128\)"),
        ({"tokens": [2**19]}, "--width: the table has N = 64, 128"),
        ({"tokens": [2**19], "width": 64, "n_params": 1e5}, "give one"),
    ],
)
def test_what_cannot_be_said_is_refused_in_one_line(table, asked, words):
    with pytest.raises(ConfigError, match=words) as error:
        predict(table, **asked)
    assert "\n" not in str(error.value)


def test_force_goes_further(table):
    (far,) = predict(table, tokens=[2**30], width=64, force=True)
    assert far.octaves_tokens == 10
    crit = far.laws["batch_crit:time_transfer_surge"]
    assert crit.value == pytest.approx(1500 * 2 ** (11 * 0.7), rel=1e-4)


def test_one_budget_or_no_optimum_has_no_law():
    for thin in ({"budgets": (2**19,)}, {"lrs": (2.0**-4, 2.0**-3, 2.0**-2)}):
        with pytest.raises(ConfigError, match="two budgets or more"):
            predict(planted_table(**thin), tokens=[2**19])


def test_one_width_needs_no_size_and_knows_no_other():
    table = planted_table(widths=(64,), **LAW)
    (found,) = predict(table, tokens=[2**21])
    assert found.width == 64
    with pytest.raises(ConfigError, match="does not say how parameters follow width"):
        predict(table, tokens=[2**21], n_params=1e6)
    with pytest.raises(ConfigError, match=r"--width 128: 1\.0 octaves beyond"):
        predict(table, tokens=[2**21], width=128)


def test_parameters_are_turned_into_width(table):
    family = params_of_width(table)
    n_params = 14 * 2 * 96**2 + 2 * 257 * 96  # as the planted table counts them
    assert family.width(n_params) == pytest.approx(96, rel=1e-6)
    assert family.without_embeddings(96) == pytest.approx(28 * 96**2, rel=1e-6)
    crooked = table.assign(n_params=table["n_params"] * np.where(table["batch_tokens"] > 512, 2, 1))
    assert params_of_width(crooked) is None


def test_intervals_of_a_line_cover_beyond_the_grid():
    """B* ~ T^0.5 at four budgets, 0.1 octaves of noise, read three octaves beyond the last."""
    rng = np.random.default_rng(2)
    hits = {"T": [], "exponent": []}
    half = 0.1 * NOISE.quantile
    for _ in range(DRAWS):
        points = []
        for k in range(16, 20):
            x = 0.5 * k + 0.1 * rng.standard_normal()
            points.append(LawPoint(2**k, 64, 0, Estimate(2**x, 2 ** (x - half), 2 ** (x + half), "tokens", "ok", "")))
        law = fit_power_law(points, NOISE)
        hits["T"].append(holds(law.at(2.0**22, 64), 2**11))
        hits["exponent"].append(holds(law.exponent("tokens"), 0.5))
    for name, hit in hits.items():
        assert_covers(f"a power law, {name}", hit)


def test_intervals_of_b_crit_cover_beyond_the_grid():
    """The surge fitted to three budgets and read two octaves beyond, where B_crit has left the batches."""
    rng = np.random.default_rng(4)
    tokens, batch = (axis.ravel() for axis in np.meshgrid([18.0, 19.0, 20.0], np.arange(8.0, 15.0)))
    exact = np.log2(planted_lr(2**batch, "surge", 2**-7, 2 ** (tokens - 9)))
    hits = {"B_crit": [], "lr at a batch": []}
    truth = float(planted_lr(2**12, "surge", 2**-7, 2**13))
    for _ in range(DRAWS):
        lr = exact + 0.1 * rng.standard_normal(exact.size)
        points = Points(np.full(lr.size, 6.0), tokens, batch, lr, np.eye(lr.size) * 0.01)
        fit = fit_law(points, "surge", reference_tokens=2**22)
        hits["B_crit"].append(holds(fit.estimate("batch_crit"), 2**13))
        hits["lr at a batch"].append(holds(fit.lr_at(2**12), truth))
    for name, hit in hits.items():
        assert_covers(f"{name} beyond the grid", hit)


def test_published_laws_by_hand():
    """DeepSeek 67B was trained on 2e12 tokens with 3.2e-4 and 4608 x 4096 tokens (2401.02954, table 2)."""
    at_67b = {(law.name, law.quantity): law.value(Setting(2e12, 67e9, (1e12, 1e-3))) for law in LAWS}
    assert at_67b["DeepSeek", "lr_best"] == pytest.approx(3.2e-4, rel=0.01)
    assert at_67b["DeepSeek", "batch_best"] == pytest.approx(4608 * 4096, rel=0.03)
    at_1b = {(law.name, law.quantity): law.value(Setting(1e11, 1e9)) for law in LAWS}
    assert at_1b["Step Law", "lr_best"] == pytest.approx(1.63e-3, rel=0.01)
    assert at_1b["Step Law", "batch_best"] == pytest.approx(1.108e6, rel=0.01)
    assert at_1b["Power Lines", "batch_best"] == pytest.approx(2048 * 0.0306 * 10 ** (11 * 0.383))
    assert at_1b["Power Lines", "batch_crit"] == pytest.approx(2048 * 0.0471 * 10 ** (11 * 0.462))
    assert at_67b["Bjorck et al.", "lr_best"] == pytest.approx(1e-3 / 2**0.32)
    assert at_1b["Bjorck et al.", "lr_best"] is None
    without = {(law.name, law.quantity): law.value(Setting(1e11)) for law in LAWS}
    assert without["Step Law", "lr_best"] is without["DeepSeek", "batch_best"] is None


def test_the_printed_table_has_distance_interval_and_conventions(table, capsys):
    print_predictions(Console(width=200), predict(table, tokens=[2**21], width=64, batch=1024))
    text = capsys.readouterr().out
    assert re.search(r"octaves beyond the tuned T\W+1\.0", text)
    for part in ("B*  ", "B_crit, time transfer surge", "lr* at B = 1024, surge", "lr* at B*, Step Law", "2401.02954"):
        assert part in text
