import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError, did_you_mean
from configs.expressions import axis_values, evaluate, number, number_text, powers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^19", 524_288),
        ("2**19", 524_288),
        ("2^-7", 0.0078125),
        ("3 * 2^10", 3072),
        ("1e-3", 0.001),
        ("-2^2", -4),
        ("(1 + 2) / 4", 0.75),
        ("7 // 2 % 2", 1),
    ],
)
def test_numbers_are_exact(text: str, value: float):
    assert number(text) == value
    assert type(number(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["", "two", "2^", "1 < 2", "'a'", "[1]", "2^9999", "9^9^9", "__import__('os')", "'a' * 9", "1..2", "1/0", "1j"],
)
def test_what_is_no_number_is_refused_in_one_line(text: str):
    with pytest.raises(ConfigError) as raised:
        number(text)
    assert "\n" not in str(raised.value)


def test_truth_is_no_number():
    with pytest.raises(ConfigError, match="true is not a number"):
        number(True)


@given(st.integers(1, 2**70) | st.floats(1e-300, 1e300) | st.integers(-40, 40).map(lambda n: 2.0 ** (n / 4)))
def test_number_text_is_read_back_exactly(value: float):
    assert number(number_text(value)) == value


@pytest.mark.parametrize(
    ("value", "text"), [(2**18, "2^18"), (512, "512"), (2**-7, "2^-7"), (2**-7.5, "2^-7.5"), (0.01, "0.01"), (0, "0")]
)
def test_number_text_is_short(value: float, text: str):
    assert number_text(value) == text


@given(first=st.integers(-20, 10), octaves=st.integers(0, 12), parts=st.sampled_from([1, 2, 4]))
def test_ranges_of_powers_of_two_are_exactly_what_number_reads(first: int, octaves: int, parts: int):
    values = powers(f"2^{first}..2^{first + octaves} by 2^(1/{parts})")
    assert values == [number(f"2.0^({first} + {i}/{parts})") for i in range(octaves * parts + 1)]


def test_ranges_keep_integers_and_other_factors():
    assert powers("2^8..2^11") == [256, 512, 1024, 2048]
    assert all(isinstance(v, int) for v in powers("2^8..2^11"))
    assert powers("1..1000 by 10") == [1, 10, 100, 1000]
    assert powers("3..3") == [3]
    assert powers("0.1..0.8") == pytest.approx([0.1, 0.2, 0.4, 0.8], rel=1e-15)


def test_axis_values_may_be_a_range_a_list_or_one_value():
    assert axis_values("2^3..2^5") == (8, 16, 32)
    assert axis_values(["2^3", 1, "cosine", None]) == (8, 1, "cosine", None)
    assert axis_values("bf16") == ("bf16",)
    assert axis_values(7) == (7,)


def test_filters_know_dotted_names():
    names = {"model.width": 128, "lr": 2**-7, "schedule.kind": "wsd"}
    assert evaluate("model.width >= 64 and lr < 2^-5", names) is True
    assert evaluate("schedule.kind in ['constant', 'cosine'] or not lr > 1", names) is True
    assert evaluate("64 <= model.width <= 100", names) is False
    assert math.isclose(evaluate("lr * 2^7", names), 1)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("beta2", "optimizer.beta2"),
        ("optimizer.beta3", "optimizer.beta2"),
        ("batch", "batch_tokens"),
        ("btach_tokens", "batch_tokens"),
        ("optimiser.beta2", "optimizer.beta2"),
    ],
)
def test_nearest_name(name: str, nearest: str):
    assert did_you_mean(name, ["batch_tokens", "optimizer.beta1", "optimizer.beta2"]) == f"did you mean {nearest}?"


def test_a_name_like_no_other_gets_the_names_beside_it():
    assert did_you_mean("optimizer.zzz", ["lr", "optimizer.b", "optimizer.a"]) == "known: optimizer.a, optimizer.b"
