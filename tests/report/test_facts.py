"""A table with everything that can be wrong with one: the report's text says each of its facts."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.report.summary import summary
from tests.planted import planted_table


def spoiled() -> pd.DataFrame:
    """One width; an edge optimum, a diverged run, a missing batch, a U-shaped E(B), forms that cannot be told apart."""
    table = planted_table(widths=(64,), form="sqrt_saturation", batch_crit=6000.0, noise=4e-3)
    edge = (table["batch_tokens"] == 2**13) & (table["tokens"] == 2**18) & (table["lr"] > 2**-8)
    hole = (table["batch_tokens"] == 2**11) & (table["tokens"] == 2**19)
    table = table[~edge & ~hole].reset_index(drop=True)
    cell = table[(table["batch_tokens"] == 2**10) & (table["tokens"] == 2**20)]
    table.loc[cell["lr"].idxmax(), ["loss", "status"]] = np.nan, "diverged"
    return table


@pytest.fixture(scope="module")
def text() -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", summary(analyse(spoiled()))))


@pytest.mark.parametrize(
    "fact",
    [
        "1 of 17 cells have no tuned learning rate, their optimum lies at or above the highest learning rates: add "
        "higher ones. Cells: (N=64, T = 218, B = 213).",
        "1 run diverged, in 1 of 17 cells: a learning rate too high there, not a loss; no parabola passes through it. "
        "Cells: (N=64, T = 220, B = 210).",
        "The grid has holes, batches missing between others: (N=64, T = 219, B = 211).",
        "E(B) is U-shaped: tokens to the target rise towards small batches by more than their noise, and B = 256, 512 "
        "are left out of the fit.",
        "Over all T: ambiguous between",
        "The form of lr*(B) over all budgets is undecided",
    ],
)
def test_the_summary_says(text: str, fact: str) -> None:
    assert fact in text


def test_a_sound_table_says_none_of_it() -> None:
    sound = planted_table(widths=(64,), floor="hyperbola", noise=1e-3, seeds=(0, 1))
    said = summary(analyse(sound))
    for fact in ("no tuned learning rate", "diverged", "holes", "U-shaped", "undecided"):
        assert fact not in said
