"""How far two trajectories are apart, and how far apart plain PyTorch loops are that should be equal.

The measure. Losses and norms: the largest relative difference of a step. Parameters and moments: for each tensor the
sum of |a - b| over the sum of |b|, and of the tensors the worst. Sums of absolute values, because Adam divides every
coordinate's gradient by that coordinate's own size: where the gradients of a coordinate nearly cancel, rounding moves
the weight by as much as a real gradient does. Such coordinates are few, but a maximum sees nothing else, and squares
see little else. Between fp32 loops that only sum in another order, the largest difference of a parameter varied by a
factor of 46 from loop to loop, the relative L2 norm by 24, the relative L1 norm by 4. A defect in a layout moves whole
tensors, and all three alike.

The floor. Loops that differ only in what a layout may change: into how many micro-batches the batch is cut, the order
of the samples, which AdamW kernel, fp64 in place of fp32. The largest deviation among them is the noise floor, at
least the rounding of one fp32 number; FACTOR times the floor is the tolerance.

In bf16 a gradient of a micro-batch is rounded to 8 bits, so loops with other micro-batches differ by 1e-3 after a few
steps; that hides a gradient that is summed in bf16. So bf16 engines are compared with the loop that has the same
micro-batches, and single steps are compared too, each from the engine's own state before it: with bit-equal
gradients to begin with, only the arithmetic between gradient and weight is left, which is fp32 and must agree as fp32
does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.parity.cells import PRECISIONS, SINGLE_STEPS, Precision, config_of
from tests.parity.reference import EXACT, Loop, Split, State, Trajectory, into, run

QUANTITIES = ("loss", "norm", "parameters", "exp_avg", "exp_avg_sq")
FACTOR = 4.0
PARTS = (1, 2, 4, 8)  # micro-batches of a step over all ranks
Deviation = dict[str, float]  # by quantity


def deviation(a: Trajectory, b: Trajectory) -> Deviation:
    """How far `a` is from `b`, by quantity."""

    def of_steps(key: str) -> float:
        return max(abs(x / y - 1) for x, y in zip(getattr(a, key), getattr(b, key), strict=True))

    def of_tensors(key: str) -> float:
        ours, theirs = getattr(a.end, key), getattr(b.end, key)
        assert ours.keys() == theirs.keys()
        return max(_relative_l1(ours[name], theirs[name]) for name in theirs)

    return {"loss": of_steps("losses"), "norm": of_steps("norms")} | {key: of_tensors(key) for key in QUANTITIES[2:]}


def worst(deviations: Sequence[Deviation]) -> Deviation:
    """The largest deviation of each quantity."""
    return {key: max(each[key] for each in deviations) for key in QUANTITIES}


@dataclass(frozen=True)
class Plain:
    """The plain loops that everything is compared with."""

    runs: dict[tuple[Precision, int], Trajectory]  # by precision and number of micro-batches
    starts: dict[Precision, dict[int, State | None]]  # the state before each of SINGLE_STEPS; None is the initial one


def loop_of(precision: Precision, parts: int) -> Loop:
    """The loop that an engine with so many micro-batches a step is compared with."""
    return Loop() if precision == "fp32" else Loop(into(parts), compute=torch.bfloat16)


def plain_loops(batches: Sequence[Tensor]) -> Plain:
    """Run them."""
    exact = run(config_of("fp32"), batches, Loop())
    runs: dict[tuple[Precision, int], Trajectory] = {("fp32", parts): exact for parts in PARTS}
    for parts in PARTS:
        runs["bf16", parts] = run(config_of("bf16"), batches, loop_of("bf16", parts))
    starts: dict[Precision, dict[int, State | None]] = {
        precision: {
            number: run(config_of(precision), batches[: number - 1], loop_of(precision, 1)).end if number > 1 else None
            for number in SINGLE_STEPS
        }
        for precision in PRECISIONS
    }
    return Plain(runs, starts)


def of_single_steps(
    batches: Sequence[Tensor], plain: Plain, precision: Precision, parts: int, other: Loop
) -> Deviation:
    """How far the single steps of another loop are from those of the loop it should equal."""
    config, found = config_of(precision), []
    for number, start in plain.starts[precision].items():
        here = batches[number - 1 : number]
        found.append(deviation(run(config, here, other, start), run(config, here, loop_of(precision, parts), start)))
    return worst(found)


def of_run(batches: Sequence[Tensor], plain: Plain, precision: Precision, parts: int, other: Loop) -> Deviation:
    """How far the whole run of another loop is from that of the loop it should equal."""
    return deviation(run(config_of(precision), batches, other), plain.runs[precision, parts])


def floors(batches: Sequence[Tensor], plain: Plain) -> dict[Precision, dict[str, Deviation]]:
    """Noise floor by precision, of a single step ("step") and of the whole run ("run")."""
    found: dict[Precision, dict[str, Deviation]] = {}
    for precision in PRECISIONS:
        steps, runs = [], []
        for parts in PARTS:
            loop = loop_of(precision, parts)
            for other in _same_mean(loop, parts) if precision == "fp32" else _same_gradients(loop, parts):
                steps.append(of_single_steps(batches, plain, precision, parts, other))
            for other in _same_mean(loop, parts):
                runs.append(of_run(batches, plain, precision, parts, other))
        found[precision] = {"step": _at_least_one_rounding(worst(steps)), "run": _at_least_one_rounding(worst(runs))}
    return found


def tolerances(floors: dict[Precision, dict[str, Deviation]]) -> dict[Precision, dict[str, Deviation]]:
    """FACTOR times the floors."""
    return {
        precision: {view: {key: FACTOR * value for key, value in floor.items()} for view, floor in views.items()}
        for precision, views in floors.items()
    }


def _same_mean(loop: Loop, parts: int) -> Iterator[Loop]:
    """Loops that compute the same mean gradient otherwise."""
    yield replace(loop, split=into(parts), fused=True)
    for seed in (1, 2):
        yield replace(loop, split=shuffled(parts, seed))
    if loop.compute == torch.float32:
        yield replace(EXACT, split=into(parts))


def _same_gradients(loop: Loop, parts: int) -> Iterator[Loop]:
    """Loops whose micro-batches have bit-equal gradients, used otherwise."""
    yield replace(loop, fused=True)
    yield replace(loop, accumulate=torch.float64, master=torch.float64)
    for seed in (1, 2):
        yield replace(loop, split=reordered(parts, seed))


def shuffled(parts: int, seed: int) -> Split:
    """Equal micro-batches of the samples in another order, drawn for each batch."""
    return lambda batch: batch[_permutation(len(batch), seed, batch)].chunk(parts)


def reordered(parts: int, seed: int) -> Split:
    """The micro-batches of `into(parts)` in another order, drawn for each batch."""
    return lambda batch: [batch.chunk(parts)[i] for i in _permutation(parts, seed, batch)]


def _permutation(count: int, seed: int, batch: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 2**32 + int(batch.sum()))
    return torch.randperm(count, generator=generator)


def _relative_l1(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return ((a - b).abs().sum() / b.abs().sum()).item()


def _at_least_one_rounding(floor: Deviation) -> Deviation:
    return {key: max(value, torch.finfo(torch.float32).eps / 2) for key, value in floor.items()}
