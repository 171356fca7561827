"""Directories of run tables: where an import is written, and where an analysis finds its tables.

OUT/import.json            the source with its checksum, the mapping, the counts, the groups
   /left_out.csv           every row that is not used, with the reason
   /table.parquet, .csv    the table; with groups one in OUT/<group>/ each
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.importing import Imported
from analysis.table import build_table, write_table
from configs.errors import ConfigError
from configs.mapping import Mapping
from configs.rundir import write_atomic, write_json

RECORD = "import.json"


def write_import(imported: Imported, source: Path, mapping: Mapping, out: Path) -> tuple[Path, ...]:
    """Write an import; return the directories that hold its tables. An older import there is replaced.

    Raises ConfigError if `out` holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: it is a file; give a directory")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).exists():
        raise ConfigError(f"--out {out}: it holds something else than an import; choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    named = imported.table if "study" in imported.table else imported.table.assign(study=source.stem)
    tables = _by_group(named)
    for name, table in tables.items():
        (out / name).mkdir(exist_ok=True)
        write_table(table, out / name)
    write_atomic(out / "left_out.csv", imported.left_out.to_csv(index=False))
    write_json(
        out / RECORD,
        {
            "source": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "mapping": mapping.model_dump(),
            "rows": len(imported.table),
            "left_out": dict(Counter(imported.left_out["reason"])),
            "notes": imported.notes,
            "tables": list(tables),
        },
    )
    return tuple(out / name for name in tables)


def table_dirs(directory: Path) -> list[Path]:
    """The directories under `directory` that hold a table of their own: the groups of an import, else itself."""
    record = directory / RECORD
    names = json.loads(record.read_text())["tables"] if record.exists() else ["."]
    return [directory / name for name in names]


def load_table(directory: Path) -> pd.DataFrame:
    """The table of a directory: collected anew, and written, where its runs are; else as it was imported.

    Raises ConfigError if it holds neither runs nor a table.
    """
    if not (directory / "manifest.jsonl").exists():
        if (directory / "table.parquet").exists():
            return pd.read_parquet(directory / "table.parquet")
        if (directory / "table.csv").exists():
            return pd.read_csv(directory / "table.csv")
    table = build_table(directory)
    write_table(table, directory)
    return table


def _by_group(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each group by the name of its directory; one table, ".", without groups."""
    if "group" not in table:
        return {".": table}
    tables: dict[str, pd.DataFrame] = {}
    for label, rows in table.groupby("group"):
        name = re.sub(r"[^\w.=+-]+", "-", str(label)).strip("-.") or "group"
        while name in tables:  # labels that differ in odd characters only
            name += "+"
        tables[name] = rows.assign(study=f"{rows['study'].iloc[0]}, {label}")
    return tables
