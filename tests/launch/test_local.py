"""How a machine is divided among workers."""

from dataclasses import replace

import pytest

from launch.local import layout


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(
    ("workers", "ranks", "expected"), [(None, 1, (8, 1)), (None, 2, (4, 1)), (2, 1, (2, 4)), (1, 2, (1, 4))]
)
def test_one_single_threaded_worker_a_core_unless_told_otherwise(cores, workers, ranks, expected):
    arrangement = layout(workers, ranks)
    assert (arrangement.workers, arrangement.threads) == expected


def test_threads_do_not_depend_on_how_many_runs_are_left(cores):
    # A last run alone on two threads sums in another order: twenty kills found activations off by 1e-8.
    assert replace(layout(None, 1), workers=1).threads == layout(None, 1).threads


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert (layout(None, 2).workers, layout(None, 2).devices) == (2, (0, 1, 2, 3))
