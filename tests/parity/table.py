"""The measured parity as tables: every cell for the terminal, and a short one in Markdown for the README.

PARITY_JSON=parity.json python -m pytest tests/parity && python -m tests.parity.table parity.json
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.parity.cells import PRECISIONS
from tests.parity.noise import QUANTITIES, Deviation, worst
from tests.parity.results import VIEWS, Results, read

HEADS = ("loss", "norm", "param", "exp_avg", "exp_avg_sq")


def full(results: Results) -> str:
    """Every cell, one line each."""
    lines = [f"{'':38}" + "".join(f"{title:^56}" for title in VIEWS.values())]
    lines.append(f"{'':38}" + "".join("".join(f"{head:>11}" for head in HEADS) + " " for _ in VIEWS))
    for precision in PRECISIONS:
        for row in results.rows:
            if row.cell.precision == precision:
                lines.append(f"{row.cell!s:38}{_numbers(row.step)} {_numbers(row.run)}")
        limits = results.tolerances[precision]
        lines.append(f"{precision + ' tolerance':38}{_numbers(limits['step'])} {_numbers(limits['run'])}")
    lines.append("bf16 against the fp32 loop (no tolerance), worst cell: " + _numbers(_to_fp32(results)).strip())
    lines.append("")
    lines.append(f"{'deviation / tolerance of the plain loop with a known defect':62}" + "one step    16 steps")
    for name, ratio in results.defects.items():
        lines.append(f"{name:60}{_times(ratio['step']):>10}{_times(ratio['run']):>12}")
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """The worst over accumulation and world size, one table a view, and the defects."""
    return "\n".join([*_tables(results), *_defects(results)])


def _tables(results: Results) -> Iterator[str]:
    for view, title in VIEWS.items():
        yield f"| {title} | " + " | ".join(f"`{head}`" for head in ("loss", "grad norm", *QUANTITIES[2:])) + " |"
        yield "|---" * (len(QUANTITIES) + 1) + "|"
        for precision in PRECISIONS:
            for stage in range(4):
                found = [
                    getattr(row, view)
                    for row in results.rows
                    if (row.cell.precision, row.cell.zero_stage) == (precision, stage)
                ]
                cells = " | ".join(f"{worst(found)[key]:.1e}" for key in QUANTITIES) if found else "refused | | | |"
                yield f"| {precision}, ZeRO-{stage} | {cells} |"
            limit = " | ".join(f"*{results.tolerances[precision][view][key]:.1e}*" for key in QUANTITIES)
            yield f"| *{precision}, tolerance* | {limit} |"
        if view == "run":
            yield "| bf16 from the fp32 loop | " + " | ".join(f"{v:.1e}" for v in _to_fp32(results).values()) + " |"
        yield ""


def _defects(results: Results) -> Iterator[str]:
    yield "| defect put into the plain loop: deviation / tolerance | " + " | ".join(VIEWS.values()) + " |"
    yield "|---|---|---|"
    for name, ratio in results.defects.items():
        yield f"| {name} | {_times(ratio['step'])} | {_times(ratio['run'])} |"


def _to_fp32(results: Results) -> Deviation:
    return worst([row.to_fp32 for row in results.rows if row.cell.precision == "bf16"])


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio > 10 else f"{ratio:.1f}"


def _numbers(deviations: Deviation) -> str:
    return "".join(f"{deviations[key]:>11.1e}" for key in QUANTITIES)


if __name__ == "__main__":
    print(markdown(read(Path(sys.argv[1]))))
