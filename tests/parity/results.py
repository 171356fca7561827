"""The comparison of every cell with the plain loop, as data that the tests assert and the tables print."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from tests.parity.cells import CELLS, SINGLE_STEPS, STEPS, Cell, Precision, config_of
from tests.parity.defects import ratios
from tests.parity.noise import Deviation, Plain, deviation, floors, loop_of, plain_loops, tolerances, worst
from tests.parity.reference import State, Trajectory, run

VIEWS = {"step": "one step", "run": f"{STEPS} steps"}


@dataclass(frozen=True)
class Row:
    """One cell: deviations of single steps (the worst of them), of the whole run, and, for bf16, from the fp32 loop."""

    cell: Cell
    step: Deviation
    run: Deviation
    to_fp32: Deviation


@dataclass(frozen=True)
class Expected:
    """The plain loops, and how closely engines must follow them."""

    plain: Plain
    tolerances: dict[Precision, dict[str, Deviation]]
    defects: dict[str, dict[str, float]]  # by defect and view: the largest deviation / tolerance


@dataclass(frozen=True)
class Results:
    """All cells, with the tolerance that each is held to, by precision and view."""

    rows: list[Row]
    tolerances: dict[Precision, dict[str, Deviation]]
    defects: dict[str, dict[str, float]]
    versions: dict[str, str]


def expect(batches: Sequence[Tensor]) -> Expected:
    """Run the plain loops."""
    plain = plain_loops(batches)
    held_to = tolerances(floors(batches, plain))
    return Expected(plain, held_to, ratios(batches, plain, held_to))


def compare(measured: dict[str, Any], batches: Sequence[Tensor], expected: Expected) -> Results:
    """What the engines did (`tests.parity.engines`, by cell) against the plain loops."""
    runs = expected.plain.runs
    rows = []
    for cell in CELLS:
        own = measured[str(cell)]
        states = {state["step"]: State(**state) for state in own["states"]}
        parts = cell.accumulation * cell.world_size
        steps = []
        for number in SINGLE_STEPS:
            here = slice(number - 1, number)
            mine = Trajectory(own["losses"][here], own["norms"][here], states[number])
            loop, start = loop_of(cell.precision, parts), states.get(number - 1)
            steps.append(deviation(mine, run(config_of(cell.precision), batches[here], loop, start)))
        whole = Trajectory(own["losses"], own["norms"], states[STEPS])
        to_plain, to_fp32 = deviation(whole, runs[cell.precision, parts]), deviation(whole, runs["fp32", 1])
        rows.append(Row(cell, worst(steps), to_plain, to_fp32))
    versions = {package: version(package) for package in ("deepspeed", "torch", "transformers")}
    return Results(rows, expected.tolerances, expected.defects, versions)


def write(results: Results, path: Path) -> None:
    """Save as JSON."""
    path.write_text(json.dumps(asdict(results), indent=1))


def read(path: Path) -> Results:
    """Load what `write` saved."""
    saved = json.loads(path.read_text())
    saved["rows"] = [Row(**row | {"cell": Cell(**row["cell"])}) for row in saved["rows"]]
    return Results(**saved)
