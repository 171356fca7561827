import pytest

from configs.devices import DEVICES, GIB, device, mfu


@pytest.mark.parametrize(
    ("reported", "name", "gib", "bf16_tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "h100", 80, 989.5),
        ("NVIDIA H100 PCIe", "h100-pcie", 80, 756.5),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb", 40, 312),
        ("NVIDIA A100 80GB PCIe", "a100", 80, 312),
        ("nvidia geforce rtx 4090", "RTX-4090", 24, 165.2),
        ("AMD Instinct MI300X", "mi300x", 192, 1307.4),
    ],
)
def test_a_device_is_known_by_its_own_name_and_by_ours(reported: str, name: str, gib: int, bf16_tflops: float):
    found = device(reported)
    assert found is not None
    assert found is device(name)
    assert (found.memory, found.bf16_flops) == (gib * GIB, bf16_tflops * 1e12)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100", "cpu (x86_64)", ""],
)
def test_a_slice_or_a_variant_is_not_taken_for_the_whole(name: str):
    assert device(name) is None


def test_no_name_is_given_twice():
    names = [name.lower() for known in DEVICES for name in (known.name, *known.reported)]
    assert len(names) == len(set(names))


def test_no_peak_is_that_of_sparse_matrices():
    """Matrix units do 2, 4, 8, 16 or 32 times what plain ones do, at much the same clock: a sparse peak is off by 2."""
    ratios = {known.name: known.bf16_flops / known.fp32_flops for known in DEVICES if known.bf16_flops}
    for times, names in {
        2: ("l40", "rtx-4090", "rtx-3090"),
        4: ("l40s", "l4", "a10", "a40", "a6000", "mi250x"),
        8: ("mi300x",),
        16: ("a100", "a100-40gb", "h100", "h100-pcie", "h100-nvl", "h200", "h200-nvl", "gh200"),
        32: ("b200",),
    }.items():
        for name in names:
            assert ratios.pop(name) == pytest.approx(times, rel=0.15)
    assert not ratios


def test_mfu_is_the_share_of_the_peak():
    h100 = device("h100")
    assert mfu(6 * 10**9, 989.5e12 / (6 * 10**9), 1, h100, "bf16") == pytest.approx(1)
    assert mfu(6 * 10**9, 50_000, 4, h100, "bf16") == pytest.approx(6e9 * 5e4 / (4 * 989.5e12))
    assert mfu(6 * 10**9, 1000, 1, h100, "fp32") == pytest.approx(6e12 / 67e12)


def test_mfu_is_unknown_where_the_peak_is():
    assert mfu(6 * 10**9, 1000, 1, None, "bf16") is None
    assert mfu(6 * 10**9, 1000, 1, device("v100"), "bf16") is None
    assert mfu(6 * 10**9, 1000, 1, device("v100"), "fp32") == pytest.approx(6e12 / 15.7e12)
