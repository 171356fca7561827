"""What `bcrit lr-critical` does: the critical rate at a run's newest checkpoint, or before a run's first step."""

from pathlib import Path

from configs.errors import ConfigError
from configs.identity import run_id
from configs.plan import Hardware, check_tokens, plan
from configs.schema import RunConfig
from configs.svag import length_of
from train import checkpoints
from train.build import built
from train.critical_lr import CriticalLr, critical_lr
from train.data.batches import open_split
from train.data.open import open_corpus
from train.engine import device, set_groups
from train.feed import samples
from train.ranks import world
from train.trial import trial_steps


def critical_lr_of_run(
    config: RunConfig, run_dir: Path | None, data_dir: Path, start: float, highest: float, delta: float
) -> tuple[CriticalLr, int]:
    """The critical rate at a run's newest checkpoint, or before the first step of a config, and the tokens seen there.

    The batch is the one that comes next, at the end of a run the last one. Raises ConfigError without a checkpoint.
    """
    if length_of(config) > 1:
        raise ConfigError(
            f"optimizer.svag = {config.optimizer.svag}: a trial step is of the optimizer itself; empty it"
        )
    corpus = open_corpus(config.data, data_dir)
    planned = plan(config, Hardware(world_size=world()))
    check_tokens(config, corpus.train.tokens, corpus.valid.tokens, corpus.vocab_size)
    store = open_split(corpus, "train", config.model.seq_len)
    with built(config, planned) as (engine, rows):
        tokens = 0
        if run_dir is not None:
            newest = checkpoints.newest_intact(run_dir)
            if newest is None:
                raise ConfigError(f"{run_dir}: no checkpoint there; keep one with checkpoint.keep, or give a YAML file")
            tokens = checkpoints.load(engine, newest, run_id(config), config).tokens
            set_groups(engine, rows, config)
        batch = samples(store, config, planned, min(tokens, config.budget_tokens - config.batch_tokens))
        steps = trial_steps(engine, config, batch.to(device()).split(planned.micro_batch_seqs))
        return critical_lr(*steps, start, highest, delta), tokens
