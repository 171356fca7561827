"""What several commands make of their arguments."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from configs.errors import ConfigError, did_you_mean

if TYPE_CHECKING:  # a command imports what it needs when it runs, so that --help needs no torch and no pandas
    import pandas as pd

    from configs.plan import Hardware
    from configs.schema import RunConfig
    from launch.local import Layout
    from launch.study import PlannedStudy


def pinned(
    planned: "PlannedStudy", arguments: argparse.Namespace, checksums: bool
) -> "tuple[PlannedStudy, tuple[RunConfig, ...]]":
    """The study, and its runs with their data's fingerprint in their ids; the embedded corpus is made if need be."""
    from launch.execute import pin_data
    from train.data.open import open_corpus

    manifest = open_corpus(planned.study.base.data, arguments.data_dir, checksums=checksums)
    return planned, pin_data(planned, manifest)


def hardware_of(arguments: argparse.Namespace) -> "Hardware":
    """The ranks of a run, and the memory of the GPU that was named."""
    from configs.devices import DEVICES, device
    from configs.plan import Hardware

    name = getattr(arguments, "gpu", None)
    gpu = device(name) if name else None
    if name and gpu is None:
        raise ConfigError(f"--gpu {name}: not known; {did_you_mean(name, [known.name for known in DEVICES])}")
    return Hardware(world_size=arguments.ranks, device_memory=gpu.memory if gpu else None)


def study_dir_of(arguments: argparse.Namespace) -> Path:
    """Directory of a study that is given by it, or by its YAML file."""
    from configs.load import load_study

    if arguments.study.is_dir():
        return arguments.study
    return arguments.out or Path("runs") / load_study(arguments.study).name


def layout_of(arguments: argparse.Namespace) -> "Layout":
    """Which workers run side by side on this machine."""
    from launch.local import layout

    return layout(arguments.workers, arguments.ranks)


def collected(study_dir: Path) -> "tuple[pd.DataFrame, tuple[Path, Path]]":
    """A study's run table, written, and the paths of its files."""
    from analysis.table import build_table, write_table

    table = build_table(study_dir)
    return table, write_table(table, study_dir)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """A line a note."""
    for note in notes:
        console.print(f"[yellow]note[/yellow] {escape(note)}")
