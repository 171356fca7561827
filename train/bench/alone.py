"""One loop in a process of its own, for what only a fresh process can tell: start-up, memory, ranks, neighbours.

`python -m train.bench.alone` reads a line of JSON {config, loop, steps, data_dir, launched}, warms up, writes
{startup_s}, waits for another line, so that neighbours start together, and writes {step_s, peak_bytes}. Ranks find each
other by the environment, as under a launcher.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed as dist

from configs.plan import Hardware, plan
from configs.schema import RunConfig
from train.bench.loops import Loop, Stores, bare, engine_only, nanogpt_style, whole
from train.bench.measure import shortened, with_data
from train.engine import peak_memory_bytes, start_distributed, stop_distributed


def main() -> int:
    """Call one loop twice; the first time warms up."""
    asked = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no part of the answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers)

    start_distributed()
    config, stores = with_data(RunConfig.model_validate(asked["config"]), Path(asked["data_dir"]))
    with ExitStack() as stack:
        loop = _loop(asked["loop"], config, stores, asked["steps"], stack)
        startup = time.time() - asked["launched"]
        loop()
        answer({"startup_s": startup})
        sys.stdin.readline()
        answer({"step_s": loop(), "peak_bytes": peak_memory_bytes()})
    stop_distributed()
    return 0


def _loop(name: str, config: RunConfig, stores: Stores, steps: int, stack: ExitStack) -> Loop:
    hardware = Hardware(world_size=dist.get_world_size())
    short = shortened(config, plan(config, hardware), steps)
    planned = plan(short, hardware)
    if name == "whole":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        return stack.enter_context(whole(short, planned, stores, folder))[0]
    if name == "engine":
        return stack.enter_context(engine_only(short, planned, stores, steps))[0]
    return {"bare": bare, "nanogpt": nanogpt_style}[name](short, planned, stores, steps)[0]


if __name__ == "__main__":
    sys.exit(main())
