"""What `bcrit surge` says and draws of a measurement: here of planted steps on a quadratic."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.figures.surge import surge_at_checkpoints
from analysis.report import write_report
from analysis.report.surge import write_surge_page
from analysis.surge_measured import FILE, curve, lines, read_surge, sentence, surges_of, write_surge
from analysis.surge_prediction import Sums
from analysis.surge_theory import sign_scales
from tests.analysis.test_line_search import search
from tests.analysis.test_surge_prediction import BATCHES, BLOCK, BLOCKS, SEQ_LEN, sums, toy
from tests.planted import planted_table


def measurement(tokens: int = 2**15, strength: float = 0.01) -> dict:
    """The content of measured.json for the toy."""
    q = toy(strength)
    found = sums(q, 1)
    steps = []
    for b, batch in enumerate(BATCHES):
        searched = search(q, 5, batch, blocks=BLOCKS)
        steps.append(
            {
                "batch_tokens": searched.batch_tokens,
                "along": found.signs_along[b].tolist(),
                "bend": found.signs_bend[b].tolist(),
                "lr": searched.lr.tolist(),
                "drop": searched.drop.tolist(),
            }
        )
    return {
        "about": {"run_id": "0123456789ab", "tokens": tokens, "width": 64, "lr": 1e-3, "batch_tokens": 2048}
        | {"blocks": BLOCKS, "block_seqs": BLOCK},
        "seq_len": SEQ_LEN,
        "sums": {name: getattr(found, name).tolist() for name in Sums._fields if not name.startswith("signs_")},
        "steps": steps,
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("surge") / FILE
    path.write_text(json.dumps(measurement()))
    return path


def test_the_sentence_has_what_was_planted(file):
    surge = read_surge(file)
    noise = sign_scales(*toy()).batch_noise * SEQ_LEN
    text = sentence(surge)
    assert surge.prediction.batch_noise.value == pytest.approx(noise, rel=0.35)
    assert f"{surge.prediction.batch_noise.value:,.0f} [" in text
    assert f"({surge.prediction.batch_noise.value / SEQ_LEN:.3g} sequences)" in text
    assert "measured by line search" in text
    assert "None" not in "".join(lines(surge))


def test_files_hold_every_number_and_its_interval(file, tmp_path):
    surge = read_surge(file)
    numbers, csv = write_surge(surge, tmp_path)
    content = json.loads(numbers.read_text())
    assert content["prediction"]["batch_noise"]["unit"] == "tokens"
    assert content["prediction"]["batch_noise"]["value"] == surge.prediction.batch_noise.value
    assert content["sentence"] == sentence(surge)
    table = pd.read_csv(csv)
    assert len(table) == 3 * len(BATCHES)
    assert (table["batch_tokens"] == SEQ_LEN * table["batch_seqs"]).all()
    theory = table[table["kind"] == "theorem_2"]
    assert (theory["lr_low"] < theory["lr"]).all()
    assert (theory["lr"] < theory["lr_high"]).all()
    page = write_surge_page(surge, tmp_path).read_text()
    assert "surge-checkpoint" in page
    assert "B<sub>noise</sub>" in page


def test_the_figure_marks_both_noise_batches(file):
    surge = read_surge(file)
    figure = surge_at_checkpoints([surge])
    assert figure.plot is not None
    uprights = [trace for trace in figure.plot.data if "noise" in str(trace.text) and trace.mode == "lines"]
    drawn = {float(trace.x[0]) for trace in uprights}
    found = (surge.prediction.batch_noise, surge.prediction.signs_noise[1], surge.measured.noise_from_drop)
    assert drawn == {noise.value for noise in found if noise.value is not None}
    assert surge.prediction.batch_noise.value in drawn


def test_a_report_has_the_figure_where_something_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.figures.surge.MOST", 1)
    study = tmp_path / "study"
    for tokens in (2**10, 2**11):
        where = study / "runs" / "0123456789ab" / "surge" / f"{tokens:015d}"
        where.mkdir(parents=True)
        (where / FILE).write_text(json.dumps(measurement(tokens)))
    table = planted_table(widths=(64,), budgets=(2**18,), noise=0.002)
    analysis = analyse(table)
    page = write_report(table, analysis, tmp_path / "with", surges_of(study))
    assert "surge-checkpoint" in page.read_text()
    assert "1 more are in the data" in page.read_text()
    data = pd.read_csv(page.parent / "data" / "surge-checkpoint.csv")
    assert data["tokens"].nunique() == 2
    assert "surge-checkpoint" not in write_report(table, analysis, tmp_path / "without").read_text()


def test_a_measurement_without_a_signal_is_drawn_as_far_as_it_goes(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(measurement(strength=1e-5)))
    surge = read_surge(tmp_path / FILE)
    assert "not identified" in sentence(surge)
    assert np.isnan(curve(surge)["lr"]).any()
    write_surge(surge, tmp_path)
    assert "no meaning" in write_surge_page(surge, tmp_path).read_text()
