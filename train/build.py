"""From a run's configuration to an engine that trains it: model, initial weights, checked groups, DeepSpeed."""

from collections.abc import Iterator
from contextlib import contextmanager

from configs.plan import Plan
from configs.schema import RunConfig
from configs.svag import stepped
from train.engine import Engine, born_sharded, device, release, whole, wrap
from train.model import blank, initialise
from train.parametrization import Row, verify


@contextmanager
def built(config: RunConfig, plan: Plan) -> Iterator[tuple[Engine, tuple[Row, ...]]]:
    """The engine of a freshly initialised model and the table it was built from; freed when the block is left."""
    with born_sharded(config, plan):
        network = blank(config.model, liger=config.engine.liger)
    # zero.Init makes buffers in the compute precision; bf16 frequencies would turn late positions by a radian.
    network.model.rotary_emb = type(network.model.rotary_emb)(network.config).to(device())
    initialise(network, config.model, config.seed, whole)
    if config.engine.activation_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if config.engine.zero_stage < 3:
        network.to(device())  # pyright: ignore[reportArgumentType]
    recipe = stepped(config)
    rows = verify(network, recipe)
    engine = wrap(network, rows, recipe, plan)
    try:
        yield engine, rows
    finally:
        release(engine)
