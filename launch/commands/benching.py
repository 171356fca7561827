"""The command that measures speed."""

import argparse
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console

from launch.bench_cases import Case, cases, growth, noise_cases, tiny
from launch.parser import PARTS

LOOPS = ("bare", "nanogpt", "engine", "whole")


def bench_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.rundir import write_json
    from launch.bench_table import print_bench

    quick, parts = arguments.quick, arguments.only or PARTS
    config, overrides = arguments.config, arguments.overrides
    if config is not None and "=" in str(config):  # only overrides were given
        config, overrides = None, [str(config), *overrides]
    asked = cases(config, overrides, quick)
    result: dict[str, Any] = {"machine": _machine()}
    measures = {
        "loops": _loops,
        "noise": _noise,
        "processes": _processes,
        "growth": _growth,
        "slots": _slots,
        "stacked": _stacked,
    }
    with _group_of_one():  # for all parts: DeepSpeed knows the first group of a process alone
        for part in (part for part in PARTS if part in parts):
            result[part] = measures[part](asked, arguments, console)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(arguments.out, result)  # after each part: the whole takes minutes
    print_bench(console, result)
    console.print(f"wrote {arguments.out}")
    return 0


def _machine() -> dict[str, Any]:
    import torch

    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],  # what else ran here when it began
        "torch": torch.__version__,
    }


@contextmanager
def _group_of_one() -> Iterator[None]:
    from train.engine import start_distributed, stop_distributed

    start_distributed()
    try:
        yield
    finally:
        stop_distributed()


def _loops(asked: list[Case], arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Every loop in turn in this process."""
    import torch
    from rich.progress import Progress

    from train.bench.measure import speed, with_data

    rounds = arguments.rounds or (2 if arguments.quick else 9)
    found = {}
    with Progress(console=console) as progress:
        task = progress.add_task("loops in turn", total=len(asked) * (rounds + 1) * len(LOOPS))
        for case in asked:
            torch.set_num_threads(case.threads)
            config, stores = with_data(case.config, arguments.data_dir)
            found[case.name] = asdict(speed(config, stores, case.steps, rounds, lambda: progress.advance(task)))
    return found


def _noise(asked: list[Case], arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Steps with the noise probes against the same without."""
    import torch
    from rich.progress import Progress

    from train.bench.measure import with_data
    from train.bench.noise import PROBES, noise_cost

    rounds, chosen = arguments.rounds or (2 if arguments.quick else 9), noise_cases(arguments.quick)
    found = {}
    with Progress(console=console) as progress:
        task = progress.add_task("noise probes", total=len(chosen) * (rounds + 1) * (len(PROBES) + 1))
        for case in chosen:
            torch.set_num_threads(case.threads)
            config, stores = with_data(case.config, arguments.data_dir)
            cost = noise_cost(config, stores, case.steps, rounds, lambda: progress.advance(task))
            found[case.name] = {probe: asdict(speed) for probe, speed in cost.items()}
    return found


def _processes(asked: list[Case], arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start-up and peak memory, each loop in a process of its own."""
    from launch.alone import alone

    with console.status("loops in processes of their own"):
        return {
            case.name: {
                loop: asdict(alone(case.config, loop, 2, arguments.data_dir, threads=case.threads)) for loop in LOOPS
            }
            for case in asked
        }


def _growth(asked: list[Case], arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """The whole loop's step along one axis at a time."""
    from launch.alone import alone

    steps = 5 if arguments.quick else 20
    with console.status("how a step grows"):
        return [
            {"axis": axis, "value": value, **asdict(alone(config, "whole", steps, arguments.data_dir, ranks=ranks))}
            for axis, value, config, ranks in growth(arguments.quick)
        ]


def _slots(asked: list[Case], arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Runs side by side on this machine's cores, against one run that has them all."""
    from launch.alone import alone

    cores, rows = len(os.sched_getaffinity(0)), []
    with console.status("runs side by side"):
        for width in (32,) if arguments.quick else (32, 64, 128, 256):
            for slots in sorted({1, cores, 2 * cores}):
                config, threads = tiny(f"model.width={width}", "batch_tokens=2^11"), max(1, cores // slots)
                steps = 5 if arguments.quick else 40
                taken = alone(config, "whole", steps, arguments.data_dir, copies=slots, threads=threads)
                rows.append({"width": width, "slots": slots, "threads": threads, **asdict(taken)})
    return rows


def _stacked(asked: list[Case], arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """K runs stacked into one model against the same runs one after another, both without an engine."""
    import torch
    from rich.progress import Progress

    from train.bench.measure import stacked_speed, with_data

    shapes = [(32, 2), (32, 8)]
    if not arguments.quick:
        shapes = [*((width, members) for width in (64, 256) for members in (2, 8, 32)), (1024, 2)]
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    with Progress(console=console) as progress:
        task = progress.add_task("stacked runs", total=2 * (rounds + 1) * len(shapes))
        torch.set_num_threads(1)
        rows = []
        for width, members in shapes:
            config, stores = with_data(tiny(f"model.width={width}", "batch_tokens=2^8"), arguments.data_dir)
            gain = stacked_speed(config, stores, members, rounds, lambda: progress.advance(task))
            rows.append({"width": width, "members": members, "gain": asdict(gain)})
    return rows
