"""The page and the files beside it."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.growth import Bootstrap
from analysis.report import write_report
from tests.planted import planted_table
from tests.report.conftest import Report, make_report
from tests.report.test_figures import contrast

FIGURES = (
    "lr-against-tokens",
    "lr-against-batch",
    "critical-batch",
    "lr-crit",
    "loss-against-lr",
    "sensitivity",
    "loss-against-batch",
    "coordinate-check",
    "width-transfer",
)
MOST_BYTES = 3_000_000


def test_every_figure_is_on_the_page_in_order(report: Report) -> None:
    assert tuple(re.findall(r'<figure id="([\w-]+)" data-drawn', report.html)) == FIGURES
    assert report.html.count("(constant schedule)</h3>") == len(FIGURES)


def test_no_request_leaves_the_page(report: Report) -> None:
    readable = re.sub(r'<script type="text/plain"[^>]*>.*?</script>', "", report.html, flags=re.S)
    assert not re.search(r"https?:|//\w+\.|\bfetch\(|XMLHttpRequest|@import|\burl\(", readable)
    links = set(re.findall(r'(?:href|src)="([^"]+)"', readable))
    assert links - {"laws.json", "table.csv", "data:,"} == {f"data/{name}.csv" for name in FIGURES} | {
        f"#{anchor}" for anchor in ("summary", "provenance", "figures", "tables", "definitions")
    }
    assert "default-src 'none'" in readable


def test_every_link_leads_somewhere(report: Report) -> None:
    for target in re.findall(r'href="([^"#]+\.(?:csv|json))"', report.html):
        assert (report.page.parent / target).is_file()
    for anchor in re.findall(r'href="#([\w-]+)"', report.html):
        assert f'id="{anchor}"' in report.html


def test_the_page_of_500_runs_is_small(tmp_path) -> None:
    """At three budgets; ids as the launcher makes them, which do not compress."""
    table = planted_table(widths=(64, 128, 256), seeds=(0, 1, 2), noise=0.004, diverge_above=3.2)
    ids = {name: hashlib.sha256(name.encode()).hexdigest()[:12] for name in table["run_id"].unique()}
    assert len(ids) == 486
    table["run_id"] = table["run_id"].map(ids)
    page = write_report(table, analyse(table, bootstrap=Bootstrap(resamples=5)), tmp_path)
    assert page.stat().st_size < MOST_BYTES


def colours(css: str) -> dict[str, dict[str, str]]:
    """The variables of the light page, of the dark one and on paper."""
    found = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    return {"light": found[0], "dark": found[0] | found[1], "paper": found[0] | found[2]}


@pytest.mark.parametrize("page", ["light", "dark", "paper"])
def test_all_text_stands_out(report: Report, page: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1, on the page and on tinted ground."""
    tones = {name: full(tone) for name, tone in colours(report.html)[page].items()}
    for text in ("ink", "muted", "link", "warn"):
        for ground in ("paper", "tint"):
            assert contrast(tones[text], tones[ground]) >= 4.5, (text, ground)


def full(colour: str) -> str:
    return colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])


def test_every_drawn_figure_has_a_text_and_can_be_reached(report: Report) -> None:
    plots = re.findall(r'<div class="plot" tabindex="0"[^>]* aria-label="([^"]+)">', report.html)
    assert len(plots) == len(FIGURES)
    assert all(len(text) > 80 and "<" not in text for text in plots)
    assert report.html.count("data-svg hidden") == len(FIGURES)


def test_the_choices_are_those_of_the_table(report: Report, small_report: Report) -> None:
    chosen = re.findall(r'<select name="(\w+)">(.*?)</select>', report.html)
    values = {name: re.findall(r'value="(\w*)"', options) for name, options in chosen}
    assert values["N"] == ["", "64", "128"]
    assert values["T"] == ["", "262144", "524288", "1048576"]
    assert "2¹⁸</option>" in dict(chosen)["T"]
    assert set(values["definition"]) - {""} == {crit.definition for crit in report.analysis.critical_batch}
    assert "<select" not in small_report.html


def test_nothing_half_written_stays_and_a_second_report_replaces_the_first(small_report: Report) -> None:
    before = small_report.html
    write_report(small_report.table, small_report.analysis, small_report.page.parent)
    assert small_report.html == before
    names = {path.name for path in small_report.page.parent.rglob("*") if path.is_file()}
    assert names == {"index.html", "laws.json", "table.csv"} | {f"{name}.csv" for name in FIGURES}


def test_laws_json_holds_the_analysis(report: Report) -> None:
    laws = json.loads((report.page.parent / "laws.json").read_text())
    assert len(laws["cells"]) == len(report.analysis.cells)
    assert laws["cells"][0]["lr"]["value"] == report.analysis.cells[0].lr.value


def test_the_drawn_runs_are_the_table(report: Report) -> None:
    key = ["width", "tokens", "batch_tokens", "lr", "seed"]
    drawn = report.csv("loss-against-lr").query("kind == 'run'")
    both = report.table.merge(drawn, on=key, suffixes=("", "_drawn"), validate="one_to_one")
    assert len(both) == len(report.table)
    np.testing.assert_array_equal(both["loss"], both["loss_drawn"])


@pytest.mark.parametrize(
    ("figure", "column", "kind"), [("lr-against-tokens", "lr", None), ("lr-against-batch", "lr", "cell")]
)
def test_the_drawn_optima_are_the_analysis(report: Report, figure: str, column: str, kind: str | None) -> None:
    drawn = report.csv(figure)
    drawn = drawn if kind is None else drawn[drawn["kind"] == kind]
    rows = drawn.set_index(["width", "tokens", "batch_tokens"])
    assert len(rows) == len(report.analysis.cells)
    for cell in report.analysis.cells:
        row = rows.loc[(cell.width, cell.tokens, cell.batch_tokens)]
        ends = [np.nan if end is None else end for end in (cell.lr.value, cell.lr.low, cell.lr.high)]
        np.testing.assert_array_equal(row[[column, f"{column}_low", f"{column}_high"]].astype(float), ends)


def test_the_drawn_batches_are_the_analysis(report: Report) -> None:
    drawn = report.csv("critical-batch")
    crits = drawn[drawn["kind"] == "batch_crit"].set_index(["series", "tokens"])
    assert len(crits) == len(report.analysis.critical_batch)
    for crit in report.analysis.critical_batch:
        row = crits.loc[(crit.definition, crit.tokens)]
        assert row["batch_status"] == crit.batch.status
        assert crit.batch.value is None or row["batch"] == crit.batch.value


def test_what_cannot_be_drawn_says_why_in_its_place(small_report: Report) -> None:
    html = small_report.html
    assert re.findall(r'<figure id="([\w-]+)" data-drawn', html) == ["loss-against-lr"]
    reasons = re.findall(r'<figure id="([\w-]+)"><h3>[^<]*</h3><p class="undrawn">Not drawn: ([^\n]+?)</p>', html)
    assert {name for name, _ in reasons} == set(FIGURES) - {"loss-against-lr"}
    assert dict(reasons)["width-transfer"] == "it compares widths, and the table has one."
    for name in FIGURES:
        assert (small_report.page.parent / "data" / f"{name}.csv").is_file()


def test_runs_that_have_not_ended_are_counted_not_drawn(tmp_path) -> None:
    table = planted_table(widths=(64,), budgets=(2**18,), batches=(2**10,), noise=0.002)
    waiting = table.iloc[:2].assign(status="pending", loss=np.nan, lr=1.0, run_id=["a", "b"])
    report = make_report(pd.concat([table, waiting], ignore_index=True), tmp_path)
    assert "9 finished, 0 diverged, 2 pending (not analysed)" in report.html
    assert report.csv("loss-against-lr")["lr"].max() < 1.0


def test_a_table_of_five_columns_is_enough(tmp_path) -> None:
    table = planted_table(batches=(2**9, 2**10, 2**11, 2**12), noise=0.002)
    report = make_report(table[["width", "tokens", "batch_tokens", "lr", "loss"]], tmp_path)
    assert "(schedule not recorded)" in report.html
    assert "<dt>Seeds</dt><dd>not recorded</dd>" in report.html
    assert "Not drawn: the table has no rms_* columns." in report.html
    assert report.html.count("data-drawn class") == len(FIGURES) - 1


def test_names_from_outside_are_escaped(small_report: Report, tmp_path) -> None:
    table = small_report.table.assign(study="<script>alert(1)</script>", code_version='"><b>')
    page = write_report(table, small_report.analysis, tmp_path).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_table_of_steps_has_a_page_of_its_own(tmp_path) -> None:
    batch = 512 * 64 * 2 ** np.arange(9)
    parts = [
        pd.DataFrame({"batch_tokens": batch, "steps": smallest * (1 + crit / batch)}).assign(
            model=f"m{i}", target_loss=3.0 - 0.1 * i, n_params=1e8 * 4**i
        )
        for i, (smallest, crit) in enumerate([(1000.0, 1e6), (1500.0, 2e6), (2000.0, 4e6)])
    ]
    page = make_report(pd.concat(parts), tmp_path / "report")
    assert re.findall(r'<figure id="([\w-]+)" data-drawn', page.html) == ["tokens-against-batch", "critical-batch"]
    for anchor in re.findall(r'href="#([\w-]+)"', page.html):
        assert f'id="{anchor}"' in page.html
    crits = page.csv("critical-batch").query("series == 'hyperbola' and kind == 'batch_crit'")
    np.testing.assert_allclose(crits["batch"], [1e6, 2e6, 4e6], rtol=1e-5)
    measured = page.csv("tokens-against-batch").query("kind == 'measured'")
    assert len(measured) == 27
    assert "(parameters)<sup>α</sup> with α = " in page.html


def test_definitions_have_their_factor_to_the_hyperbola(report: Report) -> None:
    drawn = report.csv("critical-batch").query("kind == 'batch_crit'")
    hyperbola = drawn[drawn["series"] == "hyperbola"].set_index("tokens")["batch"]
    for _, row in drawn[drawn["tokens"].isin(hyperbola.dropna().index) & drawn["batch"].notna()].iterrows():
        assert row["factor"] == pytest.approx(row["batch"] / hyperbola[row["tokens"]])
    assert ">factor<" in report.html
