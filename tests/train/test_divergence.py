"""The rule that ends a run."""

from math import inf, nan

import pytest

from train.divergence import divergence


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([2.5, 2.4, 2.5, 2.4, 14.4, 2.5, 2.4, 2.5], None),  # one odd sequence among eight, as the corpus really has
        ([12.0, 11.0, 10.5], "above 10"),
        ([2.5, nan, 2.5], "not finite"),
        ([2.5, inf], "not finite"),
        ([10.0], None),
    ],
)
def test_divergence(losses, says):
    reason = divergence(losses, limit=10.0)
    assert (reason is None) if says is None else (says in reason)
