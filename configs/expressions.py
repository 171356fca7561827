"""Arithmetic in config files: exact powers of two, ranges and filters, without `eval`.

`2^-7` is a number, `2^8..2^13` a range of powers of two, `batch_tokens <= budget_tokens / 16` a filter.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from configs.errors import ConfigError, did_you_mean

ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    **ARITHMETIC,
    **COMPARISONS,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


def evaluate(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """Value of an arithmetic or logical expression; `^` and `**` are powers, names may be dotted.

    Raises ConfigError if the text does not parse, uses an unknown name, or has no finite value.
    """
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
        return _value(tree.body, names or {})
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(
            f"cannot read {text!r} as arithmetic such as 2^-7 or a condition such as lr < 2^-5: {error.msg}"
        ) from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise ConfigError(f"cannot evaluate {text!r}: {error}") from error


def _value(node: ast.AST, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _value(left, names), _value(right, names)
            if not (isinstance(a, int | float) and isinstance(b, int | float)):
                raise ConfigError(f"{ast.unparse(node)!r}: arithmetic needs two numbers")
            if isinstance(op, ast.Pow) and abs(b) > 1100:
                raise ConfigError(f"the exponent {b} is too large")
            return _BINARY[type(op)](a, b)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, names))
        case ast.BoolOp(op=op, values=values):
            results = [bool(_value(v, names)) for v in values]
            return all(results) if isinstance(op, ast.And) else any(results)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [_value(n, names) for n in (left, *comparators)]
            return all(_BINARY[type(op)](a, b) for op, a, b in zip(ops, operands, operands[1:], strict=False))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, names) for item in items]
        case ast.Name() | ast.Attribute():
            name = ast.unparse(node)
            if name not in names:
                raise ConfigError(
                    f"unknown name {name!r}; {did_you_mean(name, names)}" if names else f"{name!r} is not a number"
                )
            return names[name]
    raise ConfigError(
        f"{ast.unparse(node)!r} is not arithmetic: use numbers, fields, + - * / // % ^, comparisons, and, or, not, in"
    )


def number(value: Any) -> Any:
    """A YAML scalar as a number: `"2^19"` -> 524288, `"2^-7"` -> 0.0078125; what is not text passes through.

    Raises ConfigError for text that is no number, and for true and false, which Python would count as 1 and 0.
    """
    if isinstance(value, bool):
        raise ConfigError(f"{str(value).lower()} is not a number")
    if not isinstance(value, str):
        return value
    if ".." in value:
        raise ConfigError(f"{value!r} is a range, and only the axes of a study take ranges")
    result = evaluate(value)
    if isinstance(result, bool) or not isinstance(result, int | float):
        raise ConfigError(f"{value!r} is not a number")
    return result


def number_text(value: float) -> str:
    """The shortest text that `number` reads back: `2^18`, `2^-7.5` where that is exact, else decimal."""
    if value > 0 and not 1 <= value < 1024:
        exponent = round(4 * math.log2(value)) / 4
        if 2.0**exponent == value:
            return f"2^{exponent:g}"
    return repr(value)


def powers(text: str) -> list[int | float]:
    """Geometric range `"first..last"` or `"first..last by factor"` (factor 2 if absent), both ends included.

    The factor must divide the range exactly; powers and roots of two come out exactly as `number` reads them.
    """
    first_text, _, rest = text.partition("..")
    last_text, _, factor_text = rest.partition(" by ")
    try:
        first, last, factor = number(first_text), number(last_text), number(factor_text or "2")
    except ConfigError:
        raise ConfigError(f"range {text!r}: write first..last or first..last by factor, such as 2^8..2^13") from None
    if min(first, last) <= 0 or factor <= 1 or last < first:
        raise ConfigError(
            f"range {text!r}: needs 0 < first <= last and a factor above 1; list other values as [a, b, c]"
        )
    count = math.log2(last / first) / math.log2(factor)
    if abs(count - round(count)) > 1e-9 * max(1, count):
        nearest = first * factor ** math.floor(count)
        raise ConfigError(
            f"range {text!r}: {last_text.strip()} is not {first_text.strip()} times a power of {factor:g}; "
            f"end at {nearest:g} or {nearest * factor:g}"
        )
    if count > 1000:
        raise ConfigError(f"range {text!r} has {round(count) + 1} values; use a larger factor")
    n = round(count)
    if isinstance(factor, int):
        return [first * factor**i for i in range(n + 1)]
    total = math.log2(last / first)  # an integer for powers of two, so that their roots come out as 2.0**x does
    values = [first * 2.0 ** (total * i / max(n, 1)) for i in range(n + 1)]
    return [int(v) if v == int(v) and isinstance(first, int) else v for v in values]


def axis_values(value: Any) -> tuple[Any, ...]:
    """The values of a study's axis, written as a range, a list or a single value; text that is a number becomes one.

    Raises ConfigError if there is no value, or if a range does not hit its end.
    """
    if isinstance(value, str) and ".." in value:
        return tuple(powers(value))
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if items in ((), (None,)):
        raise ConfigError("an axis needs at least one value: write [a, b, c], first..last, or remove it")
    return tuple(_number_or_text(item) for item in items)


def _number_or_text(item: Any) -> Any:
    # Not every axis is numeric (schedule.kind: [constant, wsd]); the field itself judges what stays text.
    try:
        return number(item) if isinstance(item, str) else item
    except ConfigError:
        return item
