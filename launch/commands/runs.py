"""Commands on the checkpoints of one run."""

import argparse
from pathlib import Path

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


def surge_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.report.surge import write_surge_page
    from analysis.surge_measured import FILE, lines, read_surge, write_surge
    from launch.commands.asked import print_notes
    from launch.progress import working
    from train.surge_checkpoint import Sampling, measure_checkpoint

    sampling = Sampling(blocks=arguments.blocks, micro_seqs=arguments.micro_seqs, probe_seqs=arguments.probe_seqs)
    with working(console, "measuring") as advance:
        out: Path = measure_checkpoint(
            arguments.run,
            arguments.tokens,
            arguments.max_batch_tokens,
            sampling,
            arguments.out,
            arguments.data_dir,
            advance,
        )
    surge = read_surge(out / FILE)
    paths = (*write_surge(surge, out), write_surge_page(surge, out))
    for line in lines(surge):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print_notes(console, (*surge.prediction.notes, *surge.measured.notes))
    for path in paths:
        console.print(f"wrote {path}")
    return 0
