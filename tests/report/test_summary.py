"""The plain words: a bound is said to be a bound, and a value never appears without its interval."""

import re
from dataclasses import replace

import pytest

from analysis.notation import compact, estimate_text, grid_count, hundredths, plain
from analysis.report.html import prose
from analysis.report.summary import summary
from analysis.results import (
    Analysis,
    BestBatch,
    Collapse,
    CriticalBatch,
    Estimate,
    Growth,
    LrLawVerdict,
    RuleVerdict,
    ScalingRule,
)
from tests.report.conftest import Report

AT_LEAST = Estimate(None, 5000.0, None, "tokens", "lower_bound", "")
AT_MOST = Estimate(None, None, 300.0, "tokens", "upper_bound", "")
UNKNOWN = Estimate(None, None, None, "tokens", "not_identified", "")
KNOWN = Estimate(1234.0, 900.0, 1600.0, "tokens", "ok", "")
LR = Estimate(0.0078, 0.0071, 0.0085, "lr", "ok", "")
LOSS = Estimate(2.5, 2.49, 2.51, "nats", "ok", "")
T = 2**19


def words(analysis: Analysis) -> str:
    """The summary without its markup."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", summary(analysis)))


def only(report: Report, *, batch: Estimate, crit: Estimate, lr: Estimate = LR) -> Analysis:
    """One width and one budget of the planted analysis with these estimates of B* and B_crit."""
    return replace(
        report.analysis,
        cells=tuple(c for c in report.analysis.cells if (c.width, c.tokens) == (64, T)),
        best_batch=(BestBatch(64, T, batch, lr, LOSS, (512, 2048)),),
        critical_batch=(CriticalBatch("time_transfer_surge", T, crit),),
    )


def test_values_come_with_their_intervals(report: Report) -> None:
    text = words(only(report, batch=KNOWN, crit=KNOWN))
    assert "At T = 219 (524k tokens), use lr = 0.00780 [0.00710, 0.00850], B = 1.23k [900, 1.60k]" in text
    assert "Not identified: nothing; lr, B and Bcrit have intervals." in text


def test_a_lower_bound_of_b_crit_is_said_to_be_one(report: Report) -> None:
    text = words(only(report, batch=KNOWN, crit=AT_LEAST))
    assert "Not identified: Bcrit, surge form (≥ 5.00k, only a lower bound)." in text
    assert not re.search(r"Bcrit, surge form = ", text)


def test_a_bounded_best_batch_advises_what_was_tried_and_says_so(report: Report) -> None:
    text = words(only(report, batch=AT_MOST, crit=KNOWN, lr=UNKNOWN))
    assert "the lowest loss that was tried; the best batch is only bounded: B* ≤ 300" in text
    assert "Not identified: B* (≤ 300, only an upper bound)." in text


def test_an_unknown_best_batch_is_not_given_a_number(report: Report) -> None:
    text = words(only(report, batch=UNKNOWN, crit=UNKNOWN, lr=UNKNOWN))
    assert "the best batch itself is not identified" in text
    assert "Not identified: B*; Bcrit, surge form." in text
    assert "1.23k" not in text


@pytest.mark.parametrize(
    ("exponent", "said"),
    [
        (Estimate(1.0, 0.7, 1.3, "1", "ok", ""), "∝ Tα with α = 1.00 [0.70, 1.30] (from 9 points)"),
        (Estimate(None, 0.4, None, "1", "lower_bound", ""), "∝ Tα with α ≥ 0.40, a bound (from 9 points)"),
        (
            Estimate(None, None, None, "1", "not_identified", ""),
            "the growth exponent is not identified (from 9 points)",
        ),
    ],
)
def test_growth_is_said_as_it_is_known(report: Report, exponent: Estimate, said: str) -> None:
    law = Growth("batch_crit:time_transfer_surge", exponent, KNOWN, None, 9, 2.0**19)
    assert said in words(replace(report.analysis, growth=(law,)))


def test_an_ambiguous_form_is_said_to_be_ambiguous(report: Report) -> None:
    verdict = LrLawVerdict(None, "ambiguous", ("surge", "sqrt_saturation"), "within 2 of the lowest AICc")
    text = words(replace(report.analysis, lr_verdicts=(verdict,)))
    assert "Over all T: ambiguous between surge, √ saturation (within 2 of the lowest AICc)." in text


def test_every_warning_is_on_the_page(report: Report) -> None:
    warnings = tuple(f"Matter {i} at T=262144 & more." for i in range(20))
    text = words(replace(report.analysis, warnings=warnings))
    assert all(f"Matter {i} at T = 218 &amp; more." in text for i in range(20))


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (KNOWN, "1234 [900, 1600]"),
        (AT_LEAST, "≥ 5000"),
        (AT_MOST, "≤ 300"),
        (UNKNOWN, "not identified"),
        (Estimate(2.0, None, None, "", "ok", ""), "2.00 [no interval]"),
    ],
)
def test_estimates_as_text(estimate: Estimate, text: str) -> None:
    assert estimate_text(estimate) == text


def test_numbers_as_text() -> None:
    assert [plain(v) for v in (0.00781, 2.5e-5, -0.5, 0.0, 12345.6, float("nan"))] == [
        "0.00781",
        "2.50e−5",
        "−0.500",
        "0",
        "12346",
        "not a number",
    ]
    assert [compact(v) for v in (64, 2048, 262144, 999_999, 16.4e9)] == ["64", "2.05k", "262k", "1.00M", "16.4B"]
    assert [grid_count(v) for v in (2**18, 1000, 48)] == ["2<sup>18</sup>", "1.00k", "48"]
    assert hundredths(-0.001) == "0.00"
    assert prose("B_crit at T=262144 grows as N^0.5 < 1") == (
        "B<sub>crit</sub> at T = 2<sup>18</sup> grows as N<sup>0.5</sup> &lt; 1"
    )


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("sqrt", "consistent with the square-root rule"),
        ("linear", "consistent with the linear rule"),
        ("neither", "neither the square-root rule (1/2) nor the linear rule (1)"),
        ("cannot tell", "the grid cannot tell which rule holds"),
    ],
)
def test_the_scaling_rule_is_a_sentence(report: Report, verdict: RuleVerdict, said: str) -> None:
    slope = Estimate(0.48, 0.41, 0.55, "1", "ok", "")
    text = words(replace(report.analysis, scaling_rules=(ScalingRule("below", None, slope, verdict, 12),)))
    assert f"For B below B*, η* ∝ Bs with s = 0.48 [0.41, 0.55] (from 12 points): {said}" in text


@pytest.mark.parametrize(("p", "said"), [(0.41, "no difference between widths above the errors"), (0.01, "differ")])
def test_whether_the_width_matters_is_a_sentence(report: Report, p: float, said: str) -> None:
    test = Collapse("lr", p, Estimate(0.02, -0.05, 0.09, "1", "ok", ""), 36, 2)
    text = words(replace(report.analysis, collapse=(test,)))
    assert f"{said} (p = {plain(p)}), as Ne with e = 0.02 [−0.05, 0.09]" in text
