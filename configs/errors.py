"""The one exception that a user's input may raise, and the hint that most of its messages need."""

from collections.abc import Iterable
from difflib import SequenceMatcher


class ConfigError(ValueError):
    """A mistake in what was asked: one line that names the field, the rule and the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown dotted name: the likeliest known one, else the names beside it.

    Likeliest is the same last part elsewhere (`beta2` -> `optimizer.beta2`), then one that it begins (`batch` ->
    `batch_tokens`), then one whose last part is spelt alike; of several the one most alike as a whole.
    """
    names = sorted(known, reverse=True)  # of equally likely names max() takes the first: beta2 for beta3
    parent, _, leaf = name.rpartition(".")
    leaf_of = {k: k.rpartition(".")[2] for k in names}
    for likely in (
        [k for k in names if leaf_of[k] == leaf],
        [k for k in names if leaf_of[k].startswith(leaf)],
        [k for k in names if _likeness(leaf, leaf_of[k]) > 0.6],
    ):
        if likely:
            return f"did you mean {max(likely, key=lambda k: _likeness(name, k))}?"
    return "known: " + ", ".join(sorted(k for k in names if k.rpartition(".")[0] == parent) or sorted(names))


def _likeness(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()
