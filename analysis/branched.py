"""The branched critical batch: how large a batch may be from a checkpoint on without losing anything.

Merrill et al. 2025 (Critical batch size revisited): branch off one checkpoint with batches k B, train all for the same
tokens; k* is the largest k whose loss, and that of every smaller one, is within a tolerance of all below it. Local in
time: it belongs to the tokens at which the branches left.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.results import CriticalBatch, Estimate

TOLERANCE = 0.01  # nats, of Merrill et al.
MIN_BRANCHES = 3


def branched_batch(batch: ArrayLike, loss: ArrayLike, tolerance: float = TOLERANCE) -> Estimate:
    """k* in the units of `batch` with its bracket [k*, next batch], from branches (n,) of equal length; NaN: diverged.

    The value is the geometric mean of the bracket, as in the paper. A bound where the largest batch loses nothing, or
    the second loses already (nothing smaller was tried, so k* may lie below the first).
    """
    order = np.argsort(np.asarray(batch, float))
    sizes = np.asarray(batch, float)[order]
    losses = np.nan_to_num(np.asarray(loss, float)[order], nan=np.inf, posinf=np.inf)
    method = f"largest branch within {tolerance:g} nats of all smaller ones, {sizes.size} batches"
    if sizes.size < 2 or not np.isfinite(losses[0]):
        return Estimate(None, None, None, "tokens", "not_identified", method)
    best_below = np.minimum.accumulate(losses)[:-1]
    worse = np.flatnonzero(losses[1:] > best_below + tolerance)
    if worse.size == 0:
        return Estimate(None, float(sizes[-1]), None, "tokens", "lower_bound", method)
    fails = int(worse[0]) + 1
    if fails == 1:
        return Estimate(None, None, float(sizes[1]), "tokens", "upper_bound", method)
    low, high = float(sizes[fails - 1]), float(sizes[fails])
    return Estimate(float(np.sqrt(low * high)), low, high, "tokens", "ok", method)


def branched_batches(table: pd.DataFrame) -> Iterator[CriticalBatch]:
    """One for every point (N, tokens of a trunk) off which three batches branch to the same T, the largest there is.

    Trunks that differ in their seed alone are one, and losses means over seeds. At each batch the learning rate (or
    recipe) with the lowest mean loss counts, where the paper takes sqrt(k) lr: a batch is given its best chance. A
    trunk with a batch or learning rate of its own for every branch (a cooldown) has none.
    """
    if not {"parent", "branch_tokens"} <= set(table):
        return
    branches = table[table["parent"].notna() & (table["branch_tokens"] > 0)]
    recipe = ["lr", *({"setting"} & set(branches))]
    for _, trunk in branches.assign(trunk=_trunks(branches)).groupby(["trunk", "branch_tokens"], sort=True):
        for _, runs in sorted(trunk.groupby("tokens"), reverse=True):
            by_rate = runs.groupby(["batch_tokens", *recipe], dropna=False)["loss"].agg(
                lambda loss: loss.mean(skipna=False)
            )
            by_batch = by_rate.groupby("batch_tokens").min()  # of the learning rates that did not diverge
            if len(by_batch) >= MIN_BRANCHES:
                at = int(runs["branch_tokens"].iloc[0])
                yield CriticalBatch("branched", at, branched_batch(by_batch.index, by_batch))  # pyright: ignore
                break


def _trunks(branches: pd.DataFrame) -> pd.Series:
    """Name of the trunk of each row: the width where a width has one trunk a seed, else the trunk's own."""
    if not {"width", "seed"} <= set(branches):
        return branches["parent"]
    by_seed = branches.groupby(["width", "seed", "branch_tokens"])["parent"].nunique()
    alike = by_seed.groupby("width").max().eq(1)
    return branches["parent"].where(~branches["width"].map(alike), branches["width"].astype(str))
