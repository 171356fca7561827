"""Commands on the checkpoints of one run."""

import argparse

from rich.console import Console

from configs.errors import ConfigError


def universal_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.claims import claim, release
    from configs.rundir import read_config
    from train.checkpoints import newest_intact
    from train.universal import check_convertible, convert

    checkpoint = newest_intact(arguments.run)
    if checkpoint is None:
        raise ConfigError(f"{arguments.run}: no checkpoint there; give the directory of a run that was stopped")
    check_convertible(read_config(arguments.run))
    if not claim(arguments.run):
        raise ConfigError(f"{arguments.run}: a process works on it; stop the run first")
    try:
        with console.status("converting"):
            path = convert(checkpoint)
    finally:
        release(arguments.run)
    console.print(f"wrote {path}; any number of ranks and any ZeRO stage can go on from it")
    return 0


def export_command(arguments: argparse.Namespace, console: Console) -> int:
    from train.export import export

    with console.status("exporting"):
        path = export(arguments.run, arguments.tokens, arguments.out, ema=arguments.ema)
    console.print(f"wrote {path}")
    return 0
