import pytest

from configs.schema import StudyConfig
from launch.advice import advise, tokens_without_reuse
from launch.study import expand

GOOD = {
    "model.width": [64, 128],
    "budget_tokens": "2^16..2^18",
    "batch_tokens": "2^8..2^12",
    "lr": "2^-10..2^-5",
    "seed": [0, 1, 2],
}


def advice(base: object = None, **axes: object) -> list[str]:
    return advise(expand(StudyConfig.model_validate({"name": "s", "base": base or {}, "axes": {**GOOD, **axes}})))


def test_a_good_grid_gets_no_warning():
    assert advice() == []


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"batch_tokens": ["2^8", "2^10", "2^12"]}, "3 batch sizes: fewer than 4"),
        (
            {"batch_tokens": "2^9..2^12"},
            "spans 3 octaves (512 to 2^12). To bracket B_crit from T = 2^16 to 2^18 it needs 4 if B_crit grows as T "
            "(Time Transfer), 3 if as T^0.5",
        ),
        ({"lr": "2^-9..2^-6"}, "4 values where a minimum needs at least 5; 3 octaves where 4 are needed"),
        ({"lr": "2^-8..2^-5 by 2^0.5"}, "may miss its optimum: 3 octaves where 4 are needed"),
        ({"lr": "2^-14..2^-4 by 4"}, "may miss its optimum: steps of 2 octaves where 1 is the coarsest"),
        ({"seed": [0, 1]}, "2 seeds: the noise"),
        (
            {"batch_tokens": "2^8..2^13"},
            "36 of 216 runs have fewer than 16 steps at their first readout (B = 2^13 takes 8 to T = 2^16)",
        ),
        ({"schedule.warmup_tokens": ["2^17"]}, "180 of 180 runs are first read out during their warmup of 2^17 tokens"),
        ({"model.width": 64}, "One width (64)"),
        (
            {"schedule.kind": ["cosine"]},
            "540 runs, 8.26e+07 tokens. With schedule.kind constant 180 runs and 4.72e+07 tokens give every ",
        ),
    ],
)
def test_one_weakness_gets_its_warning_and_no_other(axes: dict[str, object], words: str):
    (warning,) = advice(**axes)
    assert words in warning


def test_learning_rates_that_move_with_the_batch_may_be_narrower_per_batch():
    lrs = [2.0**-k for k in range(12, 2, -1)]
    zipped = {"batch_tokens": [], "lr": []}
    for i in range(5):
        for lr in lrs[i : i + 5]:
            zipped["batch_tokens"].append(2 ** (8 + i))
            zipped["lr"].append(lr)
    axes = {k: v for k, v in GOOD.items() if k not in zipped}
    assert advise(expand(StudyConfig.model_validate({"name": "s", "axes": axes, "zipped": [zipped]}))) == []


def test_tokens_without_reuse_counts_every_readout():
    runs = expand(StudyConfig.model_validate({"name": "s", "axes": {"budget_tokens": "2^16..2^18", "seed": [0, 1]}}))
    assert tokens_without_reuse(runs) == 2 * (2**16 + 2**17 + 2**18)
