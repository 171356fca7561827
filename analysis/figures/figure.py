"""What a figure is: a plot, the tidy table it was drawn from, and the words beside it."""

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

LR_TITLE = "tuned learning rate η* (at base width)"
BATCH_TITLE = "batch B, tokens"
TOKENS_TITLE = "token budget T, tokens"
CENSORED = (
    "Open triangles are bounds: the best learning rate lay at the edge of the grid, the truth lies where they point."
)
SHIFTED = "Marks of different series are moved sideways a little so that their bars can be told apart."


@dataclass(frozen=True)
class Figure:
    """One figure of the report.

    `plot` is None when the table holds too little to draw it; `reason` then says why in one line.
    Title, caption and reason are short HTML. `data` has one row per drawn mark (`kind` says which), numbers unrounded.
    """

    id: str  # file name of its CSV and anchor on the page
    title: str
    caption: str
    data: pd.DataFrame
    plot: go.Figure | None
    reason: str = ""


def schedule_of(table: pd.DataFrame) -> str:
    """The schedule to state in every title, because the optimum depends on it."""
    recorded = sorted(table["schedule"].dropna().unique()) if "schedule" in table else []
    return f"{' and '.join(recorded)} schedule" if recorded else "schedule not recorded"
