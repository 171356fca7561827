"""The `bcrit` command: parse, call, print. Everything it does is a function elsewhere, imported when it is needed."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from configs.errors import ConfigError, did_you_mean
from launch.parser import parse


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors of the user are one line on stderr and exit code 2."""
    arguments = parse(argv)
    try:
        return COMMANDS[arguments.command](arguments, Console(width=None if sys.stdout.isatty() else 140))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _plan(arguments: argparse.Namespace, console: Console) -> int:
    from launch.plan_table import print_plan

    planned, runs, _ = _planned(arguments)
    workers = _layout(arguments).workers
    print_plan(console, planned, runs, workers=workers, show_all=arguments.all, show_memory=arguments.gpu is not None)
    return 0


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from launch.execute import run_study
    from launch.summary import print_summary

    with console.status("checking the data"):
        planned, runs, study_dir = _planned(arguments, checksums=True)
    began = time.monotonic()
    outcome = run_study(planned, runs, study_dir, arguments.data_dir, _layout(arguments), console)
    if not outcome.nothing_to_do or not (study_dir / "table.parquet").exists():
        _write_table(study_dir)
    print_summary(console, outcome, study_dir, time.monotonic() - began)
    return 0 if all(state in ("finished", "diverged") for state in outcome.after.states.elements()) else 1


def _planned(arguments: argparse.Namespace, checksums: bool = False):  # noqa: ANN202
    """The study, its runs with their data pinned, and its directory; everything is checked before anything starts.

    With `checksums` every byte of the data is, too: about a second for 2 GB, once for all workers.
    """
    from launch.study import plan_study

    planned = plan_study(arguments.study, arguments.overrides, _hardware(arguments))
    return *_pinned(planned, arguments, checksums), arguments.out or Path("runs") / planned.study.name


def _pinned(planned, arguments: argparse.Namespace, checksums: bool):  # noqa: ANN001, ANN202
    from launch.execute import pin_data
    from train.data.open import open_corpus

    manifest = open_corpus(planned.study.base.data, arguments.data_dir, checksums=checksums)
    return planned, pin_data(planned, manifest)


def _hardware(arguments: argparse.Namespace):  # noqa: ANN202
    from configs.plan import Hardware

    gpu = _gpu(arguments.gpu) if getattr(arguments, "gpu", None) else None
    return Hardware(world_size=arguments.ranks, device_memory=gpu.memory if gpu else None)


def _gpu(name: str):  # noqa: ANN202
    from configs.devices import DEVICES, device

    known = device(name)
    if known is None:
        raise ConfigError(f"--gpu {name}: not known; {did_you_mean(name, [known.name for known in DEVICES])}")
    return known


def _layout(arguments: argparse.Namespace):  # noqa: ANN202
    from launch.local import layout

    return layout(arguments.workers, arguments.ranks)


def _write_table(study_dir: Path):  # noqa: ANN202
    from analysis.table import build_table, write_table

    table = build_table(study_dir)
    return table, write_table(table, study_dir)


def _table(arguments: argparse.Namespace, console: Console) -> int:
    table, paths = _write_table(arguments.study)
    counts = table.drop_duplicates("run_id")["status"].value_counts()
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), f"-> {len(table)} rows")
    for path in paths:
        console.print(f"wrote {path}")
    return 0


def _analyse(arguments: argparse.Namespace, console: Console) -> int:

    from analysis.analyse import analyse, to_json
    from configs.rundir import write_json

    table, _ = _write_table(arguments.study)
    analysis = analyse(table)
    write_json(arguments.study / "laws.json", to_json(analysis))
    console.print(f"wrote {arguments.study / 'laws.json'}")
    for warning in analysis.warnings:
        console.print(f"[yellow]note[/yellow] {warning}")
    return 0


def _report(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.analyse import analyse
    from analysis.report import write_report

    table, _ = _write_table(arguments.study)
    path = write_report(table, analyse(table), arguments.study / "report")
    console.print(f"wrote {path}")
    return 0


def _universal(arguments: argparse.Namespace, console: Console) -> int:
    from configs.claims import claim, release
    from train.checkpoints import newest_intact
    from train.universal import convert

    checkpoint = newest_intact(arguments.run)
    if checkpoint is None:
        raise ConfigError(f"{arguments.run}: no checkpoint there; give the directory of a run that was stopped")
    if not claim(arguments.run):
        raise ConfigError(f"{arguments.run}: a process works on it; stop the run first")
    try:
        with console.status("converting"):
            path = convert(checkpoint)
    finally:
        release(arguments.run)
    console.print(f"wrote {path}; any number of ranks and any ZeRO stage can go on from it")
    return 0


def _export(arguments: argparse.Namespace, console: Console) -> int:
    from train.export import export

    with console.status("exporting"):
        path = export(arguments.run, arguments.tokens, arguments.out, ema=arguments.ema)
    console.print(f"wrote {path}")
    return 0


def _mup(arguments: argparse.Namespace, console: Console) -> int:
    from configs.load import load_run
    from train.mup_table import print_mup_table

    config = load_run(arguments.config, arguments.overrides)
    print_mup_table(console, config, shapes_file=arguments.base_shapes, save_shapes=arguments.save_base_shapes)
    return 0


def _coordcheck(arguments: argparse.Namespace, console: Console) -> int:
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


def _transfer(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.console import print_transfer
    from analysis.report.checks import write_transfer
    from analysis.transfer import transfer_study

    study_dir = arguments.target
    if not study_dir.is_dir():
        study_dir = arguments.out or Path("runs") / f"transfer-{arguments.target.stem}"
        if (code := _sweep(arguments, study_dir, console)) != 0:
            return code
    table, _ = _write_table(study_dir)
    study = transfer_study(table)
    print_transfer(console, study)
    console.print(f"wrote {write_transfer(table, study, study_dir.name, study_dir / 'transfer')}")
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
    planned, runs = _pinned(planned_study(study, _hardware(arguments)), arguments, checksums=True)
    began = time.monotonic()
    outcome = run_study(planned, runs, study_dir, arguments.data_dir, _layout(arguments), console)
    print_summary(console, outcome, study_dir, time.monotonic() - began)
    return 0 if all(state in ("finished", "diverged") for state in outcome.after.states.elements()) else 1


def _prepare(arguments: argparse.Namespace, console: Console) -> int:
    from train.data.prepare import prepare

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it gives its claim back, as after Ctrl-C
    done = prepare(
        arguments.source,
        arguments.out,
        tokenizer=arguments.tokenizer,
        eod=arguments.eod,
        text_field=arguments.text_field,
        text_unit=arguments.text_unit,
        subset=arguments.subset,
        split=arguments.split,
        revision=arguments.revision,
        valid=arguments.valid,
        valid_fraction=arguments.valid_fraction,
        limit_documents=arguments.limit_documents,
        processes=arguments.processes,
    )
    corpus = done.manifest
    tokens = f"{corpus.train.tokens:,} training and {corpus.valid.tokens:,} validation tokens"
    console.print(f"wrote {corpus.directory}: {tokens}, fingerprint {corpus.fingerprint}")
    console.print(f"{done.tokens:,} tokens in {done.seconds:,.1f} s: {done.tokens_per_s:,.0f} tokens/s")
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from configs.manifest import read_manifest

    manifest = read_manifest(arguments.directory, checksums=True)
    console.print(f"{arguments.directory} is intact: fingerprint {manifest.fingerprint}")
    return 0


def _reference(arguments: argparse.Namespace, console: Console) -> int:
    from configs.reference import reference

    print(reference())
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "plan": _plan,
    "run": _run,
    "table": _table,
    "analyse": _analyse,
    "report": _report,
    "universal": _universal,
    "export": _export,
    "mup": _mup,
    "coordcheck": _coordcheck,
    "transfer": _transfer,
    "data prepare": _prepare,
    "data verify": _verify,
    "reference": _reference,
}


if __name__ == "__main__":
    sys.exit(main())
