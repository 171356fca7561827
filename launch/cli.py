"""The `bcrit` command: parse, call, print. Everything it does is a function elsewhere, imported when it is needed."""

import argparse
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from configs.errors import ConfigError, did_you_mean


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors of the user are one line on stderr and exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments, Console(width=None if sys.stdout.isatty() else 140))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bcrit", description="How lr and batch size grow with tokens and width.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, help_text: str) -> argparse.ArgumentParser:  # noqa: ANN001
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(command=function)
        return command

    for name, function, text in (
        ("plan", _plan, "Check a study and print its runs, tokens, FLOPs and estimated time; nothing is started."),
        ("run", _run, "Train what is not finished of a study, on this machine."),
    ):
        command = add(name, function, text)
        command.add_argument("study", type=Path, metavar="STUDY", help="YAML file of a study (see configs/studies)")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: base.precision=bf16")
        command.add_argument("--out", type=Path, help="directory of the study (default: runs/<name>)")
        command.add_argument("--workers", type=_positive, help="runs at a time (default: one a core or device group)")
        command.add_argument("--ranks", type=_positive, default=1, help="processes (devices) a run (default: 1)")
        command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")
        if name == "plan":
            command.add_argument("--gpu", help="check that the runs fit on this GPU, e.g. h100")
            command.add_argument("--all", action="store_true", help="print every run of a long table")

    for name, function, text in (
        ("table", _table, "Collect a study's runs into its run table (Parquet and CSV)."),
        ("analyse", _analyse, "Fit the laws to a study's runs and write laws.json."),
        ("report", _report, "Write a study's report: one HTML page that opens offline."),
    ):
        command = add(name, function, text)
        command.add_argument("study", type=Path, metavar="STUDY", help="a study's directory, e.g. runs/quickstart")

    command = add("predict", _predict, "Read the fitted laws at budgets and sizes that were not trained.")
    command.add_argument("study", type=Path, metavar="STUDY", help="a study's directory, e.g. runs/quickstart")
    command.add_argument("--tokens", required=True, nargs="+", metavar="T", help="budgets in tokens, e.g. 2^20 5e9")
    command.add_argument("--width", metavar="N", help="width of the model (default: the table's, if it has one)")
    command.add_argument("--n-params", metavar="P", help="or its parameters, with embeddings")
    command.add_argument("--batch", metavar="B", help="also lr* at this batch, in tokens")
    command.add_argument("--force", action="store_true", help="also beyond the reach of the laws")

    command = add("universal", _universal, "Make a stopped run's checkpoint fit any number of ranks and ZeRO stage.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. runs/quickstart/runs/<id>")

    command = add("export", _export, "Write a run's weights as a plain Hugging Face model with its card.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. runs/quickstart/runs/<id>")
    command.add_argument("--tokens", type=_positive, help="checkpoint to export (default: the newest)")
    command.add_argument("--out", type=Path, help="directory (default: RUN/model, or RUN/model-ema)")
    command.add_argument("--ema", action="store_true", help="the average of the weights instead")

    command = add("mup", _mup, "Print the parametrisation of every parameter of a run.")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of a run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field, e.g. model.width=256")
    command.add_argument("--base-shapes", type=Path, help="a base-shape file of mup's that must agree with the table")
    command.add_argument("--save-base-shapes", type=Path, metavar="FILE", help="write such a file for mup")

    data = add("data", None, "Prepare and check packed corpora.").add_subparsers(required=True, metavar="ACTION")
    command = data.add_parser("prepare", help="Tokenise documents once into memory-mapped shards with a manifest.")
    command.set_defaults(command=_prepare)
    command.add_argument("source", help="a dataset on the Hugging Face hub, or text, JSONL or Parquet files (glob)")
    command.add_argument("out", type=Path, help="directory of the packed corpus, for the field data.path")
    command.add_argument(
        "--tokenizer", default="bytes", help="bytes (default), a tokenizer.json, or a transformers name"
    )
    command.add_argument("--eod", help="end-of-document token (default: the tokenizer's own)")
    command.add_argument("--text-field", default="text", help="field that holds the text (default: text)")
    command.add_argument(
        "--text-unit", choices=("file", "paragraph", "line"), default="file", help="document of a .txt"
    )
    command.add_argument("--subset", help="configuration of the dataset, e.g. en")
    command.add_argument("--split", default="train", help="split of the dataset (default: train)")
    command.add_argument("--revision", help="commit, tag or branch of the dataset")
    command.add_argument("--valid", help="where held-out documents come from: another split, or another path")
    command.add_argument("--valid-fraction", type=float, default=0.05, help="else held out by hash (default: 0.05)")
    command.add_argument("--limit-documents", type=_positive, help="stop after so many documents")
    command.add_argument("--processes", type=_positive, help="how many tokenise (default: one a core)")
    command = data.add_parser("verify", help="Check every byte of a packed corpus against its checksums.")
    command.set_defaults(command=_verify)
    command.add_argument("directory", type=Path, help="directory of the packed corpus")

    command = add("reference", _reference, "Print the reference of all config fields as Markdown.")
    return parser


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
    from configs.plan import Hardware
    from launch.execute import pin_data
    from launch.study import plan_study
    from train.data.open import open_corpus

    gpu = _gpu(arguments.gpu) if getattr(arguments, "gpu", None) else None
    hardware = Hardware(world_size=arguments.ranks, device_memory=gpu.memory if gpu else None)
    planned = plan_study(arguments.study, arguments.overrides, hardware)
    manifest = open_corpus(planned.study.base.data, arguments.data_dir, checksums=checksums)
    return planned, pin_data(planned, manifest), arguments.out or Path("runs") / planned.study.name


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


def _predict(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.predict import predict
    from analysis.prediction_table import print_predictions

    tokens = [_amount("--tokens", text) for text in arguments.tokens]
    width, n_params, batch = (
        _amount(f"--{name.replace('_', '-')}", text) if (text := getattr(arguments, name)) else None
        for name in ("width", "n_params", "batch")
    )
    table, _ = _write_table(arguments.study)
    predictions = predict(table, tokens=tokens, width=width, n_params=n_params, batch=batch, force=arguments.force)
    print_predictions(console, predictions)
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


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
