"""The one exception that a user's input may raise, and the hint that most of its messages need."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A mistake in what was asked: one line that names the field, the rule and the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown dotted name: the nearest known one, else the names beside it.

    A known name with the same last part wins (`beta2` -> `optimizer.beta2`), then the whole name, then its last part.
    """
    names = sorted(known)
    leaf = name.rpartition(".")[2]
    leaves = {k.rpartition(".")[2]: k for k in reversed(names)}
    if leaf in leaves and name not in names:
        return f"did you mean {leaves[leaf]}?"
    close = get_close_matches(name, names, n=1, cutoff=0.75) or [
        leaves[part] for part in get_close_matches(leaf, leaves, n=1, cutoff=0.55)
    ]
    if close:
        return f"did you mean {close[0]}?"
    parent = name.rpartition(".")[0]
    return "known: " + ", ".join([k for k in names if k.rpartition(".")[0] == parent] or names)
