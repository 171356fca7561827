"""One planted table, its analysis and its report, shared by the tests of this folder (read only)."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.report import write_report
from analysis.results import Analysis
from tests.planted import planted_table


@dataclass(frozen=True)
class Report:
    table: pd.DataFrame
    analysis: Analysis
    page: Path

    @property
    def html(self) -> str:
        return self.page.read_text()

    def csv(self, figure: str) -> pd.DataFrame:
        return pd.read_csv(self.page.parent / "data" / f"{figure}.csv")


def make_report(table: pd.DataFrame, out_dir: Path) -> Report:
    analysis = analyse(table)
    return Report(table, analysis, write_report(table, analysis, out_dir))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two widths, three budgets, six batches, diverged runs; every figure can be drawn."""
    table = planted_table(noise=0.003, diverge_above=3.2, seeds=(0, 1))
    return make_report(table, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One width, one budget, one batch: only the U-curve can be drawn."""
    table = planted_table(widths=(64,), budgets=(2**18,), batches=(2**10,), noise=0.002)
    return make_report(table, tmp_path_factory.mktemp("small"))
