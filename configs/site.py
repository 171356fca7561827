"""What a cluster wants to hear and what its nodes offer: a site's YAML file, the only place that knows a cluster."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from configs.devices import DEVICES, device
from configs.errors import ConfigError, did_you_mean
from configs.explain import validated
from configs.load import read_yaml
from configs.schema import Frozen, PositiveFloat, PositiveInt, Unsigned

_DURATION = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)")


def duration_seconds(value: Any) -> int:
    """`45` (seconds), `30:00`, `4:00:00`, `1-12:00:00` as seconds. Raises ValueError.

    YAML reads `4:00:00` without quotes as a number to the base 60, which is its seconds; a whole number is seconds,
    too.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found or (found[1] and found[2] is None):
        raise ValueError("not a duration: write seconds, 30:00, 4:00:00 or 1-12:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    if not (total := ((days * 24 + hours) * 60 + minutes) * 60 + seconds):
        raise ValueError("a duration of 0: write one above")
    return total


Duration = Annotated[
    int,
    Field(json_schema_extra={"allowed": "seconds, or [days-]hours:minutes:seconds"}),
    BeforeValidator(duration_seconds),
]
Word = Annotated[str, Field(pattern=r"^\S+$", json_schema_extra={"allowed": "text without spaces"})]
Line = Annotated[str, Field(pattern=r"^[^\n]*$", json_schema_extra={"allowed": "a line of text"})]
Option = Annotated[str, Field(pattern=r"^--[^\n]+$", json_schema_extra={"allowed": "an option such as --exclusive"})]


class ReportJob(Frozen):
    """The job that makes the run table and the report when the runs have ended; it needs no GPU."""

    partition: Word | None = Field(default=None, description="Partition (empty: the runs').")
    time_limit: Duration = Field(default=1800, description="Time limit.")
    cpus: PositiveInt = Field(default=1, description="Cores.")
    mem: Word | None = Field(default=None, description="Memory, e.g. 8G (empty: the partition's default).")


class SiteConfig(Frozen):
    """A SLURM cluster: what its jobs ask for, and how they are run there."""

    name: Word = Field(description="Name of the site, for people.")
    partition: Word | None = Field(default=None, description="Partition (empty: the cluster's default).")
    account: Word | None = Field(default=None, description="Account that is charged.")
    qos: Word | None = Field(default=None, description="Quality of service.")
    constraint: Word | None = Field(default=None, description="Features that a node must have.")
    time_limit: Duration = Field(description="Time limit of a task; a run may take many, one after another.")
    gpus_per_node: Unsigned = Field(default=0, description="GPUs of a node; 0: runs train on CPU.")
    gpu: Word | None = Field(
        default=None, description="Kind of GPU, e.g. h100: what runs are checked against and their time estimated by."
    )
    gres: Word = Field(default="gpu", description="Name of a GPU in --gres, e.g. gpu:h100.")
    ranks_per_node: PositiveInt | None = Field(
        default=None, description="Most ranks of a run on one node (empty: one a GPU; on CPU as many as the run has)."
    )
    cpus_per_task: PositiveInt = Field(default=1, description="Cores of a rank, and its threads on CPU.")
    mem_per_cpu: Word | None = Field(
        default=None, description="Memory a core, e.g. 4G (empty: the partition's default)."
    )
    concurrency: PositiveInt | None = Field(default=None, description="Most tasks at a time (empty: no limit).")
    max_array_size: PositiveInt | None = Field(
        default=None, description="SLURM's MaxArraySize; longer arrays are split (empty: asked of the cluster)."
    )
    signal_seconds: PositiveInt = Field(
        default=120, description="Time before the limit at which a task is told to checkpoint and requeue."
    )
    launcher: Literal["srun", "deepspeed"] = Field(
        default="srun",
        description="srun: one task a rank; deepspeed: its launcher on each node, without ssh.",
    )
    setup: tuple[Line, ...] = Field(default=(), description="Lines of shell before anything else, e.g. module load.")
    python: Word | None = Field(default=None, description="Python of a job (empty: the one that submits).")
    cache_dir: Word = Field(
        default="${TMPDIR:-/tmp}", description="Directory on each node for compiled kernels; a job has its own in it."
    )
    extra: tuple[Option, ...] = Field(default=(), description="Further #SBATCH options, e.g. --exclusive.")
    startup_seconds: PositiveFloat = Field(
        default=60.0, description="Start-up of a task; short runs share one, so that it is a tenth of it at most."
    )
    flops_per_s: PositiveFloat | None = Field(
        default=None,
        description="Sustained FLOP/s of a rank, by which times are estimated (empty: 0.3 of the GPU's peak; on CPU "
        "measured where it is submitted).",
    )
    report: ReportJob = ReportJob()


def load_site(path: Path) -> SiteConfig:
    """The site of a YAML file. Raises ConfigError, one line that names the file, the field and the remedy."""
    site = validated(SiteConfig, read_yaml(path), str(path))
    if site.signal_seconds * 2 > site.time_limit:
        raise ConfigError(
            f"{path}: signal_seconds = {site.signal_seconds} leaves no time to train of time_limit = "
            f"{site.time_limit} s: use at most {site.time_limit // 2}"
        )
    if site.gpu and not device(site.gpu):
        raise ConfigError(f"{path}: gpu = {site.gpu}: not known; {did_you_mean(site.gpu, [d.name for d in DEVICES])}")
    if site.gpu and not site.gpus_per_node:
        raise ConfigError(f"{path}: gpu = {site.gpu} with gpus_per_node = 0: say how many GPUs a node has")
    return site


def nodes_of(site: SiteConfig, ranks: int) -> tuple[int, int]:
    """Nodes of a run, and its ranks on each of them. Raises ConfigError if they would not be equally many on each."""
    most = site.ranks_per_node or site.gpus_per_node or ranks
    if site.gpus_per_node and most > site.gpus_per_node:
        raise ConfigError(
            f"ranks_per_node = {most} is more than gpus_per_node = {site.gpus_per_node}: a rank has a GPU of its own"
        )
    nodes = -(-ranks // most)
    if ranks % nodes:
        raise ConfigError(f"--ranks {ranks}: not the same on each of {nodes} nodes; use {nodes * (ranks // nodes)}")
    return nodes, ranks // nodes
