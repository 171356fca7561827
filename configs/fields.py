"""The fields of a config model by dotted name: what error messages quote and the reference prints."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.expressions import number_text

_KINDS = {"integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false", "null": "empty"}
NOT_SCIENCE = ("engine.", "log.", "checkpoint.", "data.path")  # fields that do not define a run's result
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


@dataclass(frozen=True)
class FieldDoc:
    """One field in words."""

    allowed: str  # e.g. "a number >= 0 and < 1"
    default: str  # as it would be written in YAML; empty if there is none
    description: str


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model nested in a field (also one that may be empty), None if the field is a value."""
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    kind = kinds[0] if len(kinds) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


@cache
def field_docs(model: type[BaseModel]) -> Mapping[str, FieldDoc]:
    """Every field of a model that holds a value, by dotted name, in order of definition."""
    schema = model.model_json_schema()["properties"]
    docs: dict[str, FieldDoc] = {}
    for name, field in model.model_fields.items():
        if group := group_of(field):
            docs |= {f"{name}.{inner}": doc for inner, doc in field_docs(group).items()}
        else:
            docs[name] = FieldDoc(_allowed(schema[name]), _default(field), field.description or "")
    return docs


def values(config: BaseModel) -> dict[str, Any]:
    """The values of a config by dotted name, as `field_docs` names them; None throughout a group that is empty."""
    flat: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if group := group_of(field):
            inner = values(value) if value is not None else dict.fromkeys(field_docs(group))
            flat |= {f"{name}.{k}": v for k, v in inner.items()}
        else:
            flat[name] = value
    return flat


def _allowed(schema: Mapping[str, Any]) -> str:
    """A JSON schema in plain words."""
    if words := schema.get("allowed"):
        return words
    if options := schema.get("anyOf"):
        return ", or ".join(_allowed(option) for option in options)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"a list, each {_allowed(schema.get('items', {}))}"
    if schema.get("format") == "path":
        return "a path"
    rules = [f"{sign} {number_text(schema[key])}" for key, sign in _BOUNDS.items() if key in schema]
    if "multipleOf" in schema:
        rules.append(f"a multiple of {schema['multipleOf']}")
    return " ".join([_KINDS.get(schema.get("type", ""), "a value"), " and ".join(rules)]).strip()


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default in (None, (), {}):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return number_text(default) if isinstance(default, int | float) else str(default)
