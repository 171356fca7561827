"""The figures: what is drawn where, from which numbers."""

import numpy as np
import pandas as pd
import pytest

from analysis import figures
from analysis.analyse import analyse
from analysis.coordinates import exponent
from analysis.figures.colours import DARK, sequential
from analysis.figures.coordinates import coordinate_check
from analysis.figures.curves import loss_against_lr
from analysis.figures.learning_rate import lr_against_batch, lr_against_tokens
from analysis.figures.panels import log2_axis, panels
from tests.planted import SITES, planted_table
from tests.report.conftest import Report


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scale", ["tokens", "batch", "width"])
def test_scales_keep_their_order_in_grey_and_stand_out_on_both_pages(scale) -> None:
    light = list(sequential(scale, range(8)).values())
    dark = [DARK[colour] for colour in light]
    assert np.all(np.diff([luminance(colour) for colour in light]) < 0)
    assert np.all(np.diff([luminance(colour) for colour in dark]) > 0)
    assert min(contrast(colour, "#fdfdfc") for colour in light) > 2.4
    assert min(contrast(colour, "#14161a") for colour in dark) > 3.0


def test_ticks_are_powers_of_two_and_few() -> None:
    for values in ([2**-7.2, 2**-6.9], [2**8, 2**13], [1e-9, 1e9]):
        axis = log2_axis(values, "x", ticks=6)
        octaves = np.log2(axis["tickvals"])
        assert 1 <= len(octaves) <= 6
        np.testing.assert_allclose(octaves * 4, np.round(octaves * 4))
        low, high = np.array(axis["range"]) / np.log10(2)
        assert low <= octaves.min() <= octaves.max() <= high
    assert log2_axis([2**-7], "x", finest=1)["ticktext"] == ["2<sup>−7</sup>"]


def test_panels_do_not_overlap_in_any_arrangement() -> None:
    plot = panels([str(i) for i in range(5)], 3, x={"title": "x"}, y={"title": "y"})
    arrangements = plot.layout.meta["arrangements"]
    assert {shown: len(by_columns) for shown, by_columns in arrangements.items()} == {1: 1, 2: 2, 3: 3, 4: 3, 5: 3}
    for shown, arrangement in [(n, a) for n, by_columns in arrangements.items() for a in by_columns]:
        boxes = [(*axes["x"]["domain"], *axes["y"]["domain"]) for axes in arrangement["axes"]]
        assert len(boxes) == shown
        for i, (left, right, low, high) in enumerate(boxes):
            assert 0 <= left < right <= 1
            assert 0 <= low < high <= 1
            for other_left, other_right, other_low, other_high in boxes[:i]:
                apart = right < other_left or other_right < left or high < other_low or other_high < low
                assert apart, f"panel {i} in {len(boxes)}"


def test_every_plot_has_one_legend_entry_per_name(report: Report) -> None:
    for figure in figures.draw(report.table, report.analysis):
        assert figure.plot is not None
        names = [trace.name for trace in figure.plot.data if trace.showlegend]
        assert len(names) == len(set(names)) > 0, figure.id
        assert all(trace.showlegend is not None and trace.legendgroup for trace in figure.plot.data), figure.id


def test_an_optimum_at_the_edge_is_drawn_as_a_bound() -> None:
    table = planted_table(lrs=tuple(2.0**k for k in range(-12, -7)), noise=0.001)  # the optimum is near 2^-7
    analysis = analyse(table)
    assert {cell.state for cell in analysis.cells} >= {"edge_high"}
    drawn = lr_against_tokens(table, analysis).plot
    assert drawn is not None
    bounds = [trace for trace in drawn.data if trace.marker.symbol == "triangle-up-open"]
    marked = sorted(y for trace in bounds for y in trace.y)
    assert marked == sorted(cell.lr.low for cell in analysis.cells if cell.lr.status == "lower_bound")
    curves = loss_against_lr(table, analysis).plot
    assert curves is not None
    symbols = [str(trace.marker.symbol) for trace in curves.data]
    assert symbols.count("triangle-right-open") == sum(cell.state == "edge_high" for cell in analysis.cells)


def test_the_fitted_curve_peaks_at_the_marked_b_crit(report: Report) -> None:
    data = lr_against_batch(report.table, report.analysis).data
    crits = data[data["kind"] == "batch_crit"].set_index("tokens")["batch_crit"]
    for tokens, curve in data.query("kind == 'curve' and form == 'surge'").groupby("tokens"):
        crit = crits.loc[tokens]
        peak = curve.loc[curve["lr"].idxmax(), "batch_tokens"]
        assert abs(np.log2(peak / crit)) < 0.1


def test_diverged_runs_are_marked_on_the_upper_edge(report: Report) -> None:
    plot = loss_against_lr(report.table, report.analysis).plot
    assert plot is not None
    marked = sum(np.sum(np.asarray(trace.marker.symbol) == "x-thin-open") for trace in plot.data)
    assert marked == report.table["loss"].isna().sum() > 0


def test_the_coordinate_check_recovers_planted_exponents() -> None:
    table = planted_table(widths=(64, 128, 256), noise=0.001)
    table["rms_logits"] *= (table["width"] / 64) ** 0.5
    figure = coordinate_check(table, analyse(table))
    rows = figure.data.query("site == 'logits' and when == 'readout'")
    assert exponent(rows["width"].to_numpy(float), rows["rms"].to_numpy()).value == pytest.approx(0.5)
    assert set(figure.data["site"]) == set(SITES)
    assert figure.plot is not None
    assert "+0.50 ± 0.00" in {note.text for note in figure.plot.layout.annotations}


def test_a_zero_initialised_head_does_not_break_the_coordinate_check(report: Report) -> None:
    table = report.table.assign(rms_logits_init=0.0)
    figure = coordinate_check(table, report.analysis)
    assert figure.plot is not None
    assert figure.data.query("site == 'logits'")["when"].unique().tolist() == ["readout"]


def test_figures_survive_a_table_without_any_interior_optimum() -> None:
    table = planted_table(lrs=(2.0**-12, 2.0**-11, 2.0**-10), noise=0.0)
    for figure in figures.draw(table, analyse(table)):
        assert isinstance(figure.data, pd.DataFrame)
        assert figure.plot is not None or figure.reason.startswith("Not drawn: ")
