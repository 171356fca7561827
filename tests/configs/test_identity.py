import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.expressions import number_text
from configs.fields import field_docs
from configs.identity import run_id
from configs.schema import RunConfig

DATA = {"fingerprint": "abc"}
BRANCH = {"parent": "0" * 12, "tokens": 2**10}
BASE = RunConfig.model_validate({"data": DATA})
BRANCHED = RunConfig.model_validate({"data": DATA, "branch": BRANCH})


def changed(field: str, value: object, base: RunConfig = BASE) -> RunConfig:
    data = base.model_dump()
    *groups, name = field.split(".")
    node = data
    for group in groups:
        node = node[group]
    node[name] = value
    return RunConfig.model_validate(data)


def test_an_id_is_12_hex_digits_and_survives_a_round_trip():
    assert re.fullmatch("[0-9a-f]{12}", run_id(BASE))
    assert run_id(RunConfig.model_validate_json(BASE.model_dump_json())) == run_id(BASE)


def test_without_data_there_is_no_identity():
    with pytest.raises(ConfigError, match=r"data\.fingerprint is empty"):
        run_id(RunConfig())


@given(st.integers(-40, 10), st.integers(0, 2**40))
def test_equal_numbers_have_equal_ids(exponent: int, seed: int):
    lr = 2.0**exponent
    lrs = [lr, number_text(lr), f"2^{exponent}", repr(lr)]
    ids = {run_id(RunConfig.model_validate({"data": DATA, "seed": s, "lr": v})) for v in lrs for s in (seed, str(seed))}
    assert len(ids) == 1


def test_the_budget_is_a_readout_said_or_unsaid():
    assert run_id(changed("readout_tokens", [BASE.budget_tokens])) == run_id(BASE)
    assert run_id(changed("readout_tokens", [2**17])) != run_id(BASE)


def test_a_field_that_came_later_does_not_rename_old_runs():
    old = RunConfig.model_validate({"data": {"fingerprint": "0" * 16}, "lr": 2**-8})
    assert run_id(old) == "5fcc94da2e92"
    assert run_id(changed("optimizer.kind", "lion", old)) != run_id(old)


OTHERS = (
    0.5,
    1.5,
    2,
    4,
    "other",
    "sp",
    "cosine",
    "bf16",
    "disabled",
    False,
    True,
    "none",
    "skip",
    "group_lr",
    "lion",
    "gradient",
    "critical",
    "gradients",
    8,
    "f" * 12,
    [2**16],
)


@pytest.mark.parametrize("field", field_docs(RunConfig))
def test_what_defines_the_result_and_only_that_enters(field: str):
    base = BRANCHED if field.startswith("branch.") else BASE
    different = []
    for other in OTHERS:
        try:
            different.append(changed(field, other, base))
        except ValidationError:
            continue
    run = next(run for run in different if run != base)
    ignored = field.split(".")[0] in ("engine", "log", "checkpoint") or field == "data.path"
    assert (run_id(run) == run_id(base)) == ignored
