"""What is refused of a study's trunks: one line that names the field and a remedy, before anything starts."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.plan import Hardware
from launch.study import plan_study
from tests.launch.test_trunks import COOLDOWN, planned

# What is changed in the cooldown study, then what the message must say: the field, and the remedy.
MISTAKES = {
    "base that branches": (
        {"base": {"branch": {"parent": "0" * 12, "tokens": 2**10}}, "trunk": None},
        "base.branch: a study finds the trunks of its runs itself",
        "write `trunk`",
    ),
    "axis of branches": (
        {"axes": {"branch.tokens": [2**10]}},
        "axes.branch.tokens: a study finds the trunks",
        "write `trunk`",
    ),
    "axis that is the branch": ({"axes": {"branch": [1]}, "trunk": None}, "axes.branch: a study", "write `trunk`"),
    "zipped branches": ({"zipped": [{"branch.tokens": [2**10]}]}, "zipped[0].branch.tokens: a study", "write `trunk`"),
    "decay of a constant schedule": (
        {"base": {}},
        "trunk.at: `decay` means nothing with schedule.kind = constant, which never decays",
        "use schedule.kind wsd",
    ),
    "decay of a cosine": (
        {"base": {"schedule": {"kind": "cosine"}}},
        "trunk.at: `decay` with schedule.kind = cosine, which decays from the end of its warmup on",
        "use schedule.kind wsd, or write trunk.at as a number",
    ),
    "decay of a line": ({"base": {"schedule": {"kind": "linear"}}}, "trunk.at: `decay` with schedule.kind", "use"),
    "decay within the first step": (
        {"base": {"schedule": {"kind": "wsd", "decay_fraction": 1}}},
        "trunk.at: `decay` begins at 0 of budget_tokens = 65536, before a run can leave its trunk, at 1024",
        "lower schedule.decay_fraction",
    ),
    "not a multiple of the batch": (
        {"trunk": {"at": "budget_tokens - 1000"}},
        "trunk.at: `budget_tokens - 1000` is 64536 where budget_tokens = 65536",
        "whole steps of the trunk (batch_tokens = 1024) before it and of the run (1024) after it: use 64512",
    ),
    "not a multiple of the trunk's batch": (
        {"trunk": {"at": "2^10", "fields": {"batch_tokens": "2^12"}}},
        "trunk.at: `2^10` is 1024 where",
        "the trunk (batch_tokens = 4096) before it and of the run (1024) after it: use 4096",
    ),
    "not a whole number": (
        {"trunk": {"at": "budget_tokens / 3"}},
        "trunk.at: `budget_tokens / 3` is 21845.33",
        "use 21504 or 22528",
    ),
    "not below the budget": (
        {"trunk": {"at": "2^16"}},
        "trunk.at: `2^16` is 65536 where budget_tokens = 65536",
        "after it: use 64512",
    ),
    "zero": ({"trunk": {"at": "0"}}, "trunk.at: `0` is 0 where budget_tokens = 65536", "use 1024"),
    "negative": ({"trunk": {"at": "-5000"}}, "trunk.at: `-5000` is -5000", "use 1024"),
    "astronomical": ({"trunk": {"at": "2^1100"}}, "trunk.at: `2^1100` is 1358", "after it: use 64512"),
    "no number": ({"trunk": {"at": "lr < 1"}}, "trunk.at: `lr < 1` is True, not a number of tokens", "or `decay`"),
    "nothing finite": ({"trunk": {"at": "1e999"}}, "trunk.at: `1e999` is inf, not a number of tokens", "2^16"),
    "an empty field": ({"trunk": {"at": "log.every_tokens"}}, "trunk.at: `log.every_tokens` is None", "or `decay`"),
    "unknown name": (
        {"trunk": {"at": "budget / 2"}},
        "trunk.at: `budget / 2`: unknown name 'budget'",
        "did you mean budget_tokens?",
    ),
    "no room for a step of the trunk": (
        {"trunk": {"at": "2^15", "fields": {"batch_tokens": "2^16"}}},
        "trunk.at: no whole steps of the trunk (batch_tokens = 65536) and then of the run (1024) make budget_tokens",
        "leave such runs out with `where`",
    ),
    "unknown field": (
        {"trunk": {"fields": {"batch": 4096}}},
        "trunk.fields.batch: unknown field",
        "did you mean batch_tokens?",
    ),
    "group of fields": (
        {"trunk": {"fields": {"schedule": {"kind": "constant"}}}},
        "trunk.fields.schedule: schedule is a group of fields",
        "such as schedule.kind",
    ),
    "wrong value": ({"trunk": {"fields": {"lr": -1}}}, "trunk.fields: lr = -1", "expected a number > 0"),
    "range": ({"trunk": {"fields": {"lr": "2^-8..2^-6"}}}, "trunk.fields: lr: '2^-8..2^-6' is a range", "only the"),
    "other model": (
        {"trunk": {"fields": {"model.width": 128}}},
        "trunk.fields: model.width = 64 differs from the trunk's 128",
        "a branch goes on with the trunk's",
    ),
    "other validation": (
        {"trunk": {"fields": {"data.valid_tokens": "2^14"}}},
        "trunk.fields: data.valid_tokens = 32768 differs from the trunk's 16384",
        "a branch goes on with the trunk's",
    ),
    "other data": ({"trunk": {"fields": {"data.path": "x"}}}, "trunk.fields.data.path: a study has one corpus", "base"),
    "other seed": (
        {"trunk": {"fields": {"seed": 0}}, "axes": {"seed": [0, 1]}},
        "trunk.fields: seed = 1 differs from the trunk's 0",
        "a branch goes on with the trunk's",
    ),
    "other precision": (
        {"trunk": {"fields": {"precision": "bf16"}}},
        "trunk.fields: precision = fp32 differs from the trunk's bf16",
        "a branch goes on",
    ),
    "other ZeRO stage": (
        {"trunk": {"fields": {"engine.zero_stage": 2}}},
        "trunk.fields.engine.zero_stage: a checkpoint is read under the ZeRO stage that wrote it",
        "remove it",
    ),
    "branch of a trunk": ({"trunk": {"fields": {"branch.tokens": 1}}}, "trunk.fields.branch.tokens: a study", "trunk"),
    "decaying trunk": (
        {"trunk": {"fields": {"schedule.kind": "cosine"}}},
        "trunk.fields.schedule.kind = cosine: a trunk has a constant learning rate",
        "remove it",
    ),
    "decay of the trunk": (
        {"trunk": {"fields": {"schedule.decay_fraction": 0.1}}},
        "trunk.fields.schedule.decay_fraction: a trunk has a constant learning rate",
        "remove it",
    ),
    "budget of the trunk": (
        {"trunk": {"fields": {"budget_tokens": "2^20"}}},
        "trunk.fields.budget_tokens: it follows from where the branches leave the trunk",
        "remove it",
    ),
    "checkpoints of the trunk": (
        {"trunk": {"fields": {"checkpoint.keep_at_tokens": [2**12]}}},
        "trunk.fields.checkpoint.keep_at_tokens: it follows from",
        "remove it",
    ),
    "warmup that is no whole step of the trunk": (
        {"trunk": {"fields": {"batch_tokens": "2^13"}}},
        "trunk: schedule.warmup_tokens = 4096 is not a multiple of batch_tokens = 8192",
        "use 0 or 8192",
    ),
    "budget that the branch cannot reach": (
        {"trunk": {"at": "2^10"}, "axes": {"batch_tokens": "2^11"}},
        "trunk.at: `2^10` is 1024 where",
        "use 2048",
    ),
    "budget that a larger batch cannot reach": (
        {"trunk": {"at": "2^12", "fields": {"batch_tokens": "2^12"}}, "base": {}, "axes": {"batch_tokens": "2^13"}},
        "trunk.at: `2^12` is 4096 where",
        "the trunk (batch_tokens = 4096) before it and of the run (8192) after it: use 8192",
    ),
    "budget that no batch can reach": (
        {"trunk": {"at": "2^12"}, "base": {"budget_tokens": 2**18 + 512}, "axes": {"batch_tokens": [2**10]}},
        "trunk.at: no whole steps of the trunk (batch_tokens = 1024) and then of the run (1024) make budget_tokens",
        "change budget_tokens",
    ),
    "readout before the branch": (
        {"trunk": {"at": "2^17"}, "base": {"readout_tokens": [2**14]}, "axes": {}},
        "readout_tokens: 16384 is not after branch.tokens = 131072",
        "remove it",
    ),
    "unknown word in trunk": ({"trunk": {"when": "decay"}}, "trunk.when: unknown field", "did you mean"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(tmp_path: Path, mistake: str):
    changes, field, remedy = MISTAKES[mistake]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**COOLDOWN, **changes}))
    with pytest.raises(ConfigError) as raised:
        plan_study(path, (), Hardware(world_size=1))
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: {field}")
    assert remedy in message[len(field) :]


@settings(deadline=None)
@given(at=st.integers(-(2**12), 2**17), batch=st.sampled_from([2**10, 2**12, 2**15]))
def test_the_places_that_an_error_offers_are_legal(at: int, batch: int):
    """And nearest, with a batch of the branch that is smaller or larger than the trunk's."""
    fields = {"batch_tokens": batch}
    study = {"name": "s", "base": {"budget_tokens": 2**16, "batch_tokens": 2**12}}
    step = max(batch, 2**12)
    try:
        assert planned(study, trunk={"at": str(at), "fields": fields}).runs[0].budget_tokens == at
    except ConfigError as error:
        for offered in str(error).rsplit("use ", 1)[1].split(" or "):
            trunk = planned(study, trunk={"at": offered, "fields": fields}).runs[0]
            assert (trunk.budget_tokens, trunk.batch_tokens) == (int(offered), batch)
            assert abs(int(offered) - at) < step or not step <= at <= 2**16 - step
