"""Expressions over the columns of a table: `bs * 2048`, "`batch size` * 1e3", `match(Name, 'lr([0-9.e-]+)_')`.

A text that is a column's name is that column, whatever characters it holds. Else it is arithmetic as in config files
(`configs.expressions`), element by element, without `eval`; names that are no identifiers stand in backticks.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import ConfigError, did_you_mean
from configs.expressions import ARITHMETIC, COMPARISONS

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log": np.log,
    "log2": np.log2,
    "exp": np.exp,
    "sqrt": np.sqrt,
}
_TOKENS = re.compile(r"'[^']*'|\"[^\"]*\"|`([^`]+)`|\^")  # text stays as it is
HELP = "write a column, or arithmetic of columns with + - * / // % ^, match(column, 'regex') and significant(x, digits)"


def column(table: pd.DataFrame, text: str) -> pd.Series:
    """The values (len(table),) of an expression; in arithmetic, text that is no number gives NaN.

    `match(column, 'regex')` is the first group of the first match, empty where there is none; `'text' in column` says
    whether it occurs; `significant(x, 3)` rounds to three digits, for budgets that differ by rounding only.
    Raises ConfigError for an unknown column or what is no expression.
    """
    if text in table:
        return table[text]
    names: dict[str, str] = {}
    source = _TOKENS.sub(lambda found: _written_as_python(found, names), text.strip())
    try:
        tree = ast.parse(source, mode="eval")
    except SyntaxError as error:
        raise ConfigError(f"{text!r}: no such column, and not an expression ({error.msg}); {HELP}") from error
    try:
        with np.errstate(all="ignore"):
            value = _value(tree.body, table, names)
    except (TypeError, ValueError, OverflowError, re.error) as error:
        raise ConfigError(f"cannot evaluate {text!r}: {error}") from error
    return pd.Series(value, index=table.index) if not isinstance(value, pd.Series) else value


def _written_as_python(found: re.Match[str], names: dict[str, str]) -> str:
    """A name in backticks as an identifier, remembered in `names`; `^` as the power; text with its backslashes."""
    if found[1]:
        names[placeholder := f"_column{len(names)}"] = found[1]
        return placeholder
    return "**" if found[0] == "^" else repr(found[0][1:-1])


def numbers(values: Any) -> Any:
    """A column or constant as floats; what is no number is NaN."""
    if isinstance(values, pd.Series):
        return pd.to_numeric(values, errors="coerce").astype(float)
    if isinstance(values, bool | int | float):
        return float(values)
    raise ConfigError(f"{values!r} is text: arithmetic needs numbers")


def _value(node: ast.AST, table: pd.DataFrame, names: dict[str, str]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            return _named(table, names.get(name, name))
        case ast.Attribute():
            return _named(table, ast.unparse(node))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](*(numbers(_value(side, table, names)) for side in (left, right)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -numbers(_value(operand, table, names))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_value(operand, table, names).astype(bool)
        case ast.BoolOp(op=op, values=values):
            parts = [_value(value, table, names).astype(bool) for value in values]
            return np.logical_and.reduce(parts) if isinstance(op, ast.And) else np.logical_or.reduce(parts)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(op, _value(left, table, names), _value(right, table, names))
        case ast.Call(func=ast.Name(id="match"), args=[of, ast.Constant(value=str() as pattern)], keywords=[]):
            return _matched(_value(of, table, names), pattern)
        case ast.Call(func=ast.Name(id="significant"), args=[of, ast.Constant(value=int() as digits)], keywords=[]):
            return numbers(_value(of, table, names)).map(lambda x: float(f"{x:.{max(digits, 1) - 1}e}"))
        case ast.Call(func=ast.Name(id=name), args=[of], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](numbers(_value(of, table, names)))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, table, names) for item in items]
    raise ConfigError(f"{ast.unparse(node)!r} is not understood: {HELP}")


def _named(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise ConfigError(f"no column {name!r}; {did_you_mean(name, map(str, table.columns))}")
    return table[name]


def _compare(op: ast.cmpop, left: Any, right: Any) -> Any:
    """Text is compared with text, everything else as numbers; `'part' in column` and `column in ['a', 'b']`."""
    match op, left, right:
        case ((ast.In() | ast.NotIn()), str(), pd.Series()):
            found = right.astype(str).str.contains(left, regex=False)
        case ((ast.In() | ast.NotIn()), pd.Series(), list()):
            text = all(isinstance(item, str) for item in right)
            found = (left.astype(str) if text else numbers(left)).isin(right)
        case _ if type(op) in COMPARISONS:
            if isinstance(left, str) or isinstance(right, str):
                left, right = (side.astype(str) if isinstance(side, pd.Series) else str(side) for side in (left, right))
                return COMPARISONS[type(op)](left, right)
            return COMPARISONS[type(op)](numbers(left), numbers(right))
        case _:
            raise ConfigError(f"'in' needs 'text' in column, or column in [a, b]: {HELP}")
    return ~found if isinstance(op, ast.NotIn) else found


def _matched(values: Any, pattern: str) -> pd.Series:
    if re.compile(pattern).groups != 1:
        raise ConfigError(f"match(..., {pattern!r}): the pattern needs exactly one group (...) around the value")
    return values.astype(str).str.extract(pattern, expand=False)
