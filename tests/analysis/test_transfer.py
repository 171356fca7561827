"""Transfer over width on planted U-curves: shifts, losses lost, steps, and what lies outside the sweep."""

import numpy as np
import pandas as pd
import pytest

from analysis.transfer import NO_SETTING, TransferStudy, transfer_study
from configs.errors import ConfigError

CURVATURE = 0.05


def planted(
    optima: dict[tuple[str, int], float], *, noise: float = 0.0, gain: float = 0.1, low: int = -10, high: int = -4
) -> pd.DataFrame:
    """Parabolas loss = 3 - gain x log2(N / 64) + CURVATURE (log2 lr - optimum)^2, three seeds, per (setting, width)."""
    draw = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "setting": setting,
            "width": width,
            "tokens": 2**17,
            "batch_tokens": 2**10,
            "lr": 2.0**octave,
            "seed": seed,
            "loss": 3
            - gain * np.log2(width / 64)
            + CURVATURE * (octave - optimum) ** 2
            + 0.01 * seed
            + noise * draw.normal(),
        }
        for (setting, width), optimum in optima.items()
        for octave in range(low, high + 1)
        for seed in range(3)
    )


def of(optima: dict[tuple[str, int], float], **options: float) -> TransferStudy:
    return transfer_study(planted(optima, **options))  # pyright: ignore[reportArgumentType]


def test_a_planted_shift_and_the_loss_it_costs_are_recovered():
    (transfer,) = of({("sp", 64): -7.0, ("sp", 128): -7.4, ("sp", 256): -8.5}).transfers
    assert [shift.value for shift in transfer.shift] == pytest.approx([0, -0.4, -1.5], abs=1e-6)
    assert transfer.spread.value == pytest.approx(1.5, abs=1e-6)
    assert [lost.value for lost in transfer.lost] == pytest.approx([0, CURVATURE * 0.16, CURVATURE * 2.25], abs=1e-6)


def test_intervals_of_a_shift_hold_the_truth_and_say_when_it_may_be_nothing():
    (transfer,) = of({("mup", 64): -7.0, ("mup", 128): -7.0, ("mup", 256): -8.2}, noise=0.02).transfers
    small, large = transfer.shift[1:]
    assert small.low < 0 < small.high
    assert transfer.lost[1].low == 0
    assert large.low < -1.2 < large.high < 0
    assert transfer.spread.low > 0.5


def test_settings_are_compared_with_the_first_one_width_by_width():
    optima = {(name, width): -7.0 for name in ("mup", "sp") for width in (64, 256)}
    table = planted(optima)
    table.loc[table["setting"] == "sp", "loss"] += 0.03
    study = transfer_study(table)
    assert [t.setting for t in study.transfers] == ["mup", "sp"]
    assert [d.value for d in study.behind[1]] == pytest.approx([0.03, 0.03])


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, "better"), (-0.1, "worse")])
def test_wider_is_better_or_worse(gain: float, verdict: str):
    (transfer,) = of({("mup", 64): -7.0, ("mup", 256): -7.0}, gain=gain, noise=0.005).transfers
    (step,) = transfer.steps
    assert (step.rates, step.verdict) == (4, verdict)
    assert step.worst.value == pytest.approx(-2 * gain, abs=0.02)


def test_equal_widths_are_as_good_within_the_noise():
    (transfer,) = of({("mup", 64): -7.0, ("mup", 256): -7.0}, gain=0.0, noise=0.01).transfers
    assert transfer.steps[0].verdict == "as good"
    assert transfer.steps[0].worst.low < 0 < transfer.steps[0].worst.high


def test_an_optimum_beyond_the_sweep_is_a_bound_not_a_shift():
    (transfer,) = of({("sp", 64): -7.0, ("sp", 256): -12.0}).transfers
    assert transfer.shift[1].status == "upper_bound"
    assert transfer.shift[1].high == pytest.approx(-2, abs=0.01)  # it may lie one rate inside the edge, at -9
    assert transfer.spread.status == "lower_bound"
    assert transfer.spread.low == pytest.approx(2, abs=0.01)
    assert transfer.lost[1].status == "not_identified"


def test_a_table_without_settings_is_one_setting():
    table = planted({("", 64): -7.0, ("", 128): -7.0}).drop(columns="setting")
    assert transfer_study(table).transfers[0].setting == NO_SETTING


def test_one_width_is_refused():
    with pytest.raises(ConfigError, match="every setting has losses of one width only"):
        of({("mup", 64): -7.0})


def test_a_setting_of_one_width_stands_beside_others_without_a_verdict():
    both, one = of({("a", 64): -7.0, ("a", 256): -7.0, ("b", 64): -7.0}).transfers
    assert both.spread.value == pytest.approx(0, abs=1e-6)
    assert (len(one.cells), one.steps, one.spread.status) == (1, (), "not_identified")


def test_a_loss_behind_one_that_is_not_reached_is_a_bound():
    study = of({("a", 64): -7.0, ("a", 256): -7.0, ("b", 64): -7.0, ("b", 256): -13.0})
    behind = study.behind[1][1]  # b's optimum is below the sweep: its loss is at most what was seen
    assert (behind.status, behind.value, behind.low) == ("upper_bound", None, None)


def test_one_seed_has_no_interval_and_no_verdict():
    table = planted({("mup", 64): -7.0, ("mup", 256): -7.0})
    (step,) = transfer_study(table[table["seed"] == 0]).transfers[0].steps
    assert step.worst.value == pytest.approx(-0.2)
    assert (step.worst.low, step.worst.high, step.verdict) == (None, None, "unsure")


def test_runs_that_have_not_ended_are_counted():
    table = planted({("mup", 64): -7.0, ("mup", 256): -7.0}).assign(status="finished")
    table.loc[table["lr"] == 2.0**-4, "status"] = "running"
    (transfer,) = transfer_study(table).transfers
    assert any("6 rows are of runs that have not ended" in warning for warning in transfer.warnings)
