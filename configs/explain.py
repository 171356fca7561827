"""pydantic's errors as one line in plain words."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configs.errors import ConfigError, did_you_mean
from configs.fields import FieldDoc, field_docs, group_of

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], data: Any, source: str) -> M:
    """`data` as a `model`. Raises ConfigError, one line that begins with `source` and names the field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, model)}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake (an unknown name before a wrong value) and how many more there are."""
    mistakes: list[Any] = sorted(error.errors(include_url=False), key=lambda m: m["type"] != "extra_forbidden")
    more = len(mistakes) - 1
    return _sentence(mistakes[0], model) + (f" (and {more} more mistake{'s' * (more > 1)})" if more else "")


def _sentence(mistake: dict[str, Any], model: type[BaseModel]) -> str:
    location = mistake["loc"]
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    docs = field_docs(model)
    match mistake["type"]:
        case "extra_forbidden":
            return f"{name}: unknown field; {did_you_mean(name, [*docs, *_groups(model)])}"
        case "missing":
            return f"{name}: missing; write {name}: followed by {_doc(location, docs).allowed}"
        case "value_error":
            expected = f"; expected {docs[name].allowed}" if name in docs else ""  # an axis says it itself
            return f"{name}: {mistake['ctx']['error']}{expected}"
        case "model_type" | "model_attributes_type":
            members = [field for field in docs if field.startswith(f"{name}.")] or list(docs)
            return f"{name} = {_short(mistake['input'])}: expected fields, such as {', '.join(members[:2])}"
    return f"{name} = {_short(mistake['input'])}: expected {_doc(location, docs).allowed}"


def _groups(model: type[BaseModel]) -> list[str]:
    nested = {name: group for name, field in model.model_fields.items() if (group := group_of(field))}
    return [*nested, *(f"{name}.{inner}" for name, group in nested.items() for inner in _groups(group))]


def _doc(location: Sequence[Any], docs: Any) -> FieldDoc:
    """The field that a location lies in; locations go deeper where a field holds a list or a mapping."""
    for end in range(len(location), 0, -1):
        if doc := docs.get(".".join(map(str, location[:end]))):
            return doc
    return FieldDoc("a value", "", "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
