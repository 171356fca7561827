"""Commands that check the parametrisation."""

import argparse
import time
from pathlib import Path

from rich.console import Console

from launch.commands.asked import collected, hardware_of, layout_of, pinned


def mup_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.load import load_run
    from train.mup_table import print_mup_table

    config = load_run(arguments.config, arguments.overrides)
    print_mup_table(console, config, shapes_file=arguments.base_shapes, save_shapes=arguments.save_base_shapes)
    return 0


def coordcheck_command(arguments: argparse.Namespace, console: Console) -> int:
    import pandas as pd
    from rich.progress import Progress

    from analysis.console import print_slopes
    from analysis.coordinates import coordinate_slopes, passes
    from analysis.report.checks import write_coordinates
    from configs.expressions import number_text
    from configs.load import load_run
    from train.coordcheck import check_runs, measured
    from train.data.open import open_corpus
    from train.engine import start_distributed, stop_distributed

    config = load_run(arguments.config, arguments.overrides)
    corpus = open_corpus(config.data, arguments.data_dir)
    names = [config.model.parametrization, *(["sp"] if arguments.control else [])]
    grown, widths = arguments.grow == "head-size", arguments.widths or [k * config.model.base_width for k in (1, 2, 4)]
    runs = [
        run
        for name in names
        for run in check_runs(
            config.model_copy(update={"model": config.model.model_copy(update={"parametrization": name})}),
            corpus,
            widths,
            arguments.seeds,
            arguments.steps,
            grown_heads=grown,
        )
    ]
    out = arguments.out or Path("runs") / f"coordcheck-{arguments.config.stem}"
    start_distributed()
    try:
        with Progress(console=console) as progress:
            task = progress.add_task(f"{len(runs)} runs", total=len(runs) * arguments.steps)
            rows = pd.DataFrame(measured(runs, corpus, out / "measured", lambda: progress.advance(task)))
    finally:
        stop_distributed()
    slopes = {name: coordinate_slopes(rows[rows["parametrization"] == name], grown_heads=grown) for name in names}
    for name, found in slopes.items():
        print_slopes(console, name, found)
    how = f"{arguments.steps} steps at lr {number_text(config.lr)}, {arguments.seeds} seeds"
    how += f", wider by {arguments.grow.replace('-', ' ')}, ZeRO-{config.engine.zero_stage}"
    console.print(f"wrote {write_coordinates(rows, slopes, arguments.config.stem, how, out)}")
    return 0 if passes(slopes[config.model.parametrization]) else 1


def transfer_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.console import print_transfer
    from analysis.report.checks import write_transfer
    from analysis.transfer import transfer_study

    study_dir = arguments.target
    if not study_dir.is_dir():
        study_dir = arguments.out or Path("runs") / f"transfer-{arguments.target.stem}"
        if (code := _sweep(arguments, study_dir, console)) != 0:
            return code
    table, _ = collected(study_dir)
    study = transfer_study(table)
    print_transfer(console, study)
    console.print(f"wrote {write_transfer(table, study, study_dir.name, study_dir / 'transfer')}")
    return 0


def rules_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.arms import read_runs
    from analysis.report.rules import write_rules
    from analysis.surge_measured import surges_of

    study_dir = arguments.directory
    table, _ = collected(study_dir)
    surges = surges_of(study_dir)
    page, said = write_rules(table, read_runs(study_dir), surges, study_dir.name, study_dir / "rules")
    for line in said:
        console.print(f"{line}.", markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {page}")
    return 0


def _sweep(arguments: argparse.Namespace, study_dir: Path, console: Console) -> int:
    """Train what is left of a transfer's runs."""
    from configs.load import load_run
    from launch.execute import run_study
    from launch.study import planned_study
    from launch.summary import print_summary
    from launch.transfer import transfer_grid

    config = load_run(arguments.target, arguments.overrides)
    study = transfer_grid(config, study_dir.name, arguments.widths, arguments.lrs, arguments.seeds)
    planned, runs = pinned(planned_study(study, hardware_of(arguments)), arguments, checksums=True)
    began = time.monotonic()
    outcome = run_study(planned, runs, study_dir, arguments.data_dir, layout_of(arguments), console)
    print_summary(console, outcome, study_dir, time.monotonic() - began)
    return 0 if all(state in ("finished", "diverged") for state in outcome.after.states.elements()) else 1
