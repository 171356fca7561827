"""The learning rate as a function of consumed tokens."""

import math

import pytest

from configs.schema import ScheduleConfig
from train.schedules import shape, step_shape

T = 2**16


def schedule(**fields):
    return ScheduleConfig(**fields)


def test_constant_after_a_linear_warmup():
    constant = schedule(kind="constant", warmup_tokens=1024)
    assert [shape(constant, T, tokens) for tokens in (0, 256, 1024, T)] == [0, 0.25, 1, 1]


@pytest.mark.parametrize(
    ("kind", "at_half_of_decay"), [("linear", 0.55), ("cosine", 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))]
)
def test_decays_reach_the_final_ratio(kind, at_half_of_decay):
    decay = schedule(kind=kind, warmup_tokens=4096, final_ratio=0.1)
    assert shape(decay, T, 4096) == 1
    assert shape(decay, T, (4096 + T) / 2) == pytest.approx(at_half_of_decay, abs=1e-12)
    assert shape(decay, T, T) == pytest.approx(0.1, abs=1e-12)


def test_wsd_is_flat_until_its_last_part():
    wsd = schedule(kind="wsd", warmup_tokens=1024, decay_fraction=0.25)
    assert shape(wsd, T, 0.75 * T) == 1
    assert shape(wsd, T, 0.875 * T) == pytest.approx(0.5)
    assert shape(wsd, T, T) == 0


@pytest.mark.parametrize("kind", ["constant", "linear", "wsd"])
def test_the_integral_over_tokens_does_not_depend_on_the_batch(kind):
    piecewise_linear = schedule(kind=kind, warmup_tokens=4096, decay_fraction=0.25)

    def integral(batch):
        return sum(batch * step_shape(piecewise_linear, T, batch, tokens) for tokens in range(0, T, batch))

    assert all(integral(batch) == pytest.approx(integral(128), rel=1e-12) for batch in (256, 1024, 4096))
