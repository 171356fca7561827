"""How long a run will take on a site: rough, for packing runs into tasks and saying when they end."""

from configs.devices import device
from configs.plan import Plan
from configs.rundir import Status
from configs.schema import RunConfig
from configs.site import SiteConfig
from launch.plan_table import EFFICIENCY, STEP_OVERHEAD_S, measured_flops_per_s

GPU_EFFICIENCY = 0.3  # of the peak: what small models reach; large ones reach more and end before their estimate


def flops_per_s_of(site: SiteConfig, precision: str) -> float:
    """Sustained FLOP/s of one rank: the site's own number, 0.3 of its GPU's peak, or as a core of this machine."""
    gpu = device(site.gpu) if site.gpu else None
    peak = None if gpu is None else gpu.bf16_flops if precision == "bf16" else gpu.fp32_flops
    return site.flops_per_s or (GPU_EFFICIENCY * peak if peak else EFFICIENCY * measured_flops_per_s())


def seconds_left(run: RunConfig, plan: Plan, status: Status, flops_per_s: float) -> float:
    """Estimated seconds of training that a run still needs, where a rank does `flops_per_s`."""
    whole = plan.flops / (flops_per_s * plan.world_size) + plan.steps * STEP_OVERHEAD_S
    return whole * (1 - max(0, status.tokens - plan.start_tokens) / (run.budget_tokens - plan.start_tokens))
