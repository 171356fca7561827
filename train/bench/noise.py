"""What the probes of the gradient's noise cost: `python -m train.bench.noise CONFIG [key=value ...] [--rounds N]`.

Three engines of one run take steps in turn: without a probe, with `gradients`, with `gains`. As in a run the change of
the weights is measured where a record would be written. Needs more than one micro-batch a step.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from configs.load import load_run
from configs.plan import Hardware, plan
from configs.schema import RunConfig
from train.bench.loops import Loop, Stores, batches, timed
from train.bench.measure import in_turn, with_data
from train.build import built
from train.engine import optimizer_step, set_lr, start_distributed, stop_distributed
from train.model import loss_of
from train.noise import NoiseProbe
from train.ranks import mean_over_ranks


@contextmanager
def probed(config: RunConfig, noise: str | None, stores: Stores, steps: int) -> Iterator[Loop]:
    """A loop of `steps` steps with a probe, or without."""
    config = config.model_copy(update={"log": config.log.model_copy(update={"noise": noise})})
    planned = plan(config, Hardware(world_size=1))
    data, number = batches(config, planned, stores, steps), 0
    with built(config, planned) as (engine, _):
        probe = NoiseProbe(engine, config, planned) if noise else None

        def step(batch) -> None:  # noqa: ANN001
            nonlocal number
            number += 1
            set_lr(engine, config.lr)
            losses = (loss_of(engine, micro) for micro in batch.split(planned.micro_batch_seqs))
            if probe is None:
                optimizer_step(engine, losses, config.optimizer.clip_norm)
                return
            recorded = number % planned.log_every_steps == 0
            probe.begin(number, recorded)
            optimizer_step(engine, losses, config.optimizer.clip_norm, None, probe.after_backward)
            probe.after_step()
            if recorded:
                for vectors in probe.taken():
                    mean_over_ranks(vectors)

        yield lambda: timed(step, data, steps)


def main() -> int:
    """Print the cost of each probe in per cent of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8, help="of a loop in a round")
    arguments = parser.parse_args()
    start_distributed()
    config, stores = with_data(load_run(arguments.config, arguments.overrides), Path("data"))
    with ExitStack() as stack:
        loops = {
            name: stack.enter_context(probed(config, None if name == "none" else name, stores, arguments.steps))
            for name in ("none", "gradients", "gains")
        }
        seconds = in_turn(loops, arguments.rounds, lambda: None)
    planned = plan(config, Hardware(world_size=1))
    how = f"{planned.n_params:,} parameters, {config.batch_tokens:,} tokens in {planned.accumulation} micro-batches"
    print(f"{how}, a record in {planned.log_every_steps} steps, {arguments.rounds} rounds of {arguments.steps} steps")
    print(f"step without a probe: {np.median(seconds['none']) * 1000:.1f} ms")
    for name in ("gradients", "gains"):
        low, median, high = np.percentile(seconds[name] / seconds["none"] - 1, (25, 50, 75)) * 100
        least = (seconds[name].min() / seconds["none"].min() - 1) * 100
        print(f"{name}: {median:+.2f} % [{low:+.2f}, {high:+.2f}] of a step, by the fastest rounds {least:+.2f} %")
    stop_distributed()
    return 0


if __name__ == "__main__":
    sys.exit(main())
