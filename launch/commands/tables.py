"""Commands that read runs: the run table, its analysis, its report, what the laws predict."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from configs.errors import ConfigError
from launch.commands.asked import collected, print_notes

if TYPE_CHECKING:
    from configs.mapping import Mapping


def table_command(arguments: argparse.Namespace, console: Console) -> int:
    if (arguments.study / "import.json").exists():
        raise ConfigError(f"{arguments.study}: it holds an imported table; run `bcrit analyse {arguments.study}`")
    table, paths = collected(arguments.study)
    counts = table.drop_duplicates("run_id")["status"].value_counts()
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()), f"-> {len(table)} rows")
    for path in paths:
        console.print(f"wrote {path}")
    return 0


def import_command(arguments: argparse.Namespace, console: Console) -> int:
    return _imported(arguments.file, _mapping(arguments), arguments.out, console)


def wandb_command(arguments: argparse.Namespace, console: Console) -> int:
    from rich.progress import Progress

    from analysis.wandb_runs import download

    mapping, name = _mapping(arguments), arguments.project.replace("/", "-")
    cache = Path("runs") / "wandb" / name
    with Progress(console=console) as progress:
        task = progress.add_task(f"runs of {arguments.project}", total=None)
        file = download(
            arguments.project,
            cache,
            arguments.history,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    return _imported(file, mapping, arguments.out or Path("runs") / name, console)


def _mapping(arguments: argparse.Namespace) -> "Mapping":
    from configs.mapping import read_mapping

    asked = (arguments.map, arguments.where, arguments.group, arguments.diverged_above)
    return read_mapping(arguments.preset, *asked)


def _imported(file: Path, mapping: "Mapping", out: Path | None, console: Console) -> int:
    """Read a table as `mapping` says, write what can be used, and say what cannot."""
    from analysis.importing import counted, import_table, read_raw
    from analysis.stored import write_import

    out = out or Path("runs") / file.stem
    imported = import_table(read_raw(file), mapping)
    directories = write_import(imported, file, mapping, out)
    console.print(f"{len(imported.table)} rows used; {len(imported.left_out)} left out", highlight=False)
    if len(imported.left_out):
        said = f"left out: {counted(imported.left_out['reason'])}; listed in {out / 'left_out.csv'}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    print_notes(console, imported.notes)
    console.print(f"wrote {len(directories)} table{'s' * (len(directories) > 1)}; now `bcrit analyse {out}`")
    return 0


def analyse_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.analyse import to_json
    from analysis.printed import lines
    from configs.rundir import write_json

    for directory, _, analysis in _analyses(arguments, console):
        write_json(directory / "laws.json", to_json(analysis))
        if directory != arguments.study:
            console.rule(escape(directory.name), align="left")
        for line in lines(analysis):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print(f"wrote {directory / 'laws.json'}")
        print_notes(console, analysis.warnings)
    return 0


def report_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.report import drawn_figures, write_report
    from analysis.surge_measured import surges_of

    if arguments.wandb:
        from analysis.report.wandb_report import entity_and_project, publish

        entity_and_project(arguments.wandb)  # before anything is computed
    for directory, table, analysis in _analyses(arguments, console):
        surges = surges_of(directory)
        page = write_report(table, analysis, directory / "report", surges)
        console.print(f"wrote {page}")
        if arguments.wandb:
            with console.status(f"publishing in {arguments.wandb}"):
                url = publish(page, table, analysis, drawn_figures(table, analysis, surges), arguments.wandb)
            console.print(f"published {url}", soft_wrap=True)
    return 0


def predict_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.predict import predict
    from analysis.prediction_table import print_predictions
    from analysis.stored import load_table, table_dirs

    tokens = [_amount("--tokens", text) for text in arguments.tokens]
    width, n_params, batch = (
        _amount(f"--{name.replace('_', '-')}", text) if (text := getattr(arguments, name)) else None
        for name in ("width", "n_params", "batch")
    )
    directories = table_dirs(arguments.study)
    if len(directories) > 1:
        raise ConfigError(f"{arguments.study}: it holds several tables; give one of {', '.join(map(str, directories))}")
    table = load_table(directories[0])
    predictions = predict(table, tokens=tokens, width=width, n_params=n_params, batch=batch, force=arguments.force)
    print_predictions(console, predictions)
    return 0


def _analyses(arguments: argparse.Namespace, console: Console):  # noqa: ANN202
    """Directory, table and analysis of every table; of several, one that cannot be analysed is a note, not the end."""
    from analysis.analyse import analyse
    from analysis.stored import load_table, table_dirs

    directories = table_dirs(arguments.study)
    refused = []
    for directory in directories:
        try:
            table = load_table(directory)
            found = directory, table, analyse(table, window=arguments.window)
        except ConfigError as error:
            refused.append(f"{directory.name}: {error}")
            continue
        yield found
    if len(refused) == len(directories):
        raise ConfigError("; ".join(refused) if len(refused) > 1 else refused[0].partition(": ")[2])
    print_notes(console, refused)


def _amount(option: str, text: str) -> float:
    """A number above 0, written like those of a study: 2^20, 1e9."""
    from configs.expressions import evaluate

    try:
        value = evaluate(text)
    except ConfigError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{option} {text}: must be a number above 0, written like 2^20 or 1e9")
    return float(value)
