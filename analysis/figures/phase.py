"""Figures of `bcrit warmup`: heat maps over peak rate and length of the warmup."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures.colours import INK, MUTED, sequential
from analysis.figures.figure import Figure
from analysis.figures.frames import rows
from analysis.figures.panels import panels, place
from analysis.notation import grid_count, nats, plain, power_of_two
from analysis.phase import CELL, DEGRADED, FAILED_PART

_PANEL = ["parametrization", "optimizer", "second_moment", "warmup"]
_STOPS = 13
NAMES = {"zero": "", "gradient": "GI-", "random": "RI-"}
OPTIMIZERS = {"adamw": "Adam"}


def way(optimizer: str, second_moment: str, warmup: str) -> str:
    """GI-Adam, linear."""
    return f"{NAMES[second_moment]}{OPTIMIZERS.get(optimizer, optimizer)}, {warmup}"


def losses(runs: pd.DataFrame) -> Figure:
    """Final loss, one panel a way of warmup; cells in which a seed failed are blank and crossed."""
    cells = runs.groupby([*CELL, "lr"], as_index=False).agg(
        loss=("loss", "mean"), seeds=("seed", "nunique"), failed=("failed", "any"), spread=("loss", "std")
    )
    cells["shown"] = cells["loss"].where(~cells["failed"])
    caption = (
        "Validation loss at the end, the mean over seeds, in nats. Crosses: a run failed, that is, diverged, or ended "
        f"above {FAILED_PART} of the lesser of its loss before the first step and that of uniform predictions. Colours "
        f"are by rank over all panels. Frames: rates within {DEGRADED} nats of the best of their row."
    )
    best = cells.groupby(CELL)["shown"].transform("min")
    cells["serves"] = cells["shown"] <= best + DEGRADED
    return _map("phase-loss", "Final loss over peak rate and length of the warmup", caption, cells, nats_short)


def reached(runs: pd.DataFrame) -> Figure:
    """T_reach of warmups that look at the loss, as a part of the length that was asked for."""
    return _saving(
        runs,
        "reached_tokens",
        "phase-reached",
        "T<sub>reach</sub>: when the peak rate is reached",
        "Tokens after which the rate was the peak, as a part of the length of a linear warmup from 0 (1: no gain; "
        "where the critical rate is above the peak, one step). Empty: the peak was not reached.",
    )


def saved(runs: pd.DataFrame) -> Figure:
    """T_save of warmups that look at the loss, as a part of the length that was asked for."""
    return _saving(
        runs,
        "saved_tokens",
        "phase-saved",
        "T<sub>save</sub>: what the search for the critical rate saves",
        "Tokens that the warmup took less than a linear one from 0, as a part of its length; a forward pass of the "
        "search counts as half a step. Below 0 the search cost more than it saved.",
    )


def nats_short(value: float) -> str:
    """Two decimals."""
    return f"{value:.2f}"


def _saving(runs: pd.DataFrame, column: str, figure_id: str, title: str, caption: str) -> Figure:
    looking = runs[runs["warmup"] != "linear"]
    if looking.empty:
        reason = "Not drawn: no run warms up from the critical rate (schedule.warmup critical or catapult)."
        return Figure(figure_id, title, caption, looking[[*CELL, "lr", "seed", column]], None, reason)
    share = looking[column] / looking["warmup_tokens"]
    cells = (
        looking.assign(shown=share.astype(float))
        .groupby([*CELL, "lr"], as_index=False)
        .agg(shown=("shown", "mean"), lr_start=("lr_start", "mean"), passes=("warmup_passes", "mean"))
    )
    return _map(figure_id, title, caption, cells.assign(failed=False, serves=False), nats_short, rank=False)


def _map(
    figure_id: str,
    title: str,
    caption: str,
    cells: pd.DataFrame,
    write: Callable[[float], str],
    *,
    rank: bool = True,
) -> Figure:
    """Panels of `shown` over lr and warmup_tokens."""
    lrs, lengths = sorted(cells["lr"].unique()), sorted(cells["warmup_tokens"].unique())
    order = {name: i for i, name in enumerate(NAMES)}
    ways = sorted(
        cells[_PANEL].drop_duplicates().itertuples(index=False, name=None),
        key=lambda key: (key[0], key[3] != "linear", key[3], key[1], order[key[2]]),
    )
    values = np.sort(cells["shown"].dropna().unique())
    scale = list(sequential("tokens", range(_STOPS)).values())
    plot = panels(
        [f"{parametrization}: {way(*rest)}" for parametrization, *rest in ways],
        3,
        x=_steps([power_of_two(np.log2(lr)) for lr in lrs], "peak learning rate"),
        y=_steps(["none" if not t else grid_count(t) for t in lengths], "warmup, tokens"),
        height=30 * len(lengths) + 20,
        narrow=340,
    )
    for panel, key in enumerate(ways):
        part = cells[(cells[_PANEL] == list(key)).all(axis=1)]
        x, y = ([grid.index(value) for value in part[name]] for grid, name in ((lrs, "lr"), (lengths, "warmup_tokens")))
        _cells(plot, panel, part.assign(x=x, y=y), values, scale, write, rank=rank)
    return Figure(figure_id, title, caption, cells, plot)


def _cells(
    plot: go.Figure,
    panel: int,
    part: pd.DataFrame,
    values: np.ndarray,
    scale: list[str],
    write: Callable[[float], str],
    *,
    rank: bool,
) -> None:
    alive, failed = part[part["shown"].notna()], part[part["failed"]]
    shown = alive["shown"].to_numpy()
    low, high = (values[0], values[-1]) if len(values) else (0.0, 1.0)
    by_rank = np.searchsorted(values, shown) / max(len(values) - 1, 1)
    by_value = (shown - low) / max(high - low, 1e-9)
    style = {"hovertemplate": "%{customdata}<extra></extra>", "showlegend": False, **place(panel)}
    hover = [f"lr {plain(row.lr)}, warmup {row.warmup_tokens:,} tokens<br>{nats(row.shown)}" for row in rows(alive)]
    plot.add_scatter(
        x=alive["x"],
        y=alive["y"],
        mode="markers+text",
        marker={
            "symbol": "square",
            "size": 27,
            "color": [scale[round(p * (_STOPS - 1))] for p in (by_rank if rank else by_value)],
            "line": {"width": [2.5 if s else 0 for s in alive["serves"]], "color": INK},
        },
        text=[write(value) for value in shown],
        textfont={"size": 9.5, "color": "#fdfdfc"},
        customdata=hover,
        name="loss",
        legendgroup="cells",
        **style,
    )
    plot.add_scatter(
        x=failed["x"],
        y=failed["y"],
        mode="markers",
        marker={"symbol": "x-thin-open", "size": 10, "color": MUTED, "line": {"width": 1.6}},
        customdata=[f"lr {plain(row.lr)}, warmup {row.warmup_tokens:,} tokens<br>failed" for row in rows(failed)],
        name="failed",
        legendgroup="cells",
        **style,
    )


def _steps(texts: list[str], title: str) -> dict[str, object]:
    """An axis of equal steps with a name each."""
    return {
        "title": title,
        "range": [-0.6, len(texts) - 0.4],
        "tickvals": list(range(len(texts))),
        "ticktext": texts,
        "showgrid": False,
    }
