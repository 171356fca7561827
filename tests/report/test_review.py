"""A review finds what is wrong with a report, each planted defect by the rule it breaks, and nothing in a sound one."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from tests.report.planted_defects import DEFECTS, B, Files, N, T
from tests.report.test_facts import spoiled


def study_table() -> pd.DataFrame:
    """Two seeds and widths, diverged runs; an optimum at the edge at (N, T, B); the best batch of T at the edge."""
    table = planted_table(noise=0.002, seeds=(0, 1), diverge_above=2.2, best_batch=300.0, lrs=LRS)
    table = table[table["batch_tokens"] != 2**12]
    at = (table["width"] == N) & (table["tokens"] == T) & (table["batch_tokens"] == B)
    return table[~(at & (table["lr"] > 2**-9))].reset_index(drop=True)


LRS = tuple(2.0**k for k in range(-11, -4))


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
