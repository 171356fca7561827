"""Figures of `bcrit rules`: runs under each rule over tokens, how far they end from the reference, their statistics."""

from collections.abc import Callable, Sequence

import pandas as pd

from analysis.arms import REFERENCE, SVAG, Gap, Run
from analysis.figures import marks
from analysis.figures.colours import BLUE, GREEN, INK, MUTED, ORANGE, PINK, PURPLE, sequential, symbols
from analysis.figures.figure import BATCH_TITLE, Figure
from analysis.figures.frames import spread
from analysis.figures.panels import log2_axis, panels
from analysis.notation import estimate_text, nats

_COLOURS = (BLUE, ORANGE, GREEN, PINK, PURPLE, MUTED)
_TOKENS = "tokens"
NAMES = {
    "sqrt": "square-root rule",
    "half_life": "square-root rule by half-lives",
    "linear": "linear: lr × κ",
    "lr": "lr only: lr × √κ",
    "none": "none: the batch alone",
    "sign": "sign descent's rule",
    "adagrad": "Adagrad's rule",
    SVAG: "SVAG",
}
STATISTICS: tuple[tuple[str, str, Callable[[dict, Run], float | None]], ...] = (
    ("snr", "signal to noise |G|²B / tr Σ", lambda row, run: _over(run.batch_tokens, row.get("noise_scale"))),
    ("trace", "tr Σ of a token", lambda row, run: row.get("trace")),
    ("weights_norm", "norm of the weights", lambda row, run: row.get("weights_norm")),
    ("update_norm_per_token", "norm of an update, a token", lambda row, run: row.get("update_norm_per_token")),
)


def overlays(runs: Sequence[Run], schedule: str) -> Figure:
    """Training loss over tokens, a panel a rule: the reference and every factor, means over seeds."""
    rules = [rule for rule in dict.fromkeys(run.rule for run in runs) if rule != REFERENCE]
    data = _records(runs, "train", lambda row, run: row["loss"], "loss")
    plot = panels(
        [NAMES[rule] for rule in rules],
        2,
        x={"title": _TOKENS, "rangemode": "tozero"},
        y={"title": "training loss, nats"},
        height=290,
    )
    _curves(plot, data, [(rule, "loss") for rule in rules])
    caption = (
        "Means over seeds of the training loss between records, at equal tokens after the trunk. Black: the reference. "
        "A rule that holds puts its curves on the black one."
    )
    return Figure("rule-overlays", f"Runs under each rule against tokens ({schedule})", caption, data, plot)


def final_gaps(gaps: Sequence[Gap]) -> Figure:
    """Loss minus the reference's at the end, against the batch (or l)."""
    rules = list(dict.fromkeys(gap.rule for gap in gaps))
    svag = rules == [SVAG]
    records = [
        {"rule": gap.rule, "factor": gap.factor, "batch_tokens": gap.batch_tokens, "diverged": gap.n_diverged}
        | spread("gap", gap.gap)
        for gap in gaps
    ]
    data = pd.DataFrame(records).assign(x=lambda d: d["factor"] if svag else d["batch_tokens"])
    title = "l of SVAG" if svag else BATCH_TITLE
    plot = panels([""], 1, x=log2_axis(data["x"], title, finest=1), y={"title": "loss − reference, nats"}, height=380)
    edges = data["x"].min() * 2**-0.3, data["x"].max() * 2**0.3
    marks.curve(plot, 0, edges, (0.0, 0.0), name="reference", group="reference", colour=INK, dash="dot", legend=True)
    shapes = symbols(rules)
    for rule, colour, shift in zip(rules, _COLOURS, marks.shifts(len(rules)), strict=False):
        part = data[data["rule"] == rule].reset_index(drop=True)
        found = [gap for gap in gaps if gap.rule == rule]
        marks.measured(
            plot,
            0,
            part,
            "x",
            "gap",
            name=NAMES[rule],
            group=rule,
            colour=colour,
            symbol=shapes[rule],
            legend=True,
            shift=shift,
            hover=[f"{NAMES[rule]}, × {g.factor:g}<br>{estimate_text(g.gap, nats)} nats" for g in found],
        )
    caption = (
        "Validation loss at the end minus the reference's, pairs of one seed (same data, same order); bars are 95 % "
        "intervals, from the scatter of a rule's pairs. Marks are moved sideways a little. An arm with a diverged run "
        "is not drawn."
    )
    return Figure("rule-gaps", "How far runs end from the reference", caption, data, plot)


def statistics(runs: Sequence[Run], rule: str) -> Figure:
    """Signal to noise, trace of the covariance, norms of weights and updates over tokens, under one rule."""
    chosen = [run for run in runs if run.rule in (rule, REFERENCE)]
    parts = [_records(chosen, "noise", of, name) for name, _, of in STATISTICS]
    data = pd.concat(parts, ignore_index=True)
    title = f"The gradient's noise and the size of steps ({NAMES[rule]})"
    caption = (
        "Means over seeds. Signal to noise: |G|² over the variance of a batch's gradient, from moments averaged over "
        "tokens by themselves; below 1 (dotted) noise dominates, which the square-root rule asks for. Black: the "
        "reference."
    )
    if data.empty:
        return Figure("rule-statistics", title, caption, data, None, "Not drawn: the runs log no noise (log.noise).")
    plot = panels(
        [words for _, words, _ in STATISTICS],
        2,
        x={"title": _TOKENS, "rangemode": "tozero"},
        y=[{"title": words, "type": "log", "dtick": "D1"} for _, words, _ in STATISTICS],
        height=240,
        shared_y=False,
    )
    _curves(plot, data, [(rule, name) for name, _, _ in STATISTICS])
    ends = (data["tokens"].min(), data["tokens"].max())
    marks.curve(plot, 0, ends, (1.0, 1.0), name="noise = signal", group="one", colour=MUTED, dash="dot")
    return Figure("rule-statistics", title, caption, data, plot)


def _records(runs: Sequence[Run], kind: str, of: Callable[[dict, Run], float | None], name: str) -> pd.DataFrame:
    """Tidy: rule, factor, tokens, quantity, value, the mean over seeds."""
    rows = [
        (run.rule, run.factor, row["tokens"], name, value)
        for run in runs
        for row in run.records
        if row["kind"] == kind and (value := of(dict(row), run)) is not None
    ]
    frame = pd.DataFrame(rows, columns=pd.Index(["rule", "factor", "tokens", "quantity", "value"]))
    return frame.groupby(["rule", "factor", "tokens", "quantity"])["value"].mean().reset_index()


def _curves(plot, data: pd.DataFrame, wanted: Sequence[tuple[str, str]]) -> None:  # noqa: ANN001
    """In panel k the curves of the k-th (rule, quantity) and of the reference."""
    factors = sorted(data.loc[data["rule"] != REFERENCE, "factor"].unique())
    colour = sequential("batch", factors)
    for panel, (rule, quantity) in enumerate(wanted):
        here = data[data["quantity"] == quantity]
        for factor in factors:
            part = here[(here["rule"] == rule) & (here["factor"] == factor)]
            name = f"l = {factor:g}" if rule == SVAG else f"κ = {factor:g}"
            style = {"name": name, "group": name, "colour": colour[factor], "legend": panel == 0}
            marks.curve(plot, panel, part["tokens"], part["value"], **style)
        part = here[here["rule"] == REFERENCE]
        style = {"name": "reference", "group": "reference", "colour": INK, "legend": panel == 0}
        marks.curve(plot, panel, part["tokens"], part["value"], **style)


def _over(batch: float, noise_scale: float | None) -> float | None:
    return batch / noise_scale if noise_scale else None
