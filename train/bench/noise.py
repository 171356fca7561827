"""What the probes of the gradient's noise cost: steps of one run in turn, without a probe, with each of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from configs.plan import Hardware, plan
from configs.schema import RunConfig
from train.bench.loops import Loop, Stores, batches, timed
from train.bench.measure import Ratio, in_turn, ratio
from train.build import built
from train.engine import optimizer_step, set_lr
from train.model import loss_of
from train.noise import NoiseProbe
from train.ranks import mean_over_ranks

PROBES = ("gradients", "gains")


def noise_cost(
    config: RunConfig, stores: Stores, steps: int, rounds: int, on_call: Callable[[], None]
) -> dict[str, Ratio]:
    """By probe, its tokens/s over those of the same steps without one, `steps` of them at a time.

    As in a run the change of the weights is measured where a record would be written. The run must have more than one
    micro-batch a step, so that there is something to see in `gradients`. Needs a process group.
    """
    with ExitStack() as stack:
        loops = {name: stack.enter_context(_probed(config, name, stores, steps)) for name in (None, *PROBES)}
        seconds = in_turn({name or "none": loop for name, loop in loops.items()}, rounds, on_call)
    return {name: ratio(seconds[name], seconds["none"]) for name in PROBES}


@contextmanager
def _probed(config: RunConfig, noise: str | None, stores: Stores, steps: int) -> Iterator[Loop]:
    config = config.model_copy(update={"log": config.log.model_copy(update={"noise": noise})})
    planned = plan(config, Hardware(world_size=1))
    data, number = batches(config, planned, stores, steps), 0
    with built(config, planned) as (engine, _):
        probe = NoiseProbe(engine, config, planned) if noise else None

        def step(batch: torch.Tensor) -> None:
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
