"""What the analysis costs as a table grows: `python -m tests.analysis.bench`. No test asserts a time.

Every size runs in a process of its own, so that the peak memory is its own.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analysis.analyse import analyse
from analysis.report import write_report
from tests.planted import planted_table

BATCHES = tuple(2**k for k in range(8, 16))
LRS = tuple(2.0 ** (k / 2) for k in range(-24, -2))
SIZES: dict[str, dict] = {  # by number of runs and rows
    "small": {"budgets": (2**18, 2**19, 2**20)},
    "2,000 runs": {"widths": (64, 128, 256), "batches": BATCHES, "lrs": LRS, "seeds": (0, 1, 2, 3)},
    "2,000 runs, 8 budgets": {
        "widths": (64, 128, 256),
        "batches": BATCHES,
        "lrs": LRS,
        "seeds": (0, 1, 2, 3),
        "budgets": tuple(2**k for k in range(15, 23)),
    },
    "100,000 rows": {
        "widths": (32, 64, 128, 256, 512),
        "batches": BATCHES,
        "lrs": LRS,
        "seeds": tuple(range(8)),
        "budgets": tuple(round(2 ** (15 + k / 2)) for k in range(14)),
    },
}


def measure(name: str) -> None:
    """One line: rows, seconds and CPU seconds of analysis and of the report, rows per second, peak memory."""
    table = planted_table(**SIZES[name], noise=0.004, noise_kind="run")
    began, cpu = time.perf_counter(), time.process_time()
    analysis = analyse(table)
    middle, cpu_middle = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as out:
        write_report(table, analysis, Path(out))
    end, cpu_end = time.perf_counter(), time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:22} {len(table):7} rows {len(analysis.cells):5} cells  analysis {middle - began:6.1f} s "
        f"({cpu_middle - cpu:.1f} CPU)  report {end - middle:6.1f} s ({cpu_end - cpu_middle:.1f} CPU)  "
        f"{len(table) / (end - began):7.0f} rows/s  peak {peak:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for size in SIZES:
            subprocess.run([sys.executable, "-m", "tests.analysis.bench", size], check=True)
