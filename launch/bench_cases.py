"""What `bcrit bench` measures where nothing else is asked."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import load_run
from configs.schema import RunConfig

RUNS = Path(__file__).resolve().parent.parent / "configs" / "runs"
TINY = (  # the quickstart's runs
    "model={width: 32, base_width: 32, depth: 2, head_dim: 16, seq_len: 128}",
    "engine={zero_stage: 0}",
    "readout_tokens=[]",
)
TEN_M = (
    "precision=fp32",
    "batch_tokens=2^10",
    "budget_tokens=2^17",
    "schedule.warmup_tokens=0",
    "data.valid_tokens=2^13",
)


@dataclass(frozen=True)
class Case:
    """A run to be timed, how many steps at a time, and on how many threads."""

    name: str
    config: RunConfig
    steps: int
    threads: int  # one for a small run: a study's workers have a core each


def cases(config: Path | None, overrides: Sequence[str], quick: bool) -> list[Case]:
    """The runs whose loops are compared: the one that is given, or the quickstart's smallest and a middle batch and a
    model of ten million parameters at two ZeRO stages. Raises ConfigError.
    """
    cores = len(os.sched_getaffinity(0))
    if config is not None:
        return [Case(config.stem, load_run(config, overrides), 3 if quick else 20, cores)]
    smallest = Case("tiny, B = 2^8", tiny("batch_tokens=2^8", *overrides), 5 if quick else 60, 1)
    if quick:
        return [smallest]
    middle = Case("tiny, B = 2^11", tiny("batch_tokens=2^11", *overrides), 30, 1)
    ten = [
        Case(
            f"10m, ZeRO-{stage}",
            load_run(RUNS / "10m.yaml", [*TEN_M, f"engine.zero_stage={stage}", *overrides]),
            2,
            cores,
        )
        for stage in (0, 1)
    ]
    return [smallest, middle, *ten]


def noise_cases(quick: bool) -> list[Case]:
    """Runs with the noise probes, of two micro-batches a step: one of the quickstart's, and ten million parameters."""
    smallest = Case("tiny, B = 2^11", tiny("batch_tokens=2^11", "engine.micro_batch_seqs=8"), 8 if quick else 64, 1)
    if quick:
        return [smallest]
    # A record in 12 steps, as the file itself has it over its whole budget.
    fields = (*TEN_M, "engine={zero_stage: 0, micro_batch_seqs: 1}", "log.every_tokens=12*2^10")
    config = load_run(RUNS / "10m.yaml", fields)
    return [smallest, Case("10m, ZeRO-0", config, 8, len(os.sched_getaffinity(0)))]


def tiny(*overrides: str) -> RunConfig:
    """One of the quickstart's runs. Raises ConfigError."""
    return load_run(RUNS / "tiny.yaml", [*TINY, *overrides])


def growth(quick: bool) -> Iterator[tuple[str, int, RunConfig, int]]:
    """Axis, its value, the run there and its ranks: how a step grows with width, batch, accumulation and ranks."""
    for width in (64,) if quick else (64, 128, 256, 512):
        yield "width", width, tiny(f"model.width={width}", "batch_tokens=2^11"), 1
    for batch in () if quick else (2**9, 2**11, 2**13):
        yield "batch_tokens", batch, tiny("model.width=64", f"batch_tokens={batch}"), 1
    for micro in () if quick else (16, 8, 4, 2):
        yield "accumulation", 16 // micro, tiny("model.width=64", f"engine.micro_batch_seqs={micro}"), 1
    for ranks in () if quick else (1, 2):
        yield "ranks", ranks, tiny("model.width=64", "engine.zero_stage=1"), ranks
