"""The page of `bcrit rules`: did the rule hold, by how much better than its alternatives, and did noise dominate?"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.arms import REFERENCE, SVAG, Distance, Gap, Run, distances, gaps, own_rule_of
from analysis.branched import branched_batches
from analysis.console import written
from analysis.figures.figure import schedule_of
from analysis.figures.rules import NAMES, final_gaps, overlays, statistics
from analysis.noise_scale import Moments, pooled_scale
from analysis.report.checks import write_page
from analysis.report.html import bullets, html_table
from analysis.results import Estimate
from analysis.surge_measured import Surge, sentence
from configs.moments import half_life_tokens
from configs.rundir import write_atomic

NO_LOSS = 0.01  # nats, of Merrill et al.: the rule loses nothing up to here


def rule_verdict(found: Sequence[Distance]) -> str:
    """Which alternatives the first of the distances, the study's own rule, held better than, with the numbers."""
    own, *others = found
    name = NAMES[own.rule]
    text = f"Runs under the {name} end {_nats(own.distance)} from the reference, the mean over batches"
    if own.distance.value is None:
        return f"{text}: {own.distance.method}"
    if not others:
        return text
    sides: dict[str, list[str]] = {"it held better than": [], "it held worse than": [], "it is not told apart from": []}
    for other in others:
        words = f"{NAMES[other.rule].partition(':')[0]} ({_nats(other.distance)})"
        low, high = other.behind.low, other.behind.high
        if other.behind.value is None:
            sides["it held better than"].append(f"{NAMES[other.rule].partition(':')[0]} ({other.behind.method})")
        elif low is None or high is None or low <= 0 <= high:
            sides["it is not told apart from"].append(words)
        else:
            sides["it held better than" if low > 0 else "it held worse than"].append(words)
    return "; ".join([text, *(f"{side} {', '.join(who)}" for side, who in sides.items() if who)])


def below_noise(runs: Sequence[Run]) -> str:
    """The verdict over the batches below the reference's noise scale, where the rule is meant to hold; may be empty."""
    scale, own = noise_scale(runs), own_rule_of(runs)
    if scale is None or scale.value is None or own == SVAG:
        return ""
    below = [run for run in runs if run.rule == REFERENCE or run.batch_tokens < scale.value]
    batches = sorted({run.batch_tokens for run in below if run.rule != REFERENCE})
    if not batches or len(below) == len(runs):
        return ""
    return f"Where noise dominates, at B up to {batches[-1]:,} tokens: {rule_verdict(distances(below, own))}"


def svag_verdict(found: Sequence[Gap]) -> str:
    """Whether runs with more noise and smaller steps end where the optimizer does."""
    parts = "; ".join(f"l = {gap.factor:g}: {written(gap.gap, '{:+.4f}')} nats" for gap in found)
    ends = [(gap.gap.low, gap.gap.high) for gap in found if gap.gap.low is not None and gap.gap.high is not None]
    if len(ends) < len(found):
        return f"Without intervals (one seed, or diverged runs) nothing can be said of the SDE: {parts}"
    if all(low <= 0 <= high for low, high in ends):
        reach = max(max(abs(low), abs(high)) for low, high in ends)
        return f"No run is told apart from the optimizer's, to within {reach:.4f} nats, as the SDE wants it: {parts}"
    return f"Runs end elsewhere than the optimizer's, so the SDE does not describe it here to this accuracy: {parts}"


def noise_lines(table: pd.DataFrame, runs: Sequence[Run], surges: Sequence[Surge]) -> list[str]:
    """B_noise by every means that the study has, and the batch up to which the study's own rule loses nothing."""
    lines, own = [], own_rule_of(runs)
    if (scale := noise_scale(runs)) is not None:
        seen = {row["of"] for run in runs for row in run.records if row["kind"] == "noise"}
        of = "gradients of all parameters" if seen == {"gradients"} else "the norms' gains"
        lines.append(
            f"Gradient noise scale of the reference at the end, tr Σ/|G|² of {of}: {written(scale, '{:,.0f}')} tokens"
        )
    if own != SVAG:
        held = _held(gaps(runs), own)
        lines.append(f"The {NAMES[own]} {held}")
    lines += [
        f"Branched critical batch at {crit.tokens:,} tokens, the best rule of each batch (Merrill et al.): "
        f"{written(crit.batch, '{:,.0f}')} tokens"
        for crit in branched_batches(table)
    ]
    lines += [f"Surge at {s.about['tokens']:,} tokens of run {s.about['run_id']}: {sentence(s)}" for s in surges]
    return lines


def noise_scale(runs: Sequence[Run]) -> Estimate | None:
    """The gradient noise scale of the reference at its end, tokens, over all seeds; None where it was not logged."""
    found = []
    for run in (run for run in runs if run.rule == REFERENCE):
        rows = [row for row in run.records if row["kind"] == "noise"]
        columns = (np.array([row[name] for row in rows], float) for name in ("tokens", "mean_sq", "trace"))
        tokens, *moments = columns
        if rows:
            found.append((tokens, Moments(*moments)))
    if not found:
        return None
    return pooled_scale(found, half_life_tokens(runs[0].tokens - runs[0].start_tokens), start=runs[0].start_tokens)


def write_rules(
    table: pd.DataFrame, runs: Sequence[Run], surges: Sequence[Surge], heading: str, out_dir: Path
) -> tuple[Path, list[str]]:
    """Write `out_dir`/index.html, rules.json and data/; return the page and the sentences that it begins with."""
    own, found = own_rule_of(runs), gaps(runs)
    apart = () if own == SVAG else distances(runs, own)
    verdicts = [svag_verdict(found)] if own == SVAG else [rule_verdict(apart), below_noise(runs)]
    said = [*filter(None, verdicts), *noise_lines(table, runs, surges)]
    rows = [
        (escape(NAMES[g.rule]), f"{g.factor:g}", f"{g.batch_tokens:,}", written(g.gap, "{:+.4f}"), str(g.n_diverged))
        for g in found
    ]
    head = ("rule", "κ or l", "B, tokens", "loss − reference, nats", "diverged")
    body = bullets(map(escape, said)) + html_table(head, rows, "Gaps at the end")
    content = {"said": said, "gaps": [asdict(gap) for gap in found], "distances": [asdict(d) for d in apart]}
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(out_dir / "rules.json", json.dumps(content, indent=1, allow_nan=False))
    figures = (overlays(runs, schedule_of(table)), final_gaps(found), statistics(runs, own))
    return write_page(out_dir, "bcrit rules", heading, escape(said[0]) + ".", figures, body, "rules.json"), said


def _held(found: Sequence[Gap], own: str) -> str:
    """Up to which batch the rule is not seen to lose anything: a gap's interval reaches down to NO_LOSS."""
    arms = sorted((gap for gap in found if gap.rule == own), key=lambda gap: gap.factor)
    lowest = {gap.factor: gap.gap.low if gap.gap.low is not None else gap.gap.value for gap in arms}
    fails = next((gap for gap in arms if (low := lowest[gap.factor]) is None or low > NO_LOSS), None)
    if fails is None:
        return (
            f"is not seen to lose more than {NO_LOSS} nats at any batch tried, up to {arms[-1].batch_tokens:,} tokens"
        )
    below = [gap.batch_tokens for gap in arms if gap.factor < fails.factor]
    if not below:
        return f"loses more than {NO_LOSS} nats at every batch tried, from {fails.batch_tokens:,} tokens on"
    return f"is not seen to lose more than {NO_LOSS} nats up to {below[-1]:,} tokens; at {fails.batch_tokens:,} it does"


def _nats(estimate: Estimate) -> str:
    return f"{written(estimate, '{:.4f}')} nats"
