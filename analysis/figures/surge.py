"""Figure of `bcrit surge`: how far signs agree, the best rate and the loss drop of one step, predicted and measured."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import marks
from analysis.figures.colours import BLUE, GREEN, ORANGE
from analysis.figures.figure import BATCH_TITLE, Figure
from analysis.figures.frames import extent, known, rows, words
from analysis.figures.panels import log2_axis, panels, place
from analysis.notation import grid_count
from analysis.results import Estimate
from analysis.surge_measured import Surge, curve, sentence

MOST = 6  # checkpoints that are drawn
_LOOK = {
    "theorem_2": ("Theorem 2: μ and σ, coordinates independent", BLUE, "circle", "dot"),
    "lemma_1": ("signs as they are, quadratic loss", GREEN, "diamond", "dash"),
    "line_search": ("line search: the loss itself", ORANGE, "square", "solid"),
}


def surge_at_checkpoints(surges: Sequence[Surge]) -> Figure:
    """A row of three panels a checkpoint; of many, the last ones by width and tokens."""
    data = pd.concat([curve(surge) for surge in surges], ignore_index=True)
    shown = list(surges[-MOST:])
    caption = (
        "One step θ − η sign(g) from a checkpoint, at batch B. Left: how far the signs of two batches agree (0 by "
        "chance, 1 always), as measured and as erf(√(B/2) μ/σ)² has it. Middle: the best η, at base width. Right: the "
        "loss drop at it. Dotted blue: theory from μ, σ and the Hessian, coordinates Gaussian and independent (Surge, "
        "arXiv:2405.14578, Theorem 2). Dashed green: the signs as they are, with the Hessian (Lemma 1). Orange: the "
        "loss itself. Upright lines: B<sub>noise</sub> by Theorem 3, by where the drop of real signs bends, and by "
        "where that of the line search does. Bars are 95 % intervals. "
        + " ".join(f"{_name(surge)}: {sentence(surge).replace('B_noise', 'B<sub>noise</sub>')}." for surge in shown)
    )
    caption += "" if len(shown) == len(surges) else f" {len(surges) - len(shown)} more are in the data."
    noises = {id(surge): _noises(surge) for surge in shown}
    batches = [*data["batch_tokens"], *(e.value for found in noises.values() for e in found.values() if e.value)]
    ys = [
        {"title": "agreement of signs", "range": [-0.03, 1.03]},
        log2_axis([v for part in _parts(data, "lr") for v in extent(part, "lr")], "best η of one step"),
        log2_axis([v for part in _parts(data, "loss_drop") for v in extent(part, "loss_drop")], "loss drop, nats"),
    ]
    plot = panels(
        [f"{_name(surge)}: {what}" for surge in shown for what in ("signs", "η*(B)", "loss drop")],
        3,
        x=log2_axis(batches, BATCH_TITLE, finest=1),
        y=ys * len(shown),
        height=280,
        shared_y=False,
    )
    for row, surge in enumerate(shown):
        part = curve(surge)
        for kind, (name, colour, symbol, dash) in _LOOK.items():
            points = part[part["kind"] == kind].reset_index(drop=True)
            for column, y in enumerate(("signs", "lr", "loss_drop")):
                if not known(points, y):
                    continue
                marks.measured(
                    plot,
                    3 * row + column,
                    points,
                    "batch_tokens",
                    y,
                    name=name,
                    group=kind,
                    colour=colour,
                    symbol=symbol,
                    dash=dash,
                    legend=row == 0 and column == 1,
                    hover=[f"{name}, B = {grid_count(r.batch_tokens)}<br>{words(r, y)}" for r in rows(points)],
                )
        for kind, noise in noises[id(surge)].items():
            for column, axis in enumerate(ys[1:], start=1):
                _upright(plot, 3 * row + column, noise, kind, axis["range"])
    title = "One step from a checkpoint: predicted and measured best rate and loss drop against batch"
    return Figure("surge-checkpoint", title, caption, data, plot)


def _noises(surge: Surge) -> dict[str, Estimate]:
    return {
        "theorem_2": surge.prediction.batch_noise,
        "lemma_1": surge.prediction.signs_noise[1],
        "line_search": surge.measured.noise_from_drop,
    }


def _upright(plot: go.Figure, panel: int, noise: Estimate, kind: str, ends: Sequence[float]) -> None:
    """A line at B_noise, from `ends`, log10 of the axis."""
    if noise.value is None:
        return
    name, colour, _, dash = _LOOK[kind]
    text = f"B<sub>noise</sub>, {name}: {grid_count(noise.value)} tokens"
    plot.add_scatter(
        x=[noise.value] * 2,
        y=[10.0**end for end in ends],
        mode="lines",
        line={"color": colour, "width": 1, "dash": dash},
        legendgroup=kind,
        name=name,
        showlegend=False,
        text=[text] * 2,
        hovertemplate="%{text}<extra></extra>",
        **place(panel),
    )


def _parts(data: pd.DataFrame, y: str) -> list[pd.DataFrame]:
    """By kind, those with something to draw: the bar of one kind does not set the axis of all."""
    return [part[part[y].fillna(1) > 0] for _, part in data.groupby("kind")]


def _name(surge: Surge) -> str:
    return f"N = {surge.about['width']}, T = {grid_count(surge.about['tokens'])}"
