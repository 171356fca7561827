"""How often an interval holds the truth, and the band in which 200 honest 95 % intervals must fall."""

from collections.abc import Sequence

from analysis.results import Estimate

DRAWS = 200


def holds(estimate: Estimate, truth: float) -> bool:
    return (estimate.low is None or estimate.low <= truth) and (estimate.high is None or truth <= estimate.high)


def assert_covers(name: str, hits: Sequence[bool]) -> None:
    """Between 90 % and 99.5 %: a binomial of 200 draws at 95 % leaves 90..99 % in 1 of 500 tries.

    The top is open by one draw because intervals that only ever grow (chi2 / dof > 1) err on the wide side.
    """
    rate = sum(hits) / len(hits)
    print(f"coverage of the 95 % interval of {name}: {100 * rate:.1f} % of {len(hits)}")
    assert 0.90 <= rate <= 0.995, f"{name}: {rate:.3f}"
