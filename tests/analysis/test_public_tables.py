"""Three public tables through the commands of the README, against the numbers that were published with them.

The tables are other people's: they are looked for beside the checkout and never part of it.
"""

import json
from pathlib import Path

import pytest

from launch.cli import main
from tests.processes import ROOT

TABLES = ROOT.parent / "shared/data/tables"


def laws_of(name: str, preset: str, out: Path, *options: str) -> dict[str, dict]:
    """laws.json by group, after `bcrit table import` and `bcrit analyse`."""
    if not (source := TABLES / name).exists():
        pytest.skip(f"the public table {name} is not at ../shared/data/tables")
    preset_file = ROOT / f"configs/presets/{preset}.yaml"
    assert main(["table", "import", str(source), "--preset", str(preset_file), "--out", str(out)]) == 0
    assert main(["analyse", str(out), *options]) == 0
    return {path.parent.name: json.loads(path.read_text()) for path in out.rglob("laws.json")}


def test_zhang_2024(tmp_path):
    (laws,) = laws_of("zhang2024_steps_to_target.csv", "zhang2024", tmp_path / "out").values()
    seqs = {
        name: [c["batch"]["value"] / 512 for c in laws["critical_batch"] if c["definition"] == name]
        for name in ("overhead20", "hyperbola")
    }
    assert seqs["overhead20"] == pytest.approx([745.32, 955.16, 1393.73, 1888.52, 2533.41], rel=1e-3)
    assert seqs["hyperbola"] == pytest.approx([2190.6, 3239.8, 5432.6, 7906.6, 11131], rel=1e-3)
    law = {g["quantity"]: g["exponent"]["value"] for g in laws["growth"] if g["variable"] == "n_params"}
    assert law["batch_crit:overhead20"] == pytest.approx(0.468, abs=0.005)
    assert law["batch_crit:hyperbola"] == pytest.approx(0.619, abs=0.01)


def test_schaipp_2025(tmp_path):
    laws = laws_of("schaipp2025_lr_horizon_124m.csv", "schaipp2025", tmp_path / "out", "--window", "3")
    published = {
        "0.1": ([1.094e-3, 9.26e-4, 8.55e-4, 7.88e-4], -0.27),
        "0.2": ([1.292e-3, 1.140e-3, 1.068e-3, 9.66e-4], -0.24),
    }
    for fraction, (rates, exponent) in published.items():
        found = laws[f"schedule=wsd_linear_{fraction}"]
        assert [cell["state"] for cell in found["cells"]] == ["interior"] * 4
        assert [cell["lr"]["value"] for cell in found["cells"]] == pytest.approx(rates, rel=0.03)
        (law,) = (g["exponent"] for g in found["growth"] if g["quantity"] == "lr_at_batch:102400")
        assert law["value"] == pytest.approx(exponent, abs=0.03)
    for fraction in ("0.6", "0.8", "0.9"):  # the best rate is the largest tried
        cells = laws[f"schedule=wsd_linear_{fraction}"]["cells"]
        assert [cell["state"] for cell in cells] == ["edge_high"] * 4
        assert all(cell["lr"]["value"] is None for cell in cells)


def test_gemstones(tmp_path):
    (laws,) = laws_of("gemstones_mup_preflight.csv", "gemstones", tmp_path / "out").values()
    cells = {cell["width"]: cell for cell in laws["cells"]}
    assert {width: cell["n_diverged"] for width, cell in cells.items()} == {256: 1, 768: 1, 1536: 3, 3072: 4}
    assert {width: cell["state"] for width, cell in cells.items()} == {
        256: "interior",
        768: "interior",
        1536: "not_convex",  # 5e-4 and 1e-3 are level, and the next rate diverged
        3072: "too_few",
    }
    assert {cell["batch_tokens"] for cell in cells.values()} == {2**22}
    assert not laws["critical_batch"]
