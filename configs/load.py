"""YAML files and dotted overrides -> the frozen models of `configs.schema`."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.explain import validated
from configs.schema import RunConfig, StudyConfig


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file; `overrides` are `field=value` with dotted fields, the last one of a field wins.

    Raises ConfigError, one line that names the file, the field and the remedy.
    """
    data = read_yaml(Path(path))
    for field, value in _parsed(overrides):
        _assign(data, field, value)
    return validated(RunConfig, data, str(path))


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file; overrides reach its base (`base.precision=bf16`) and its axes (`axes.seed=[0,1]`).

    `base` may be the path of a run's file, relative to the study's. Raises ConfigError as `load_run` does.
    """
    path = Path(path)
    data = read_yaml(path)
    changes = _parsed(overrides)
    data |= {field: value for field, value in changes if field == "base"}
    if isinstance(base := data.get("base"), str):
        data["base"] = read_yaml(path.parent / base)
        # Judged under its own name, so that a mistake in it points to the right file.
        validated(RunConfig, data["base"], str(path.parent / base))
    for field, value in changes:
        if field != "base":
            _assign(data, field, value)
    study = validated(StudyConfig, data, str(path))
    varied = {*study.axes, *(field for group in study.zipped for field in group)}
    for field, _ in changes:
        if field.startswith("base.") and field[5:] in varied:
            raise ConfigError(f"{path}: {field} would have no effect, the study varies {field[5:]}: override that axis")
    return study


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it cannot be read, is no mapping, or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(file.name for pattern in ("*.yaml", "*.yml") for file in path.parent.glob(pattern))
        close = get_close_matches(path.name, beside, n=1)
        remedy = (
            f"did you mean {path.parent / close[0]}?" if close else f"in {path.parent}: {', '.join(beside) or 'none'}"
        )
        raise ConfigError(f"{path}: no such file; {remedy}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    data = _parse(text, str(path))
    if data is None:
        raise ConfigError(
            f"{path}: the file is empty; write at least one field, such as `name: my-study` or `lr: 2^-7`"
        )
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected lines of `field: value`, got {type(data).__name__}")
    return data


class _Loader(yaml.SafeLoader):
    """yaml.safe_load that refuses what YAML lets pass: a key given twice, a key that is not text."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is not text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice; keep one", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{source}: {line}{problem} (YAML)") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: {' '.join(str(error).split())} (YAML)") from None


def _parsed(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    pairs = []
    for override in overrides:
        field, equals, value = override.partition("=")
        if not (equals and field.strip()):
            raise ConfigError(f"override {override!r}: write field=value, such as optimizer.beta2=0.99")
        pairs.append((field.strip(), _parse(value, f"override {override!r}")))
    return pairs


def _assign(data: dict[str, Any], field: str, value: Any) -> None:
    """Set a dotted field in nested mappings."""
    parents, name = _place(field)
    node = data
    for depth, parent in enumerate(parents, 1):
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            group = ".".join(parents[:depth])
            raise ConfigError(
                f"override {field}={value}: {group} is a value, not a group of fields; write {group}={value}"
            )
    node[name] = value


def _place(field: str) -> tuple[Sequence[str], str]:
    """The groups a field lies in, and its name: below `axes` and `trunk.fields` a dotted name is itself the key."""
    for group in ("axes", "trunk.fields"):
        if field.startswith(f"{group}."):
            return group.split("."), field.removeprefix(f"{group}.")
    *parents, name = field.split(".")
    return parents, name
