"""The run files, from a CPU proxy to 7B, as a table in Markdown: `python -m configs.ladder`."""

from pathlib import Path

from configs.devices import GIB
from configs.errors import ConfigError
from configs.load import load_run
from configs.plan import Hardware, Plan, plan
from configs.schema import RunConfig

GPU_SIZES = (4, 8, 12, 16, 24, 32, 40, 48, 80)  # GiB, of usual GPUs
MOST_RANKS = 64


def smallest_hardware(config: RunConfig) -> tuple[int, int]:
    """(GPUs, GiB of each): the smallest single GPU that the run fits on as it is, else the fewest of the largest.

    Raises ConfigError if it does not fit on 64 of the largest.
    """
    if sizes := [size for size in GPU_SIZES if fits(config, 1, size)]:
        return 1, sizes[0]
    for ranks in (2**k for k in range(1, MOST_RANKS.bit_length())):
        if fits(config, ranks, GPU_SIZES[-1]):
            return ranks, GPU_SIZES[-1]
    raise ConfigError(f"model.width = {config.model.width} does not fit on {MOST_RANKS} GPUs: use a smaller model")


def fits(config: RunConfig, ranks: int, gib: int) -> bool:
    """Whether the run can be planned on that many GPUs of that size."""
    try:
        plan(config, Hardware(ranks, device_memory=gib * GIB))
    except ConfigError:
        return False
    return True


def ladder(directory: Path) -> str:
    """A Markdown table of the run files in `directory`, by size."""
    head = "| file | parameters | width x depth | context | B | T | FLOPs | smallest hardware | memory of a GPU |"
    rows = {path: load_run(path) for path in directory.glob("*.yaml")}
    sized = sorted(rows, key=lambda path: plan(rows[path], Hardware(1)).n_params)
    return "\n".join([head, "|---" * 9 + "|", *(_row(path.name, rows[path]) for path in sized)])


def _row(name: str, config: RunConfig) -> str:
    model, (ranks, gib) = config.model, smallest_hardware(config)
    planned: Plan = plan(config, Hardware(ranks))
    cells = (
        f"`{name}`",
        f"{planned.n_params:,}",
        f"{model.width} x {model.depth}",
        str(model.seq_len),
        f"{config.batch_tokens:,}",
        f"{config.budget_tokens:.3g}",
        f"{planned.flops:.2g}",
        f"{ranks} x {gib} GB",
        f"{planned.memory.total / GIB:.3g} GiB, {planned.memory.state / GIB:.3g} of them state",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(ladder(Path(__file__).parent / "runs"))
