"""The JSON schema of laws.json, made from the records in `analysis.results`: `python -m analysis.schema` writes it.

The file analysis/laws.schema.json is for readers in other languages; a test holds it to the records.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from analysis.analyse import FORMAT
from analysis.growth import MEASURES
from analysis.results import Analysis

FILE = Path(__file__).parent / "laws.schema.json"


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what `analysis.analyse.to_json` gives."""
    made = TypeAdapter(Analysis).json_schema()
    place = {name: {"type": "integer"} for name in ("width", "tokens", "batch_tokens")}
    measures = {name: {"$ref": "#/$defs/Estimate"} for name in (*MEASURES, "curvature")}
    cell = made["$defs"]["Cell"]
    del cell["properties"]["sensitivity"]  # a list of its own in the file
    cell["required"].remove("sensitivity")
    made["properties"]["sensitivity"] = {
        "type": "array",
        "description": "The measures of every cell, in nats (curvature: nats per octave squared).",
        "items": {"type": "object", "properties": place | measures, "required": [*place, *measures]},
    }
    made["properties"]["meta"] |= {"properties": {"format": {"const": FORMAT}}, "required": ["format"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **made,
        "title": "laws.json",
        "required": sorted(made["properties"]),
    }


def schema_text() -> str:
    """The content of the file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
