"""The order of the data is a permutation, a pure function of (seed, sample), and looks random."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from train.data.order import sequence_index


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_is_a_bijection(n, seed):
    assert np.array_equal(np.sort(sequence_index(np.arange(n), n, seed)), np.arange(n))


@pytest.mark.parametrize("n", [*range(1, 40), 2**10, 2**10 + 1, 999**2, 999**2 - 1, 999**2 + 1])
def test_is_a_bijection_at_the_corners_of_the_rectangle(n):
    assert np.array_equal(np.sort(sequence_index(np.arange(n), n, seed=1)), np.arange(n))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 2**48), seed=st.integers(0, 2**32), data=st.data())
def test_a_sample_has_its_place_whatever_it_is_asked_with(n, seed, data):
    samples = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = sequence_index(samples, n, seed)
    alone = np.concatenate([sequence_index(samples[i : i + 1], n, seed) for i in range(len(samples))])
    assert np.array_equal(together, alone)
    assert together.min() >= 0
    assert together.max() < n


def test_never_changes_between_versions():
    # A run cut under one version resumes under the next: these numbers may change only with a new manifest version.
    assert sequence_index(np.arange(8), 1000, seed=0).tolist() == [805, 357, 491, 175, 695, 486, 157, 480]


def test_looks_random():
    n = 1_000_003
    order = sequence_index(np.arange(n), n, seed=3)
    bins = 32
    for other in (np.roll(order, 1), sequence_index(np.arange(n), n, seed=4), np.arange(n)):
        counts = np.histogram2d(order, other, bins=bins)[0]
        statistic = ((counts - n / bins**2) ** 2).sum() / (n / bins**2)
        assert 1e-6 < chi2.sf(statistic, bins**2 - 1) < 1 - 1e-6


def test_a_prefix_covers_the_corpus_evenly():
    n, taken, bins = 10**9, 50_000, 100
    counts = np.histogram(sequence_index(np.arange(taken), n, seed=0), bins=bins, range=(0, n))[0]
    statistic = ((counts - taken / bins) ** 2).sum() / (taken / bins)
    assert 1e-6 < chi2.sf(statistic, bins - 1) < 1 - 1e-6


def test_first_sample_is_uniform_over_seeds():
    n, seeds = 7, 3500
    counts = np.bincount([sequence_index(np.array([0]), n, seed)[0] for seed in range(seeds)], minlength=n)
    assert chi2.sf(((counts - seeds / n) ** 2).sum() / (seeds / n), n - 1) > 1e-6


@pytest.mark.parametrize("samples", [[10], [-1], [3, 10]])
def test_one_pass_only(samples):
    with pytest.raises(IndexError, match="10 sequences"):
        sequence_index(np.array(samples), 10, seed=0)


def test_no_samples_are_no_sequences():
    assert sequence_index(np.arange(0), 10, seed=0).shape == (0,)
