"""What `bcrit` can be asked: commands, their arguments and help. What they do is in `launch.commands`."""

import argparse
import sys
from pathlib import Path

from configs.errors import ConfigError
from configs.expressions import axis_values, number
from configs.scaling import RULES

PARTS = ("loops", "noise", "processes", "growth", "slots", "stacked")  # of a benchmark


def parse(argv: list[str] | None) -> argparse.Namespace:
    """What is asked; `key=value` may stand anywhere behind the command. Exits as argparse does if it is wrong."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["table"] and argv[1:2] in (["import"], ["wandb"]):  # a directory of such a name is ./import
        argv = argv[1:]
    root = parser()
    arguments, rest = root.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any("=" not in word or word[0] == "-" for word in rest)):
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def parser() -> argparse.ArgumentParser:
    """The parser; what it parses names its command in `command`, such as `plan` or `data prepare`."""
    root = argparse.ArgumentParser(prog="bcrit", description="How lr and batch size grow with tokens and width.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(command=name)
        return command

    for name, text in (
        ("plan", "Check a study and print its runs, tokens, FLOPs and estimated time; nothing is started."),
        ("run", "Train what is not finished of a study, on this machine."),
    ):
        command = add(name, text)
        command.add_argument("study", type=Path, metavar="STUDY", help="YAML file of a study (see configs/studies)")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: base.precision=bf16")
        command.add_argument("--out", type=Path, help="directory of the study (default: runs/<name>)")
        command.add_argument("--workers", type=_positive, help="runs at a time (default: one a core or device group)")
        command.add_argument("--ranks", type=_positive, default=1, help="processes (devices) a run (default: 1)")
        command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")
        if name == "plan":
            command.add_argument("--gpu", help="check that the runs fit on this GPU, e.g. h100")
            command.add_argument("--all", action="store_true", help="print every run of a long table")

    command = add(
        "submit", "Submit what is left of a study to a SLURM cluster, as job arrays and a job for the report."
    )
    command.add_argument("study", type=Path, metavar="STUDY", help="YAML file of a study (see configs/studies)")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: base.precision=bf16")
    command.add_argument("--site", type=Path, required=True, help="YAML file of the cluster (see configs/sites)")
    command.add_argument("--dry-run", action="store_true", help="print the scripts; nothing is written or submitted")
    command.add_argument("--out", type=Path, help="directory of the study (default: runs/<name>)")
    command.add_argument("--ranks", type=_positive, default=1, help="processes (devices) a run (default: 1)")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    for name, text in (
        ("status", "Show where the runs of a study stand. Exit code 0: all have ended; 3: under way; 1: nobody works."),
        ("cancel", "Take a study out of the queue; what runs checkpoints and ends."),
        ("resubmit", "Submit what is left of a study again, as it was submitted, with the code of now."),
    ):
        command = add(name, text)
        command.add_argument("study", type=Path, metavar="STUDY", help="directory of a study, or its YAML file")
        command.add_argument("--out", type=Path, help="its directory, if the file was given (default: runs/<name>)")
        if name == "status":
            command.add_argument("--watch", action="store_true", help="again every few seconds, while it is under way")
            command.add_argument("--all", action="store_true", help="also the runs that have ended")
        elif name == "cancel":
            command.add_argument("--now", action="store_true", help="end running tasks, too, in SLURM's way")
        else:
            command.add_argument("--site", type=Path, help="another cluster, or other limits")
            command.add_argument("--parked", action="store_true", help="also runs that failed again and again")
            command.add_argument("--dry-run", action="store_true", help="print the scripts only")

    for name, text in (
        (
            "table",
            "Collect a study's runs into its run table; `bcrit table import FILE` or `wandb PROJECT` reads others'.",
        ),
        ("analyse", "Fit the laws to the runs of a study, or to an imported table, and write laws.json."),
        ("report", "Write a report: one HTML page that opens offline; also a W&B Report if asked."),
    ):
        command = add(name, text)
        command.add_argument("study", type=Path, metavar="DIR", help="directory of a study or of an import")
        if name != "table":
            command.add_argument("--window", type=_window, default=5, help="learning rates a parabola (default: 5)")
        if name == "report":
            command.add_argument(
                "--wandb", metavar="ENTITY/PROJECT", help="publish it in Weights & Biases, with live panels"
            )

    command = add("review", "Check a report as a careful reviewer would: its numbers, runs, bounds, words and axes.")
    command.add_argument(
        "report", metavar="REPORT", help="directory of a report or of its study, or the address of a W&B Report"
    )
    command.add_argument("--table", type=Path, metavar="FILE", help="the run table (default: the one beside the page)")

    for name, text in (
        ("import", "Read a CSV, Parquet or JSON Lines table of runs, or of steps to a target loss."),
        ("wandb", "Read the runs of a Weights & Biases project as a run table."),
    ):
        command = add(name, text)
        if name == "import":
            command.add_argument("file", type=Path, metavar="FILE", help="the table")
        else:
            command.add_argument("project", metavar="ENTITY/PROJECT", help="whose runs")
            command.add_argument(
                "--history",
                type=lambda keys: keys.split(","),
                default=[],
                metavar="KEY,KEY",
                help="a row for each logged row that has these keys, e.g. tokens,valid/loss (default: a row a run)",
            )
        command.add_argument("--preset", type=Path, metavar="YAML", help="a mapping in a file (see configs/presets)")
        command.add_argument(
            "--map", action="append", default=[], metavar="NAME=EXPR", help="a column from an expression of theirs"
        )
        command.add_argument("--where", metavar="CONDITION", help="rows to use, e.g. \"schedule == 'wsd'\"")
        command.add_argument(
            "--group",
            action="append",
            default=[],
            metavar="EXPR",
            help="what else differs; each value is analysed apart",
        )
        command.add_argument("--diverged-above", type=float, metavar="NATS", help="loss from which a run diverged")
        command.add_argument("--out", type=Path, help="directory (default: runs/<name of the table>)")

    command = add("sync", "Replay a study's runs to Weights & Biases; sends what is missing there, each row once.")
    command.add_argument("study", type=Path, metavar="STUDY", help="directory of a study or of a run")
    command.add_argument(
        "--project", metavar="[ENTITY/]PROJECT", help="where to (default: log.wandb_project of each run)"
    )

    command = add("predict", "Read the fitted laws at budgets and sizes that were not trained.")
    command.add_argument("study", type=Path, metavar="DIR", help="directory of a study or of an import")
    command.add_argument("--tokens", required=True, nargs="+", metavar="T", help="budgets in tokens, e.g. 2^20 5e9")
    command.add_argument("--width", metavar="N", help="width of the model (default: the table's, if it has one)")
    command.add_argument("--n-params", metavar="P", help="or its parameters, with embeddings")
    command.add_argument("--batch", metavar="B", help="also lr* at this batch, in tokens")
    command.add_argument("--force", action="store_true", help="also beyond the reach of the laws")

    command = add(
        "rescale", "Write the recipe of a run at another batch: which lr, betas, eps and decay keep its course."
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of a run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field first: lr=2^-8")
    command.add_argument("--batch-tokens", type=_tokens, required=True, metavar="B", help="the new batch, e.g. 2^14")
    command.add_argument("--budget-tokens", type=_tokens, metavar="T", help="a new budget (default: the run's)")
    command.add_argument("--rule", choices=tuple(RULES), help="default: the optimizer's; sqrt for Adam and RMSprop")
    command.add_argument("--noise-scale", type=_rate, metavar="TOKENS", help="as measured: warn of batches above it")
    command.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: print it)")

    command = add("warmup", "Phase diagrams of warmup, and how sharp the loss was on the way: one HTML page.")
    command.add_argument("study", type=Path, metavar="DIR", help="directory of a study such as warmup_phase")

    command = add("lr-critical", "Search the smallest learning rate at which one step raises the loss.")
    command.add_argument(
        "target",
        type=Path,
        metavar="RUN|CONFIG",
        help="a run's directory, looked at where its newest checkpoint is, or a run's YAML file: before its first step",
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: model.width=256")
    command.add_argument("--start", type=_rate, default=1e-4, help="first rate that is tried (default: 1e-4)")
    command.add_argument("--highest", type=_rate, default=1.0, help="last rate that is tried (default: 1)")
    command.add_argument("--delta", type=_rate, default=0.01, help="part by which the loss may rise (default: 0.01)")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    command = add("universal", "Make a stopped run's checkpoint fit any number of ranks and ZeRO stage.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. runs/quickstart/runs/<id>")

    command = add("export", "Write a run's weights as a plain Hugging Face model with its card.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. runs/quickstart/runs/<id>")
    command.add_argument("--tokens", type=_positive, help="checkpoint to export (default: the newest)")
    command.add_argument("--out", type=Path, help="directory (default: RUN/model, or RUN/model-ema)")
    command.add_argument("--ema", action="store_true", help="the average of the weights instead")

    command = add("surge", "Predict B_noise and lr*(B) from one checkpoint (Surge), and measure them by line search.")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's directory, e.g. runs/quickstart/runs/<id>")
    command.add_argument("--tokens", type=_tokens, help="checkpoint to measure (default: the newest)")
    command.add_argument("--blocks", type=_positive, default=16, help="independent parts of the data (default: 16)")
    command.add_argument("--max-batch-tokens", type=_tokens, metavar="B", help="largest batch (default: 256 sequences)")
    command.add_argument("--micro-seqs", type=_positive, default=1, help="sequences of the smallest batch (default: 1)")
    command.add_argument(
        "--probe-seqs", type=_positive, default=16, help="sequences a block for Hessian and losses (default: 16)"
    )
    command.add_argument("--out", type=Path, help="directory (default: RUN/surge/<tokens>)")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    command = add("mup", "Print the parametrisation of every parameter of a run.")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of a run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field, e.g. model.width=256")
    command.add_argument("--base-shapes", type=Path, help="a base-shape file of mup's that must agree with the table")
    command.add_argument("--save-base-shapes", type=Path, metavar="FILE", help="write such a file for mup")

    command = add("coordcheck", "Train some widths for a few steps: does any activation depend on width?")
    command.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of a run")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: engine.zero_stage=2")
    command.add_argument("--widths", type=_integers, help="e.g. 64,128,256 (default: 1, 2, 4 times the base width)")
    command.add_argument("--seeds", type=_positive, default=3, help="runs a width (default: 3)")
    command.add_argument("--steps", type=_positive, default=10, help="steps of a run (default: 10)")
    command.add_argument("--grow", choices=("heads", "head-size"), default="heads", help="how a model grows wider")
    command.add_argument("--control", action="store_true", help="train standard parametrisation too; it should fail")
    command.add_argument("--out", type=Path, help="directory of the result (default: runs/coordcheck-<config>)")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    command = add("rules", "Compare a study's runs under scaling rules, or SVAG: which rule held, and where it fails.")
    command.add_argument("directory", type=Path, metavar="DIR", help="a study, such as runs/rule-check")

    command = add("transfer", "Sweep learning rates over widths: does the best one stay where it is?")
    command.add_argument(
        "target",
        type=Path,
        metavar="CONFIG|STUDY",
        help="YAML file of a run to sweep, or the directory of a study that was run; every setting it varies is judged",
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: budget_tokens=2^18")
    command.add_argument("--widths", type=_integers, default=(), help="default: 1, 2, 4 times the base width")
    command.add_argument("--lrs", type=_rates, default=(), help="e.g. 2^-10..2^-4 (default: the run's, times 1/8..8)")
    command.add_argument("--seeds", type=_positive, default=3, help="runs a learning rate (default: 3)")
    command.add_argument("--out", type=Path, help="directory of the study (default: runs/transfer-<config>)")
    command.add_argument("--workers", type=_positive, help="runs at a time (default: one a core or device group)")
    command.add_argument("--ranks", type=_positive, default=1, help="processes (devices) a run (default: 1)")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    command = add("bench", "Measure the whole training loop against bare ones, and what each of its parts costs.")
    command.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", help="YAML file of a run (default: two sizes)"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="override a field: batch_tokens=2^12")
    command.add_argument("--quick", action="store_true", help="one tiny size and few steps: does it work?")
    command.add_argument("--only", choices=PARTS, action="append", help="one part of it (may be given again)")
    command.add_argument("--rounds", type=_positive, help="times that every loop is run (default: 9)")
    command.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="default: runs/bench.json")
    command.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus lies")

    data = add("data", "Prepare and check packed corpora.").add_subparsers(required=True, metavar="ACTION")
    command = data.add_parser("prepare", help="Tokenise documents once into memory-mapped shards with a manifest.")
    command.set_defaults(command="data prepare")
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
    command.set_defaults(command="data verify")
    command.add_argument("directory", type=Path, help="directory of the packed corpus")

    command = add("reference", "Print the reference of all config fields as Markdown.")
    return root


def _integers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, axis_values(text if ".." in text else text.split(","))))
    except (ConfigError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> float:
    try:
        return float(number(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _tokens(text: str) -> int:
    value = _rate(text)
    if value != round(value) or value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of tokens")
    return round(value)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _window(text: str) -> int:
    value = int(text)
    if value < 3:
        raise argparse.ArgumentTypeError("a parabola needs at least 3")
    return value
