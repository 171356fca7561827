"""Fixtures that several folders share."""

import asyncio
import email
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no failure: examples have no deadline.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def process_group():
    """A process group of one, in this process; enough for many engines."""
    from train.engine import start_distributed, stop_distributed

    start_distributed()
    yield
    stop_distributed()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose embedded corpus is two packages of the standard library: quick to build."""
    from train.data.prepare import ensure_embedded

    root = tmp_path_factory.mktemp("data")
    ensure_embedded(root, roots=[Path(module.__file__).parent for module in (asyncio, email)])
    return root


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print at the end what tests have recorded to be read (`record_property`), in whatever process they ran."""
    for report in terminalreporter.getreports("passed"):
        for title, text in report.user_properties if report.when == "call" else ():
            terminalreporter.section(title)
            terminalreporter.write_line(text)
