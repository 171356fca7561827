"""What the ranks of a run do together: act once, speak once, decide alike."""

import errno
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from configs.errors import ConfigError

T = TypeVar("T")


def rank() -> int:
    """This process's number; 0 where there is no process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Processes of the run; 1 where there is no process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_rank_0(action: Callable[[], T]) -> T:
    """Rank 0's result on every rank, or its mistake: ConfigError, also for a path that cannot be used."""
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = action()
        except ConfigError as error:
            box[1] = str(error)
        except OSError as error:
            remedy = "; choose another path" if error.errno in (errno.ENOENT, errno.EACCES, errno.EROFS) else ""
            box[1] = f"{error.filename or 'the disk'}: {error.strerror}{remedy}"
    if world() > 1:
        dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise ConfigError(box[1])
    return box[0]


def together(action: Callable[[], T]) -> T:
    """Each rank's own result, if every rank has one; the first mistake on all of them otherwise (ConfigError)."""
    result, problem = None, None
    try:
        result = action()
    except ConfigError as error:
        problem = str(error)
    if found := next(filter(None, gathered(problem)), None):
        raise ConfigError(found)
    return cast(T, result)


def gathered(mine: T) -> list[T]:
    """What every rank has, in the order of ranks."""
    if world() == 1:
        return [mine]
    everyone: list[Any] = [None] * world()
    dist.all_gather_object(everyone, mine)
    return everyone


def agree(mine: bool, other: bool, device: torch.device) -> tuple[bool, bool]:
    """Two decisions that hold for all ranks: yes to the first if any rank says so, to the second if rank 0 does."""
    if world() == 1:
        return mine, other
    flags = torch.tensor([mine, other and rank() == 0], dtype=torch.int32, device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    first, second = flags.tolist()
    return bool(first), bool(second)


def mean_over_ranks(values: list[torch.Tensor]) -> list[Any]:
    """Each rank's scalars (or vectors of one length) as means over all ranks."""
    if not values:
        return []
    stacked = torch.stack(values).double()
    if world() > 1:
        dist.all_reduce(stacked)
    return (stacked / world()).tolist()


def say(text: str) -> None:
    """Print once, not once a rank."""
    if rank() == 0:
        print(text, flush=True)
