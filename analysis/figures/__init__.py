"""The report's figures: `draw` maps (run table, analysis) to every one of them, in the order of the page."""

from collections.abc import Callable

import pandas as pd

from analysis.figures.batch import critical_batch, loss_against_batch
from analysis.figures.coordinates import coordinate_check
from analysis.figures.curves import loss_against_lr, loss_against_lr_by_width
from analysis.figures.figure import Figure
from analysis.figures.learning_rate import lr_against_batch, lr_against_tokens, lr_crit
from analysis.figures.sensitivity import sensitivity
from analysis.figures.steps import tokens_against_batch
from analysis.results import Analysis
from analysis.steps import is_steps_table

FIGURES: tuple[Callable[[pd.DataFrame, Analysis], Figure], ...] = (
    lr_against_tokens,
    lr_against_batch,
    critical_batch,
    lr_crit,
    loss_against_lr,
    sensitivity,
    loss_against_batch,
    coordinate_check,
    loss_against_lr_by_width,
)


def draw(table: pd.DataFrame, analysis: Analysis) -> tuple[Figure, ...]:
    """Every figure, in order; one that cannot be drawn from this table says why."""
    figures = (tokens_against_batch, critical_batch) if is_steps_table(table) else FIGURES
    return tuple(figure(table, analysis) for figure in figures)


__all__ = ["FIGURES", "Figure", "draw"]
