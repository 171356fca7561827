"""A review finds what is wrong with a report, each planted defect by the rule it breaks, and nothing in a sound one."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.growth import Bootstrap
from analysis.report import write_report
from analysis.review import examine, quoted_sentences, review
from analysis.review.document import read_page
from analysis.review.evidence import Evidence, gather, with_truth
from analysis.review.quoted_numbers import estimate, number
from configs.errors import ConfigError
from configs.rundir import Readout, Status, write_status
from launch.cli import main
from tests.planted import planted_table
from tests.report.test_facts import spoiled

T, B, N = 2**18, 2**13, 64
LAW = "batch_crit:time_transfer_surge"


def study_table() -> pd.DataFrame:
    """Two seeds and widths, diverged runs; an optimum at the edge at (N, T, B); the best batch of T at the edge."""
    table = planted_table(noise=0.002, seeds=(0, 1), diverge_above=2.2, best_batch=300.0, lrs=LRS)
    table = table[table["batch_tokens"] != 2**12]
    at = (table["width"] == N) & (table["tokens"] == T) & (table["batch_tokens"] == B)
    return table[~(at & (table["lr"] > 2**-9))].reset_index(drop=True)


LRS = tuple(2.0**k for k in range(-11, -4))


@dataclass
class Files:
    """What a defect may change."""

    html: str
    laws: dict[str, Any]
    table: pd.DataFrame
    data: dict[str, pd.DataFrame]
    plots: Callable[[Any], None] = lambda sections: None  # changes the plots of the page

    def put(self, old: str, new: str) -> None:
        """Replace the first place of a text that must be on the page."""
        assert old in self.html, old
        self.html = self.html.replace(old, new, 1)

    def cut(self, pattern: str, new: str = "") -> None:
        """The same by pattern."""
        self.html, count = re.subn(pattern, new, self.html, count=1, flags=re.S)
        assert count == 1, pattern

    def cell(self, width: int = N, tokens: int = T, batch: int = B) -> dict[str, Any]:
        return next(
            c for c in self.laws["cells"] if (c["width"], c["tokens"], c["batch_tokens"]) == (width, tokens, batch)
        )

    def growth(self, quantity: str = LAW) -> dict[str, Any]:
        return next(law for law in self.laws["growth"] if law["quantity"] == quantity)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = study_table()
    folder = tmp_path_factory.mktemp("study") / "report"
    write_report(table, analyse(table, bootstrap=Bootstrap(resamples=50)), folder)
    return folder


@pytest.fixture(scope="module")
def sound(written: Path) -> Evidence:
    return gather(written)


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    """The page without plotly.js."""
    return re.sub(r'(<script[^>]* id="plotly">).*?</script>', r"\1</script>", (written / "index.html").read_text())


def test_a_sound_report_has_no_findings(sound: Evidence) -> None:
    states = {cell["state"] for cell in sound.laws["cells"]}
    assert states == {"interior", "edge_high"}
    assert any(best["batch"]["status"] == "upper_bound" for best in sound.laws["best_batch"])
    assert examine(sound) == ()


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(spoiled(), id="spoiled"),
        pytest.param(planted_table(widths=(64,), budgets=(T,), batches=(2**10,), noise=0.002), id="one cell"),
        pytest.param(planted_table(widths=(64,), budgets=(300_000, 700_000), form="power", noise=4e-3), id="power law"),
        pytest.param(planted_table(lrs=LRS[:4], noise=1e-3), id="most optima at the edge"),
    ],
)
def test_a_report_that_tells_what_is_wrong_with_its_grid_is_sound(table: pd.DataFrame, tmp_path: Path) -> None:
    write_report(table, analyse(table, bootstrap=Bootstrap(resamples=20)), tmp_path)
    assert review(tmp_path) == ()


def test_steps_to_a_target_have_a_sound_report(tmp_path: Path) -> None:
    batch = 512 * 64 * 2 ** np.arange(9)
    parts = [
        pd.DataFrame({"batch_tokens": batch, "steps": least * (1 + crit / batch)}).assign(
            model=f"m{i}", target_loss=3.0 - 0.1 * i, n_params=1e8 * 4**i
        )
        for i, (least, crit) in enumerate([(1000.0, 1e6), (1500.0, 2e6), (2000.0, 4e6)])
    ]
    table = pd.concat(parts, ignore_index=True)
    write_report(table, analyse(table), tmp_path)
    assert review(tmp_path) == ()
    page = tmp_path / "index.html"
    quoted = re.search(r"<td>(\d\.\d\dM \[\d\.\d\dM, \d\.\d\dM\])", page.read_text())
    assert quoted is not None
    page.write_text(page.read_text().replace(quoted[1], "7.77M [7.70M, 7.80M]", 1))
    assert [found.rule for found in review(tmp_path)] == ["numbers"]


# --- defects: each changes a sound report in one way; (rule, words of the message)


def advice_number(files: Files) -> None:
    quoted = re.search(r"<strong class=\"num\">B = (\d{3})<", files.html)
    assert quoted is not None
    files.put(quoted[0], quoted[0].replace(quoted[1], "199"))


def advice_interval(files: Files) -> None:
    files.cut(r'(<strong class="num">lr = [\d.]+</strong>) <span class="num">[^<]*</span>', r"\1")


def advice_missing(files: Files) -> None:
    files.cut(r"<li><strong>At T = 2<sup>20</sup>.*?(?=</ul>\s*<h3>)")


def critical_number(files: Files) -> None:
    row = re.search(r"<tr><td>2<sup>20</sup> \(1\.05M\)<td>(\S+) ", files.html)
    assert row is not None
    files.put(row[0], row[0].replace(row[1], "9.99k"))


def critical_bound_as_value(files: Files) -> None:
    bound = re.search(r"<td>≤ (\d\S*) †", files.html)
    assert bound is not None
    files.put(bound[0], f"<td>{bound[1]} [1.00, {bound[1]}] †")


def definition_unnamed(files: Files) -> None:
    files.put('<th scope="col">B<sub>crit</sub>, hyperbola', '<th scope="col">B<sub>crit</sub>')


def definition_unexplained(files: Files) -> None:
    files.cut(r"<li><strong>B<sub>crit</sub>, hyperbola</strong>.*?</li>")


def series_unnamed(files: Files) -> None:
    data = files.data["critical-batch"]
    files.data["critical-batch"] = data.assign(series=data["series"].replace("hyperbola", "b_crit"))


def law_changed(files: Files) -> None:
    files.cell(batch=2**9)["lr"]["value"] *= 1.02


def law_and_page_changed(files: Files) -> None:
    files.growth()["exponent"] |= {"value": 0.5, "low": 0.45, "high": 0.55}
    files.cut(r'(surge form ∝ T<sup>α</sup> with α = <span class="num">)[^<]*', r"\g<1>0.50 [0.45, 0.55]")


def growth_points(files: Files) -> None:
    points = files.growth()["n_points"]
    files.put(f"(from {points} points)", f"(from {points + 30} points)")


def verdict_changed(files: Files) -> None:
    files.put("Over all T: <strong>surge</strong>", "Over all T: <strong>√ saturation</strong>")


def number_without_interval(files: Files) -> None:
    files.put("<h3>How they grow with T</h3>", "<p>In short, B<sub>crit</sub> = 1500.</p><h3>How they grow with T</h3>")


def number_from_nowhere(files: Files) -> None:
    files.put("<h3>How they grow with T</h3>", "<p>Earlier: α = 0.61 [0.58, 0.64].</p><h3>How they grow with T</h3>")


def loss_changed(files: Files) -> None:
    row = files.table["loss"].idxmin()
    files.table.loc[row, "loss"] -= 0.05


def finished_without_loss(files: Files) -> None:
    row = files.table.index[files.table["status"] == "finished"][5]
    files.table.loc[row, "loss"] = np.nan


def finished_count(files: Files) -> None:
    count = re.search(r"<dd>(\d+) finished", files.html)
    assert count is not None
    files.put(count[0], f"<dd>{int(count[1]) + 4} finished")


def unfinished_drawn(files: Files) -> None:
    data = files.data["loss-against-lr"]
    data.loc[data.index[data["kind"] == "run"][0], "status"] = "running"


def edge_in_laws(files: Files) -> None:
    cell = files.cell()
    assert cell["state"] == "edge_high"
    lr = cell["argmin_lr"]
    cell["state"], cell["lr"] = (
        "interior",
        cell["lr"] | {"value": lr, "low": lr / 1.1, "high": lr * 1.1, "status": "ok"},
    )


def edge_in_table(files: Files) -> None:
    cell = re.search(r"<td>edge, high<td>≥ (\S+?)<td>", files.html)
    assert cell is not None
    files.put(cell[0], f"<td>edge, high<td>{cell[1]} [0.0009, 0.0022]<td>")


def edge_in_data(files: Files) -> None:
    data = files.data["lr-against-tokens"]
    row = data.index[data["lr_status"] == "lower_bound"][0]
    low = data.loc[row, "lr_low"]
    data.loc[row, ["lr", "lr_high", "lr_status"]] = [low, low, "ok"]


def edge_as_mark(files: Files) -> None:
    def change(sections: Any) -> None:
        for trace in sections["lr-against-tokens"].plot["data"]:
            if trace.get("marker", {}).get("symbol") == "triangle-up-open":
                trace["marker"]["symbol"] = "circle"

    files.plots = change


def best_batch_at_the_edge(files: Files) -> None:
    best = next(b for b in files.laws["best_batch"] if b["batch"]["status"] == "upper_bound")
    best["batch"] |= {"value": 212.0, "low": 190.0, "high": 230.0, "status": "ok"}


def best_batch_at_the_edge_advised(files: Files) -> None:
    row = re.search(r"<td>2<sup>18</sup><td>≤ (\S+)<td>", files.html)
    assert row is not None
    files.put(row[0], "<td>2<sup>18</sup><td>212 [190, 230]<td>")


def seeds_unstated(files: Files) -> None:
    files.put("<dt>Seeds</dt><dd>0, 1</dd>", "")


def seeds_wrong(files: Files) -> None:
    files.put("<dt>Seeds</dt><dd>0, 1</dd>", "<dt>Seeds</dt><dd>0, 1, 2</dd>")


def level_unstated(files: Files) -> None:
    files.put("Brackets are 95 % intervals", "Brackets are intervals")


def mixed(column: str, value: object) -> Callable[[Files], None]:
    def defect(files: Files) -> None:
        files.table = files.table.assign(**{column: files.table[column].mask(files.table["seed"] == 1, value)})

    return defect


def condition_misstated(files: Files) -> None:
    files.put("fp32; ZeRO 1", "bf16; ZeRO 1")


def schedule_untitled(files: Files) -> None:
    files.put("Tuned learning rate against batch (constant schedule)", "Tuned learning rate against batch")


def axis(figure: str, **changed: object) -> Callable[[Files], None]:
    def change(sections: Any) -> None:
        layout = sections[figure].plot["layout"]
        layout["xaxis"] |= {name: value for name, value in changed.items() if name != "title"}
        if "title" in changed:
            layout["meta"]["titles"]["x"] = changed["title"]

    def defect(files: Files) -> None:
        files.plots = change

    return defect


def caveat_left_out(files: Files) -> None:
    files.cut(r"<li>\d+ runs diverged, in.*?</li>")


def cell_left_out(files: Files) -> None:
    files.cut(r"<tr><td>128<td>2<sup>19</sup><td>2<sup>9</sup><td>interior[^\n]*\n")


def mark_moved(files: Files) -> None:
    def change(sections: Any) -> None:
        trace = next(t for t in sections["loss-against-lr"].plot["data"] if len(t.get("x", ())) > 3)
        trace["y"][1] -= 0.01

    files.plots = change


def drawn_loss_changed(files: Files) -> None:
    data = files.data["loss-against-lr"]
    data.loc[data["kind"].eq("run").idxmax(), "loss"] += 0.01


def data_missing(files: Files) -> None:
    del files.data["sensitivity"]


def unit_of_the_summary(files: Files) -> None:
    files.put("B is in tokens per step", "B is per step")


def tokens_trained(files: Files) -> None:
    files.cut(r"<dd>\S+ in finished runs", "<dd>9.99B in finished runs")


DEFECTS: list[tuple[Callable[[Files], None], str, str]] = [
    (advice_number, "numbers", "says 199 ["),
    (advice_interval, "intervals", "has no interval"),
    (advice_missing, "complete", "no advice at T=1048576"),
    (critical_number, "numbers", "says 9.99k"),
    (critical_bound_as_value, "intervals", "it is only bounded from above"),
    (definition_unnamed, "definitions", "names no definition"),
    (definition_unexplained, "definitions", "is used, but not defined"),
    (series_unnamed, "definitions", "b_crit at T=262144 is no definition"),
    (law_changed, "numbers", "lr.value is"),
    (law_and_page_changed, "numbers", "exponent.value is 0.5; the run table gives"),
    (growth_points, "numbers", "points; they are"),
    (verdict_changed, "numbers", "the verdict is surge"),
    (number_without_interval, "intervals", "stands without an interval"),
    (number_from_nowhere, "numbers", "0.61 [0.58, 0.64] is no estimate"),
    (loss_changed, "numbers", "the run table has"),
    (finished_without_loss, "finished", "finished without a finite loss: planted"),
    (finished_count, "finished", "the run table has"),
    (unfinished_drawn, "finished", "1 runs are drawn that have not ended"),
    (edge_in_laws, "edge", "the edge of those tried"),
    (edge_in_table, "edge", "it is only bounded from below"),
    (edge_in_data, "edge", "given as a value; it is lower_bound"),
    (edge_as_mark, "numbers", "is not among its numbers"),
    (best_batch_at_the_edge, "edge", "B* is given, but the lowest loss is at B=256, the edge"),
    (best_batch_at_the_edge_advised, "edge", "it is only bounded from above"),
    (seeds_unstated, "seeds", "not stated"),
    (seeds_wrong, "seeds", "says 0, 1, 2; the run table has 0, 1"),
    (level_unstated, "intervals", "95 %"),
    (mixed("code_version", "abc"), "conditions", "code_version mixes abc, planted, and the page does not say so"),
    (mixed("zero_stage", 2), "conditions", "zero_stage mixes 1, 2, and the page does not say so"),
    (mixed("data_fingerprint", "f00"), "conditions", "data_fingerprint mixes f00, planted"),
    (mixed("precision", "bf16"), "conditions", "precision mixes bf16, fp32"),
    (mixed("schedule", "cosine"), "conditions", "schedule mixes constant, cosine"),
    (condition_misstated, "conditions", "says bf16; ZeRO 1; ranks 1; the run table has fp32"),
    (schedule_untitled, "conditions", "does not say the schedule"),
    (axis("lr-crit", title=""), "axes", "an x axis has no title"),
    (axis("lr-against-batch", title="batch B"), "axes", "'batch B' has no unit"),
    (axis("loss-against-lr", type="linear"), "axes", "'learning rate η (at base width)' is not log"),
    (unit_of_the_summary, "axes", "B is in tokens"),
    (caveat_left_out, "complete", "a caveat is left out"),
    (cell_left_out, "complete", "left out: N=128, T=524288, B=512"),
    (mark_moved, "numbers", "is not among its numbers"),
    (drawn_loss_changed, "numbers", "the run table has"),
    (data_missing, "complete", "data/sensitivity.csv is missing"),
    (tokens_trained, "numbers", "says 9.99B"),
]


@pytest.mark.parametrize(
    ("defect", "rule", "words"), DEFECTS, ids=[f"{i}-{d.__name__}" for i, (d, _, _) in enumerate(DEFECTS)]
)
def test_a_planted_defect_is_found(
    sound: Evidence, html: str, defect: Callable[[Files], None], rule: str, words: str
) -> None:
    files = Files(html, copy.deepcopy(sound.laws), sound.table.copy(), {k: v.copy() for k, v in sound.data.items()})
    defect(files)
    document = read_page(files.html)
    files.plots(document.sections)
    spoilt = replace(sound, document=document, laws=files.laws, table=files.table, data=files.data)
    if not files.table.equals(sound.table):
        spoilt = with_truth(replace(spoilt, truth=None))
    findings = examine(spoilt)
    errors = [found for found in findings if found.severity == "error"]
    assert any(found.rule == rule and words in found.message for found in errors), findings
    if files.table.equals(sound.table):  # what one place says wrongly is no reason to complain about everything
        assert len(errors) <= 4, findings


# --- whole reports, as files


def test_the_command_prints_findings_by_severity_and_fails_on_errors(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["review", str(written)]) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out
    table = pd.read_csv(written / "table.csv").assign(code_version="a1b2c3+changes")
    beside = written.parent / "other.csv"
    table.assign(seed=table["seed"] + 1).to_csv(beside, index=False)
    assert main(["review", str(written / "index.html"), "--table", str(beside)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith(("error", "warning"))] == ["error"] * 4 + [
        "warning"
    ]
    assert "  provenance, Seeds: says 0, 1; the run table has 1, 2" in lines


def test_runs_that_have_not_finished_are_found_in_their_own_directories(tmp_path: Path) -> None:
    """The report says finished, the run's status file says otherwise, or has another loss."""
    table = planted_table(widths=(64,), budgets=(T,), batches=(2**10,), noise=0.002)
    study = tmp_path / "study"
    for row in table.itertuples():
        readout = Readout(tokens=T, loss=row.loss, train_loss=None, rms={})
        (study / "runs" / str(row.run_id)).mkdir(parents=True)
        write_status(study / "runs" / str(row.run_id), Status(state="finished", tokens=T, readouts=(readout,)))
    (study / "manifest.jsonl").write_text("")
    write_report(table, analyse(table, bootstrap=Bootstrap(resamples=20)), study / "report")
    assert review(study) == ()
    first, second = (study / "runs" / str(table["run_id"][i]) for i in (0, 1))
    write_status(first, Status(state="running", tokens=T // 2))
    write_status(second, Status(state="finished", readouts=(Readout(tokens=T, loss=9.0, train_loss=None, rms={}),)))
    found = {(f.severity, f.rule, f.where): f.message for f in review(study)}
    assert found["error", "finished", f"run {first.name}"] == "counted as finished, but its status is running"
    assert "the run has 9" in found["error", "numbers", f"run {second.name}"]
    assert len(found) == 2
    (study / "manifest.jsonl").write_text('{"id": "0123456789ab"}\n')
    later = [f for f in review(study) if f.severity == "warning"]
    assert [(f.rule, f.message.partition(":")[0]) for f in later] == [("complete", "1 runs of the study are not in it")]


@pytest.mark.parametrize(
    ("missing", "message"),
    [("index.html", "no index.html there"), ("table.csv", "give the run table with --table"), ("laws.json", "missing")],
)
def test_what_is_no_report_is_refused_in_a_line(tmp_path: Path, missing: str, message: str) -> None:
    table = planted_table(widths=(64,), budgets=(T,), batches=(2**10,), noise=0.002)
    write_report(table, analyse(table, bootstrap=Bootstrap(resamples=20)), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=message):
        review(tmp_path)


def test_another_page_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<h1>hello</h1>")
    with pytest.raises(ConfigError, match="not a page of `bcrit report`"):
        review(tmp_path)


@pytest.mark.parametrize(
    ("text", "true", "other"),
    [
        ("0.00781", 0.0078125, 0.00782),
        ("−0.30", -0.304, -0.306),
        ("2.50e−5", 2.5004e-5, 2.51e-5),
        ("1.23k", 1234.0, 1236.0),
        ("2^18", 2.0**18, 2.0**18 + 1),
        ("2^−7.25", 2**-7.254, 2**-7.26),
        ("645", 645.4, 645.6),
    ],
)
def test_numbers_stand_for_what_rounds_to_them(text: str, true: float, other: float) -> None:
    quoted = number(text)
    assert quoted is not None
    assert quoted.stands_for(true)
    assert not quoted.stands_for(other)


@pytest.mark.parametrize("text", ["", "about 3", "3 nats", "[1, 2]", "2^"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert number(text) is None
    assert estimate(text) is None


def test_a_rate_that_is_not_identified_is_read_as_such():
    unknown = {"value": None, "low": None, "high": None, "unit": "", "status": "not_identified", "method": ""}
    cell = {"batch_tokens": 512, "lr": unknown, "argmin_loss": 3.0, "loss": unknown}
    said = "at N = 64: lr (not identified) with B = 2^9, the lowest loss that was tried; the best batch itself is not"
    assert not list(quoted_sentences._use(said, [], [cell], "summary"))
    known = cell | {"lr": unknown | {"value": 0.01, "low": 0.005, "high": 0.02, "status": "ok"}}
    (finding,) = quoted_sentences._use(said, [], [known], "summary")
    assert finding.severity == "error"
