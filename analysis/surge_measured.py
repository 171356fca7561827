"""A measurement of `bcrit surge` as numbers: what theory predicts from one checkpoint beside what steps from it did."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.console import written
from analysis.figures.frames import numeric, spread
from analysis.line_search import Measured, Search, form_of, measure
from analysis.results import Estimate, LrLaw, LrLawVerdict
from analysis.surge_prediction import Prediction, Sums, predict_surge
from configs.rundir import read_json, write_atomic, write_json

FILE = "measured.json"  # what train.surge_checkpoint writes: sums over blocks, and losses after steps


@dataclass(frozen=True)
class Surge:
    """One checkpoint. `about`: run_id, tokens, width, lr and batch_tokens of the run, and how it was sampled."""

    about: dict[str, Any]
    prediction: Prediction
    measured: Measured
    forms: tuple[LrLaw, ...]  # of eta*(B), fitted to the line search's
    verdict: LrLawVerdict


def read_surge(file: Path) -> Surge:
    """The estimates from a file of sums and steps."""
    content = read_json(file)
    steps, about = content["steps"], content["about"]
    sums = content["sums"] | {
        "signs_along": [row["along"] for row in steps],
        "signs_bend": [row["bend"] for row in steps],
    }
    arrays = Sums(*(np.array(sums[name], float) for name in Sums._fields))
    prediction = predict_surge(arrays, content["seq_len"], about["block_seqs"])
    searches = [Search(row["batch_tokens"], np.array(row["lr"]), np.array(row["drop"])) for row in steps]
    return Surge(about, prediction, measure(searches, prediction.holds_to.value), *form_of(searches, about["tokens"]))


def surges_of(study_dir: Path) -> tuple[Surge, ...]:
    """What was measured at the checkpoints of a study's runs, by width and tokens; empty where nothing was."""
    found = [read_surge(file) for file in sorted(study_dir.glob(f"runs/*/surge/*/{FILE}"))]
    return tuple(sorted(found, key=lambda surge: (surge.about["width"], surge.about["tokens"], surge.about["run_id"])))


def sentence(surge: Surge) -> str:
    """Predicted against measured B_noise, with intervals, in tokens and sequences."""
    p, m = surge.prediction, surge.measured
    return (
        f"predicted B_noise {_both(p.batch_noise, p.seq_len)} by Theorem 3, which takes the signs of coordinates for "
        f"independent, and {_both(p.signs_noise[1], p.seq_len)} with the signs as they are (Lemma 1); measured by line "
        f"search {_both(m.noise_from_drop, p.seq_len)}"
    )


def lines(surge: Surge) -> Iterator[str]:
    """What `bcrit surge` prints: two lines a batch, the scales, the sentence."""
    p, m = surge.prediction, surge.measured
    yield "lr* by Theorem 2 | Lemma 1, signs as they are | line search, and loss drops in nats; 95 % intervals"
    for point, step in zip(p.curve, m.steps, strict=True):
        rates = " | ".join(written(e, "{:.3g}") for e in (point.lr, point.lr_signs, step.lr))
        drops = " | ".join(written(e, "{:.3g}") for e in (point.loss_drop, point.drop_signs, step.loss_drop))
        where = f"B = {point.batch_tokens:,.0f} tokens ({point.batch_tokens / p.seq_len:,.0f} sequences)"
        yield f"{where}: lr* {rates}; drop {drops}"
        yield (
            f"  signs of two batches agree by {written(point.agreed, '{:.3g}')}, by mu and sigma "
            f"{written(point.expected, '{:.3g}')}; bend x{written(point.bend_factor, '{:.3g}')}"
        )
    yield from scales(surge)
    yield sentence(surge)


def scales(surge: Surge) -> Iterator[str]:
    """What does not go with one batch, as sentences."""
    p, m = surge.prediction, surge.measured
    yield f"validity bound pi sigma^2 / (2 mu^2), of the mean square mu / sigma: {_both(p.bound, p.seq_len)}"
    yield f"Theorem 3 holds within 10 % up to {_both(p.holds_to, p.seq_len)}"
    yield f"lr_max {written(p.lr_max, '{:.3g}')}, largest drop {written(p.drop_max, '{:.3g}')} nats (Theorems 3, 5)"
    yield f"gradient noise scale tr Sigma / |G|^2: {_both(p.noise_scale, p.seq_len)}"
    yield (
        f"B_noise from where lr*(B) bends instead of the drop: {_both(p.signs_noise[0], p.seq_len)} with the signs as "
        f"they are, {_both(m.noise_from_lr, p.seq_len)} by line search"
    )
    aicc = {law.form: law.aicc for law in surge.forms if law.aicc is not None}
    behind = ", ".join(f"{form} {aicc[form] - min(aicc.values()):.1f}" for form in sorted(aicc, key=aicc.__getitem__))
    yield f"form of lr*(B) by line search: {surge.verdict.verdict}; AICc above the lowest: {behind or 'unknown'}"


def curve(surge: Surge) -> pd.DataFrame:
    """A row a batch and kind: theorem_2, lemma_1, line_search (whose `signs` are those of lemma_1 and left out)."""
    nothing = Estimate(None, None, None, "1", "not_identified", "")
    about = {name: surge.about[name] for name in ("run_id", "width", "tokens")}
    records = [
        {"kind": kind, **about, "batch_tokens": point.batch_tokens}
        | {"batch_seqs": point.batch_tokens / surge.prediction.seq_len}
        | spread("lr", lr)
        | spread("loss_drop", drop)
        | spread("signs", signs)
        for point, step in zip(surge.prediction.curve, surge.measured.steps, strict=True)
        for kind, lr, drop, signs in (
            ("theorem_2", point.lr, point.loss_drop, point.expected),
            ("lemma_1", point.lr_signs, point.drop_signs, point.agreed),
            ("line_search", step.lr, step.loss_drop, nothing),
        )
    ]
    return numeric(records, records[0])


def write_surge(surge: Surge, out_dir: Path) -> tuple[Path, Path]:
    """Write surge.json and curve.csv, each atomically; return their paths."""
    numbers, csv = out_dir / "surge.json", out_dir / "curve.csv"
    content = asdict(surge) | {"sentence": sentence(surge)}
    write_json(numbers, content)
    write_atomic(csv, curve(surge).to_csv(index=False))
    return numbers, csv


def _both(estimate: Estimate, seq_len: int) -> str:
    """An estimate in tokens, and its value or bound in sequences."""
    if estimate.status == "not_identified":
        return "not identified"
    value = estimate.value if estimate.value is not None else estimate.low if estimate.high is None else estimate.high
    return f"{written(estimate, '{:,.0f}')} tokens ({(value or 0.0) / seq_len:,.3g} sequences)"
