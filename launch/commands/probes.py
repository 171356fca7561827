"""Commands that look at the loss around a state of a run."""

import argparse

from rich.console import Console

from configs.errors import ConfigError


def lr_critical_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.load import load_run
    from configs.rundir import read_config
    from train.critical_run import critical_lr_of_run
    from train.engine import start_distributed, stop_distributed

    run_dir = arguments.target if arguments.target.is_dir() else None
    if run_dir and arguments.overrides:
        raise ConfigError(f"{' '.join(arguments.overrides)}: a run is looked at as it was trained; give its YAML file")
    config = read_config(run_dir) if run_dir else load_run(arguments.target, arguments.overrides)
    start_distributed()
    try:
        with console.status("searching"):
            found, tokens = critical_lr_of_run(
                config, run_dir, arguments.data_dir, arguments.start, arguments.highest, arguments.delta
            )
    finally:
        stop_distributed()
    said = {
        "found": f"lr_critical = {found.high:.4g}: a step of {found.low:.4g} lowers the loss, one of {found.high:.4g} "
        "does not",
        "below_start": f"lr_critical <= {found.high:.4g}: a step of that already raises the loss; lower --start",
        "above_target": f"lr_critical > {found.high:.4g}: a step of that still lowers the loss; raise --highest",
    }
    console.print(said[found.outcome], highlight=False, soft_wrap=True)
    where = f"at {tokens:,} tokens, where the loss of the batch is {found.loss:.4f} nats"
    console.print(f"{where}; {found.passes} forward passes", highlight=False, soft_wrap=True)
    return 0


def warmup_command(arguments: argparse.Namespace, console: Console) -> int:
    from analysis.report.warmup import write_warmup
    from analysis.trajectories import trajectories
    from launch.commands.asked import collected

    table, _ = collected(arguments.study)
    page = write_warmup(table, trajectories(arguments.study), arguments.study.name, arguments.study / "warmup")
    console.print(f"wrote {page}")
    return 0
