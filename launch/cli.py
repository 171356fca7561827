"""The `bcrit` command: parse, call, print. Everything it does is a function elsewhere, imported when it is needed."""

import argparse
import sys
from collections.abc import Callable

from rich.console import Console

from configs.errors import ConfigError
from launch.commands import benching, checks, cluster, data, mirrors, probes, recipes, reviewing, runs, studies, tables
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


def _reference(arguments: argparse.Namespace, console: Console) -> int:
    from configs.reference import reference

    print(reference())
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Console], int]] = {
    "plan": studies.plan_command,
    "run": studies.run_command,
    "submit": cluster.submit_command,
    "status": cluster.status_command,
    "cancel": cluster.cancel_command,
    "resubmit": cluster.resubmit_command,
    "table": tables.table_command,
    "import": tables.import_command,
    "wandb": tables.wandb_command,
    "analyse": tables.analyse_command,
    "report": tables.report_command,
    "sync": mirrors.sync_command,
    "review": reviewing.review_command,
    "predict": tables.predict_command,
    "rescale": recipes.rescale_command,
    "warmup": probes.warmup_command,
    "lr-critical": probes.lr_critical_command,
    "universal": runs.universal_command,
    "export": runs.export_command,
    "surge": runs.surge_command,
    "mup": checks.mup_command,
    "coordcheck": checks.coordcheck_command,
    "transfer": checks.transfer_command,
    "rules": checks.rules_command,
    "bench": benching.bench_command,
    "data prepare": data.prepare_command,
    "data verify": data.verify_command,
    "reference": _reference,
}


if __name__ == "__main__":
    sys.exit(main())
