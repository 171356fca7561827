"""Commands that write to Weights & Biases."""

import argparse

from rich.console import Console

from configs.errors import ConfigError

MOST_FAILURES = 5  # that are printed


def sync_command(arguments: argparse.Namespace, console: Console) -> int:
    from rich.progress import Progress

    from configs.mirrored import split_project
    from launch.wandb_server import ServerError, connect
    from launch.wandb_sync import Replayed, jobs_of, sync

    entity, project = split_project(arguments.project)
    done: list[Replayed] = []
    jobs, stopped = [], ""
    with Progress(console=console) as progress:
        task = progress.add_task(f"runs of {arguments.study}", total=None)

        def tell(replayed: Replayed) -> None:
            done.append(replayed)
            progress.update(task, completed=len(done), total=len(jobs))

        try:
            server = connect()
            jobs = jobs_of(arguments.study, server, entity, project)
            if not jobs:
                raise ConfigError(f"{arguments.study}: no run has begun; train it with `bcrit run` first")
            sync(server, jobs, tell)
        except ServerError as error:
            stopped = str(error)
    failed = [replayed for replayed in done if replayed.failure]
    sent = [replayed for replayed in done if replayed.lines and not replayed.failure]
    whole = len(done) - len(failed)
    console.print(
        f"{whole} of {len(jobs)} runs are complete in Weights & Biases: {len(sent)} were sent "
        f"{sum(replayed.lines for replayed in sent):,} rows, {whole - len(sent)} lacked none",
        highlight=False,
    )
    for replayed in failed[:MOST_FAILURES]:
        console.print(f"{replayed.job.run_dir}: {replayed.failure}", style="red", markup=False)
    if stopped or failed:
        why = stopped or f"{len(failed)} runs are incomplete"
        console.print(f"{why}; the same command goes on", style="red", markup=False)
    return 1 if stopped or failed else 0
