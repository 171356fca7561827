"""Phase diagrams of planted tables: failure, tolerated rates, regimes, and a page whose figures hold their numbers."""

import json
from math import log, nan

import pandas as pd
import pytest

from analysis.figures.phase import losses, reached, saved
from analysis.figures.trajectories import trajectories
from analysis.phase import judged, octaves, phase_rows
from analysis.report.warmup import write_warmup
from analysis.stability import adam_threshold
from analysis.trajectories import natural
from configs.errors import ConfigError

LRS = tuple(2.0**k for k in range(-8, 0))
LENGTHS = (0, 2**10, 2**12)


def boundary(second_moment: str, length: int) -> float:
    """Planted: a run fails from here on; four times as long a warmup doubles it, GI-Adam doubles it once more."""
    return 2.0**-5 * {0: 1, 2**10: 2, 2**12: 4}[length] * (2 if second_moment == "gradient" else 1)


def planted(ways=(("zero", "linear"), ("gradient", "linear"), ("zero", "critical"))) -> pd.DataFrame:
    """Loss falls with the rate up to half the boundary, where it is 2.5, and rises by 0.3 beyond it."""
    rows = []
    for parametrization in ("mup", "sp"):
        for second_moment, warmup in ways:
            for length in LENGTHS if warmup == "linear" else LENGTHS[1:]:
                for lr in LRS:
                    for seed in (0, 1):
                        edge = boundary(second_moment, length)
                        fails = lr >= edge and (seed == 1 or lr > edge)  # at the edge one seed fails
                        loss = 2.5 + 0.2 * max(0.0, log(edge / 2 / lr, 2)) + 0.01 * seed
                        looking = warmup == "critical"
                        rows.append(
                            {
                                "run_id": f"{len(rows):012x}",
                                "status": "finished",
                                "parametrization": parametrization,
                                "optimizer": "adamw",
                                "second_moment": second_moment,
                                "warmup": warmup,
                                "warmup_tokens": length,
                                "lr": lr,
                                "seed": seed,
                                "loss": 5.5 if fails else loss,
                                "loss_init": 5.7,
                                "vocab_size": 257,
                                "width": 64,
                                "depth": 2,
                                "tokens": 2**15,
                                "budget_tokens": 2**15,
                                "batch_tokens": 256,
                                "schedule": "constant",
                                "data_fingerprint": "f",
                                "lr_start": 2.0**-6 if looking else nan,
                                "warmup_passes": 10 if looking else nan,
                                "reached_tokens": length / 2 if looking else nan,
                                "saved_tokens": length / 2 - 10 * 128 if looking else nan,
                            }
                        )
    return pd.DataFrame(rows)


def test_what_fails():
    table = planted()
    table.loc[0, ["status", "loss"]] = ["diverged", nan]
    table.loc[2, "loss"] = 0.95 * log(257) - 1e-6
    table.loc[4, "loss"] = 0.95 * log(257) + 1e-6
    table.loc[6, ["loss", "loss_init"]] = [4.0, 4.2]  # above 0.95 of its own start, though below uniform predictions
    table.loc[8, "status"] = "running"
    found = judged(table).set_index("run_id")["failed"]
    assert found[[f"{i:012x}" for i in (0, 2, 4, 6)]].tolist() == [True, False, True, True]
    assert f"{8:012x}" not in found


def test_tolerated_rates_are_recovered():
    rows = phase_rows(judged(planted()))
    assert len(rows) == 2 * (3 + 3 + 2)
    for row in rows:
        edge = boundary(row.second_moment, row.warmup_tokens)
        assert (row.tolerated.status, row.tolerated.low, row.tolerated.high) == (
            "ok",
            edge / 2,
            edge,
        )  # one seed is enough
        assert row.best_lr == edge / 2
        assert row.best_loss == pytest.approx(2.505)
        assert row.spread == pytest.approx(0.01 / 2**0.5)
        assert (row.served.low, row.served.high) == (edge / 2, edge)
    plain = {row.warmup_tokens: row for row in rows if (row.parametrization, row.second_moment) == ("mup", "zero")}
    assert octaves(plain[0].tolerated, plain[2**12].tolerated) == 2


def test_the_ends_of_the_grid_are_bounds():
    table = planted()
    above = phase_rows(judged(table.assign(loss=2.5)))[0]
    assert (above.tolerated.status, above.tolerated.low, above.tolerated.value) == ("lower_bound", 0.5, None)
    below = phase_rows(judged(table.assign(loss=5.6)))[0]
    assert (below.tolerated.status, below.tolerated.high, below.n_failed) == ("upper_bound", 2.0**-8, below.n_runs)
    assert below.best_lr != below.best_lr
    assert octaves(above.tolerated, below.tolerated) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "running"}, "no run has ended"),
        ({"width": range(1000)}, "width mixes"),
        ({"lr": None}, "no column lr"),
    ],
)
def test_tables_that_have_no_diagram(change, message):
    table = planted()
    ((name, value),) = change.items()
    table = (
        table.drop(columns=name)
        if value is None
        else table.assign(**{name: list(value)[: len(table)] if isinstance(value, range) else value})
    )
    with pytest.raises(ConfigError, match=message):
        judged(table)


@pytest.mark.parametrize(
    ("p", "ratio", "regime", "change", "stretch", "met"),
    [
        ([100, 120, 160], [0.1, 0.2, 0.3], "sharpening", 1.6, (0, 2), False),
        ([100, 120, 140], [0.1, 0.2, 0.3], "constant", 1.4, (0, 2), False),
        ([100, 50, 10], [0.1, 0.2, 0.3], "reduction", 0.1, (0, 2), False),
        (
            [100, 50, 300],
            [0.1, 0.2, 1.3],
            "reduction",
            0.5,
            (0, 1),
            True,
        ),  # what comes after it met the threshold is not its own
        ([100, 50, 10], [1.1, 0.2, 0.3], "reduction", 0.2, (1, 2), False),  # it has come down to its own
        ([100, 50, 99], [1.1, 0.9, 1.3], "brief", nan, (1, 1), True),
        ([100, 50, 10], [1.1, 2.2, 1.3], "driven", nan, (2, 2), False),
    ],
)
def test_natural_regimes(p, ratio, regime, change, stretch, met):
    found = natural([0, 1, 2], p, ratio)
    assert (found.regime, found.from_tokens, found.until_tokens, found.met) == (regime, *stretch, met)
    assert found.change == pytest.approx(change, nan_ok=True)


def probes_of(table: pd.DataFrame) -> pd.DataFrame:
    """P^-1 H falls from 400 to 40; one catapult where the rate, 1/4, meets 38 / lr = 152."""
    rows = []
    for run in table[(table["seed"] == 0) & table["lr"].isin([2.0**-8, 2.0**-2])].to_dict("records"):
        for i, (loss, p) in enumerate(zip((5.0, 6.0, 3.0), (400.0, 200.0, 40.0), strict=True)):
            limit = adam_threshold(run["lr"], 0.9)
            row = {"run_id": run["run_id"], "tokens": 1024 * i, "loss": loss, "sharpness": 20.0 + i, "lr": run["lr"]}
            row |= {"preconditioned": p, "threshold": limit, "ratio": p / limit, "threshold_gd": 2 / run["lr"]}
            rows.append(row | {"threshold_momentum": 3.8 / run["lr"]})
    return pd.DataFrame(rows)


def test_the_figures_hold_what_they_show():
    table = planted()
    runs = judged(table)
    map_of = losses(runs)
    assert map_of.plot is not None
    assert len(map_of.plot.data) == 2 * 6
    crossed = sum(len(trace.x) for trace in map_of.plot.data if trace.name == "failed")
    assert crossed == map_of.data["failed"].sum() > 0
    assert sum(len(trace.x) for trace in map_of.plot.data) == len(map_of.data)
    for figure in (reached(runs), saved(runs)):
        assert set(figure.data["warmup"]) == {"critical"}
    assert set(reached(runs).data["shown"]) == {0.5}
    assert saved(runs).data["shown"].min() == 0.5 - 1280 / 1024
    linear = judged(planted((("zero", "linear"),)))
    assert saved(linear).reason.startswith("Not drawn: no run warms up from the critical rate")
    drawn = trajectories(probes_of(table), runs)
    assert drawn.plot is not None
    names = [trace.name for trace in drawn.plot.data if trace.showlegend]
    assert len(names) == len(set(names)) == 8
    assert trajectories(pd.DataFrame(), runs).reason.startswith("Not drawn: no run has sharpness probes")


def test_the_page_says_it_with_numbers(tmp_path):
    table = planted()
    page = write_warmup(table, probes_of(table), "phase", tmp_path).read_text()
    said = page.partition('<section id="tables">')[2]
    assert "256 runs, 2 seeds a cell, T = 2<sup>15</sup> and B = 2<sup>8</sup> tokens" in said
    assert (
        "mup, Adam, linear: largest peak rate without a failed run, by warmup: none: 2<sup>−6</sup> (serves up to "
        "2<sup>−6</sup>), 2<sup>10</sup>: 2<sup>−5</sup> (serves up to 2<sup>−5</sup>), 2<sup>12</sup>: 2<sup>−4</sup>"
    ) in said
    assert (
        "mup, GI-Adam, linear against linear Adam: at warmup none it tolerates 2<sup>−5</sup> where that does" in said
    )
    assert "its best loss is +0.000 nats away (seeds scatter by 0.007)" in said
    assert "the rate before the first step is 0.0156, found in 10 forward passes" in said
    assert "mup, Adam: before the first step λ(P⁻¹H) is 400, above its threshold in 5 of 10 runs" in said
    assert "; in 5 it fell once below it (× 0.100)" in said
    content = json.loads((tmp_path / "warmup.json").read_text())
    assert len(content["rows"]) == 16
    assert {t["catapults"] for t in content["trajectories"] if t["lr"] == 0.25} == {1}
    assert {t["catapults"] for t in content["trajectories"] if t["lr"] == 2.0**-8} == {0}
    assert (tmp_path / "data" / "trajectories.csv").exists()


def test_a_page_of_runs_without_probes(tmp_path):
    page = write_warmup(planted((("zero", "linear"),)), pd.DataFrame(), "phase", tmp_path).read_text()
    assert "Not drawn: no run has sharpness probes" in page
