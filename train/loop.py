"""The training of one run, on one screen: what comes in which order, and how it ends."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from configs.plan import Plan
from configs.rundir import State, Status
from configs.schema import RunConfig
from train.attempt import Attempt
from train.data.batches import TokenStore
from train.data.prefetch import prefetched
from train.engine import Engine, device
from train.feed import samples
from train.parametrization import Row
from train.ranks import agree


def train(
    engine: Engine,
    rows: tuple[Row, ...],
    config: RunConfig,
    plan: Plan,
    stores: tuple[TokenStore, TokenStore],
    run_dir: Path,
    previous: Status,
    stop_requested: Callable[[], bool],
    on_row: Callable[[dict[str, Any]], None],
) -> Status:
    """Train from the newest checkpoint (or its trunk's, or from scratch) to the budget, a stop, or divergence.

    `engine` and `rows` come from `train.build.built`. `stores` are the training and validation tokens; `previous` is
    the status left by earlier attempts. `on_row` gets every metrics row as it is written. Returns the status.
    """
    attempt = Attempt(engine, rows, config, plan, stores, run_dir, previous, on_row)
    attempt.start()
    state: State = "finished"
    tokens = first = attempt.position.tokens
    batches = prefetched(
        lambda begin: samples(stores[0], config, plan, begin), range(first, config.budget_tokens, plan.step_tokens)
    )
    with closing(batches):
        for begin, mine in attempt.pace.waiting(batches):
            attempt.step(begin, mine)
            tokens = begin + plan.step_tokens
            if reason := attempt.taken(tokens):
                attempt.record.update(tokens=tokens, message=f"{reason} at {tokens:,} tokens")
                state = "diverged"
                break
            attempt.probe(tokens)
            attempt.told(tokens)
            stopping, due = agree(stop_requested(), attempt.checkpoint_due(tokens), device())
            if tokens < config.budget_tokens and (stopping or due or tokens in plan.kept_tokens):
                attempt.checkpoint(tokens)
                if stopping:
                    state = "preempted"
                    break
    return attempt.end(state, trained=tokens > first)
