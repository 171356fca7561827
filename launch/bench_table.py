"""What `bcrit bench` prints."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_bench(console: Console, result: dict[str, Any]) -> None:
    """One table a part; `result` is what stands in the JSON file."""
    machine = result["machine"]
    console.print(
        f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}, {machine['date']}; "
        f"load {machine['load']:.1f} at the start"
    )
    for part, show in (
        ("loops", _loops),
        ("noise", _noise),
        ("processes", _processes),
        ("growth", _growth),
        ("slots", _slots),
        ("stacked", _stacked),
    ):
        if part in result:
            for table in show(result[part]):
                console.print(table)


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _loops(found: dict[str, Any]) -> list[Table]:
    speed = _table("Loops in turn: median [quartiles]", "run", "loop", "step, ms", "tokens/s", "speed / bare")
    parts = _table(
        "Parts of the whole loop's step", "run", *next(iter(found.values()))["share"], "validation", "checkpoint"
    )
    for name, case in found.items():
        for loop, step in case["step_ms"].items():
            shown = _spread(case["of_bare"][loop])
            speed.add_row(name, loop, f"{step:.2f}", f"{case['tokens_per_s'][loop]:,.0f}", shown)
        shares = [f"{100 * share:.1f} %" for share in case["share"].values()]
        parts.add_row(name, *shares, f"{case['validation_s']:.3f} s", f"{case['checkpoint_s']:.3f} s")
    return [speed, parts]


def _noise(found: dict[str, Any]) -> list[Table]:
    table = _table("Steps with a noise probe over steps without", "run", "probe", "speed: median [quartiles]")
    for name, probes in found.items():
        for probe, speed in probes.items():
            table.add_row(name, probe, _spread(speed))
    return [table]


def _processes(found: dict[str, Any]) -> list[Table]:
    table = _table("In a process of its own", "run", "loop", "start-up, s", "peak memory, MiB")
    for name, loops in found.items():
        for loop, taken in loops.items():
            table.add_row(name, loop, f"{taken['startup_s']:.1f}", f"{taken['peak_bytes'] / 2**20:.0f}")
    return [table]


def _growth(rows: list[dict[str, Any]]) -> list[Table]:
    table = _table("How a step grows", "axis", "value", "step, ms", "tokens/s")
    for row in rows:
        table.add_row(row["axis"], str(row["value"]), f"{1e3 * row['step_s']:.2f}", f"{row['tokens_per_s']:,.0f}")
    return [table]


def _slots(rows: list[dict[str, Any]]) -> list[Table]:
    table = _table("Runs side by side", "width", "slots", "threads of each", "tokens/s of all", "over one slot")
    one = {row["width"]: row["tokens_per_s"] for row in rows if row["slots"] == 1}
    for row in rows:
        gain = row["tokens_per_s"] / one[row["width"]]
        cells = (row["width"], row["slots"], row["threads"], f"{row['tokens_per_s']:,.0f}", f"{gain:.2f}")
        table.add_row(*map(str, cells))
    return [table]


def _stacked(rows: list[dict[str, Any]]) -> list[Table]:
    table = _table("K runs stacked into one model, one core", "width", "K", "tokens/s over one after another")
    for row in rows:
        table.add_row(str(row["width"]), str(row["members"]), _spread(row["gain"]))
    return [table]


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
