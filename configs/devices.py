"""What GPUs can hold and do: the denominator of MFU, and the memory that a plan is checked against.

Peaks are dense (a datasheet's value "with sparsity" halved), for matrices in bf16 accumulated in fp32, and for fp32
without TF32, as PyTorch multiplies unless told otherwise. Memory is the datasheet's size read as GiB, the most that
a driver reports; what is left of it to a process is less.

Sources: datasheets and whitepapers of
H100 https://www.nvidia.com/en-us/data-center/h100/, H200 https://www.nvidia.com/en-us/data-center/h200/,
GH200 https://www.nvidia.com/en-us/data-center/grace-hopper-superchip/, B200 https://www.nvidia.com/en-us/data-center/hgx/
(an eighth of HGX B200), A100 https://www.nvidia.com/en-us/data-center/a100/, L40S
https://www.nvidia.com/en-us/data-center/l40s/, L40 https://www.nvidia.com/en-us/data-center/l40/, L4
https://www.nvidia.com/en-us/data-center/l4/, A40 https://www.nvidia.com/en-us/data-center/a40/, A10
https://www.nvidia.com/en-us/data-center/products/a10-gpu/, V100 https://www.nvidia.com/en-us/data-center/v100/, T4
https://www.nvidia.com/en-us/data-center/tesla-t4/, RTX 4090
https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf, RTX 3090 and A6000
https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf, MI300X
https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html, MI250X (one of its two dies, which is what a
process sees) https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html
"""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One GPU as a process sees it."""

    name: str  # for a command line
    memory: int  # bytes
    bf16_flops: float | None  # per second; None: no matrix units for it
    fp32_flops: float  # per second
    reported: tuple[str, ...]  # by torch.cuda.get_device_name


def _gpu(name: str, gib: int, bf16_tflops: float | None, fp32_tflops: float, *reported: str) -> Device:
    return Device(name, gib * GIB, bf16_tflops * 1e12 if bf16_tflops else None, fp32_tflops * 1e12, reported)


DEVICES = (
    _gpu("b200", 180, 2250, 75, "NVIDIA B200"),
    _gpu("h200", 141, 989.5, 67, "NVIDIA H200"),
    _gpu("h200-nvl", 141, 835.5, 60, "NVIDIA H200 NVL"),
    _gpu("gh200", 96, 989.5, 67, "NVIDIA GH200 480GB"),
    _gpu("h100", 80, 989.5, 67, "NVIDIA H100 80GB HBM3"),
    _gpu("h100-pcie", 80, 756.5, 51, "NVIDIA H100 PCIe"),
    _gpu("h100-nvl", 94, 835.5, 60, "NVIDIA H100 NVL"),
    _gpu("a100", 80, 312, 19.5, "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
    _gpu("a100-40gb", 40, 312, 19.5, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    _gpu("l40s", 48, 362.05, 91.6, "NVIDIA L40S"),
    _gpu("l40", 48, 181.05, 90.5, "NVIDIA L40"),
    _gpu("l4", 24, 121, 30.3, "NVIDIA L4"),
    _gpu("a40", 48, 149.7, 37.4, "NVIDIA A40"),
    _gpu("a10", 24, 125, 31.2, "NVIDIA A10"),
    _gpu("a6000", 48, 154.8, 38.7, "NVIDIA RTX A6000"),
    _gpu("rtx-4090", 24, 165.2, 82.6, "NVIDIA GeForce RTX 4090"),
    _gpu("rtx-3090", 24, 71, 35.6, "NVIDIA GeForce RTX 3090"),
    _gpu("v100", 32, None, 15.7, "Tesla V100-SXM2-32GB"),
    _gpu("v100-16gb", 16, None, 15.7, "Tesla V100-SXM2-16GB"),
    _gpu("v100-pcie", 32, None, 14, "Tesla V100-PCIE-32GB"),
    _gpu("v100-pcie-16gb", 16, None, 14, "Tesla V100-PCIE-16GB"),
    _gpu("t4", 16, None, 8.1, "Tesla T4"),
    _gpu("mi300x", 192, 1307.4, 163.4, "AMD Instinct MI300X", "AMD Instinct MI300X OAM"),
    _gpu("mi250x", 64, 191.5, 47.9, "AMD Instinct MI250X"),
)
_BY_NAME = {name.lower(): device for device in DEVICES for name in (device.name, *device.reported)}


def device(name: str) -> Device | None:
    """The GPU of that name, ours or the one torch reports, in any case; None if it is not known.

    Only whole names are known: a slice of a GPU, or a variant of another power, has another peak.
    """
    return _BY_NAME.get(name.strip().lower())


def mfu(
    flops_per_token: int,
    tokens_per_s: float,
    world_size: int,
    on: Device | None,
    precision: Literal["fp32", "bf16"],
) -> float | None:
    """Model FLOPs utilisation: the model's FLOPs per second over the peak of `world_size` devices (arXiv 2204.02311).

    FLOPs are those of `configs.plan.flops_per_token`, which recomputed activations do not raise. None if the device,
    or its peak in this precision, is not known.
    """
    peak = None if on is None else on.bf16_flops if precision == "bf16" else on.fp32_flops
    return None if peak is None else flops_per_token * tokens_per_s / (world_size * peak)
