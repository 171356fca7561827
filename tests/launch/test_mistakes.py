"""Every mistake in a study is refused with one line that names the field and a remedy, before anything starts."""

from pathlib import Path

import pytest
import yaml

from configs.errors import ConfigError
from configs.plan import Hardware, check_tokens
from launch.study import PlannedStudy, plan_study

GOOD = {
    "name": "good",
    "base": {"model": {"width": 64}, "budget_tokens": "2^18", "batch_tokens": "2^11"},
    "axes": {"lr": "2^-10..2^-5", "batch_tokens": ["2^9", "2^10", "2^11"], "seed": [0, 1]},
}
ONE = Hardware(world_size=1)


def plan_good(folder: Path, *overrides: str, hardware: Hardware = ONE, **changes: object) -> PlannedStudy:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return plan_study(path, overrides, hardware)


def refusal(folder: Path, *overrides: str, hardware: Hardware = ONE, **changes: object) -> str:
    with pytest.raises(ConfigError) as raised:
        plan_good(folder, *overrides, hardware=hardware, **changes)
    return one_line(raised)


def one_line(raised: pytest.ExceptionInfo[ConfigError]) -> str:
    message = str(raised.value)
    assert message
    assert "\n" not in message
    return message


def test_the_study_that_the_mistakes_are_made_in_is_good(tmp_path: Path):
    assert len(plan_good(tmp_path).runs) == 6 * 3 * 2


# What is changed in the good study, then what the message must say: the field, and the remedy.
CHANGES = {
    "unknown key of a study": ({"axis": {}}, "axis: unknown field", "did you mean axes?"),
    "unknown key of a run": ({"base": {"batch": 2048}}, "base.batch: unknown field", "did you mean base.batch_tokens?"),
    "unknown key of a group": (
        {"base": {"optimizer": {"beta3": 0.9}}},
        "base.optimizer.beta3: unknown field",
        "did you mean base.optimizer.beta2?",
    ),
    "misspelt group": ({"base": {"optimiser": {}}}, "base.optimiser: unknown field", "did you mean base.optimizer?"),
    "a run's field in the study": ({"lr": 0.01}, "lr: unknown field", "did you mean base.lr?"),
    "no name": ({"name": None}, "name = None", "expected letters, digits"),
    "name with a slash": ({"name": "a/b"}, "name = 'a/b'", "expected letters, digits, '.', '_' and '-'"),
    "name of the parent directory": ({"name": ".."}, "name = '..'", "starting with a letter or digit"),
    "negative budget": (
        {"base": {"budget_tokens": -1}},
        "base.budget_tokens = -1",
        "expected an integer > 0",
    ),
    "fractional batch": ({"base": {"batch_tokens": 0.5}}, "base.batch_tokens = 0.5", "expected an integer > 0"),
    "text for a number": ({"base": {"lr": "fast"}}, "base.lr: 'fast' is not a number", "expected a number > 0"),
    "infinite number": ({"base": {"lr": "1e999"}}, "base.lr = inf", "expected a number > 0"),
    "true for a number": ({"base": {"seed": True}}, "base.seed: true is not a number", "expected an integer >= 0"),
    "range outside the axes": ({"base": {"lr": "2^-9..2^-5"}}, "base.lr: '2^-9..2^-5' is a range", "only the axes"),
    "beta2 = 1": ({"base": {"optimizer": {"beta2": 1}}}, "base.optimizer.beta2 = 1", "expected a number >= 0 and < 1"),
    "micro-batch 0": (
        {"base": {"engine": {"micro_batch_seqs": 0}}},
        "base.engine.micro_batch_seqs = 0",
        "expected an integer > 0",
    ),
    "unknown choice": ({"base": {"precision": "fp16"}}, "base.precision = 'fp16'", "expected one of fp32, bf16"),
    "a value for a group": ({"base": {"model": 64}}, "base.model = 64", "expected fields, such as base.model.width"),
    "odd head size": (
        {"base": {"model": {"head_dim": 15}}},
        "base.model.head_dim = 15",
        "expected an integer > 0 and a multiple of 2",
    ),
    "width not a multiple of the head size": (
        {"axes": {"model.width": [64, 100]}},
        "model.width = 100 is not a multiple of model.head_dim = 16",
        "use 96 or 112",
    ),
    "other head size at base width": (
        {"base": {"model": {"head_dim": 32, "base_head_dim": 16}}},
        "model.base_head_dim = 16 differs from model.head_dim = 32",
        "use 32",
    ),
    "batch not a multiple of the sequence": (
        {"axes": {"batch_tokens": [3000]}},
        "batch_tokens = 3000 is not a multiple of model.seq_len = 128",
        "use 2944 or 3072",
    ),
    "budget not a multiple of the batch": (
        {"base": {"budget_tokens": 5000}},
        "budget_tokens = 5000 is not a multiple of batch_tokens = 512",
        "use 4608 or 5120",
    ),
    "smaller budget not a multiple of the batch": (
        {"axes": {"budget_tokens": [1000, 4096], "batch_tokens": 256}},
        "readout_tokens (or a smaller budget of the study) = 1000 is not a multiple of batch_tokens = 256",
        "use 768 or 1024",
    ),
    "readout not a multiple of the batch": (
        {"base": {"readout_tokens": [3000]}},
        "readout_tokens (or a smaller budget of the study) = 3000 is not a multiple of batch_tokens = 512",
        "use 2560 or 3072",
    ),
    "readout beyond the budget": (
        {"base": {"budget_tokens": 4096, "readout_tokens": [8192]}, "axes": {}},
        "readout_tokens: 8192 is beyond budget_tokens = 4096",
        "remove it or raise the budget",
    ),
    "readouts that do not increase": (
        {"base": {"schedule": {"kind": "wsd"}, "readout_tokens": [8192, 4096]}, "axes": {}},
        "readout_tokens = [8192, 4096] must increase",
        "use [4096, 8192]",
    ),
    "readout of a decaying schedule": (
        {"base": {"schedule": {"kind": "cosine"}, "readout_tokens": [4096]}, "axes": {}},
        "readout_tokens below budget_tokens = 262144 with schedule.kind = cosine",
        "use schedule.kind constant",
    ),
    "warmup longer than the budget": (
        {"base": {"schedule": {"warmup_tokens": "2^19"}}},
        "schedule.warmup_tokens = 524288 is above budget_tokens = 262144",
        "use less",
    ),
    "warmup not a multiple of the batch": (
        {"base": {"schedule": {"warmup_tokens": 100}}},
        "schedule.warmup_tokens = 100 is not a multiple of batch_tokens = 512",
        "use 0 or 512",
    ),
    "warmup that meets the decay": (
        {"base": {"schedule": {"kind": "wsd", "warmup_tokens": "2^17", "decay_fraction": 0.75}}},
        "schedule.warmup_tokens = 131072 reaches into the decay",
        "use less of either",
    ),
    "log interval not a multiple of the batch": (
        {"base": {"log": {"every_tokens": 1000}}},
        "log.every_tokens = 1000 is not a multiple of batch_tokens = 512",
        "use 512 or 1024",
    ),
    "validation not a multiple of the sequence": (
        {"base": {"data": {"valid_tokens": 1000}}},
        "data.valid_tokens = 1000 is not a multiple of model.seq_len = 128",
        "use 896 or 1024",
    ),
    "bf16 with ZeRO 0": (
        {"base": {"precision": "bf16", "engine": {"zero_stage": 0}}},
        "engine.zero_stage = 0 with precision = bf16",
        "use engine.zero_stage 1",
    ),
    "unknown axis": ({"axes": {"width": [64]}}, "axes.width: unknown field", "did you mean model.width?"),
    "group as an axis": ({"axes": {"model": [64]}}, "axes.model: model is a group", "such as model.width"),
    "corpus as an axis": (
        {"axes": {"data.path": ["a", "b"]}},
        "axes.data.path: a study has one corpus",
        "set base.data",
    ),
    "bad value on an axis": ({"axes": {"lr": [0.1, -0.1]}}, "axes: lr = -0.1", "expected a number > 0"),
    "text on a numeric axis": ({"axes": {"lr": ["fast"]}}, "axes: lr: 'fast' is not a number", "expected a number > 0"),
    "duplicate value": ({"axes": {"lr": ["2^-7", 0.0078125]}}, "axes.lr: lr = 0.0078125 is given twice", "remove one"),
    "empty axis": ({"axes": {"lr": []}}, "axes.lr: an axis needs at least one value", "write [a, b, c]"),
    "axis left blank": ({"axes": {"lr": None}}, "axes.lr: an axis needs at least one value", "or remove it"),
    "range that misses its end": (
        {"axes": {"batch_tokens": "2^8..1000"}},
        "axes.batch_tokens: range '2^8..1000': 1000 is not 2^8 times a power of 2",
        "end at 512 or 1024",
    ),
    "range that falls": ({"axes": {"lr": "2^-5..2^-9"}}, "axes.lr: range '2^-5..2^-9'", "needs 0 < first <= last"),
    "range without an end": ({"axes": {"lr": "2^-5.."}}, "axes.lr: range '2^-5..'", "write first..last"),
    "range of endless steps": ({"axes": {"lr": "1..2 by 2^(1/9999)"}}, "axes.lr: range", "use a larger factor"),
    "field varied twice": (
        {"zipped": [{"lr": [0.1], "model.depth": [2]}]},
        "zipped[0].lr: lr is varied in two places",
        "keep one",
    ),
    "zipped fields of unequal length": (
        {"zipped": [{"model.depth": [2, 4], "model.width": [64]}]},
        "zipped[0]: fields that move together need equally many values, but model.depth has 2, model.width has 1",
        "make them equal",
    ),
    "zipped twice the same": (
        {"zipped": [{"model.depth": [2, 2], "model.width": [64, 64]}]},
        "zipped[0].model.depth: model.depth = 2, model.width = 64 is given twice",
        "remove one",
    ),
    "too many combinations": (
        {"axes": {"seed": list(range(500)), "lr": "2^-20..1 by 2^0.1"}},
        "axes: 100500 combinations",
        "shorten an axis",
    ),
    "filter that does not parse": ({"where": ["lr <"]}, "where: `lr <`: cannot read 'lr <'", "invalid syntax"),
    "filter with an unknown name": (
        {"where": ["batch <= budget_tokens"]},
        "where: `batch <= budget_tokens`: unknown name 'batch'",
        "did you mean batch_tokens?",
    ),
    "filter that is no condition": ({"where": ["seed"]}, "where: `seed` is 0, not true or false", "such as > 0"),
    "filter that calls something": ({"where": ["open('x')"]}, "where: `open('x')`: \"open('x')\"", "not arithmetic"),
    "filter that leaves nothing": (
        {"where": ["lr > 0", "batch_tokens > budget_tokens"]},
        "where: `batch_tokens > budget_tokens` leaves none of 36 runs",
        "loosen it or change the axes",
    ),
    "a filter that is no list": ({"where": "lr > 0"}, "where = 'lr > 0'", "expected a list, each text"),
}


@pytest.mark.parametrize("mistake", CHANGES)
def test_mistake_in_the_file(tmp_path: Path, mistake: str):
    changes, field, remedy = CHANGES[mistake]
    message = refusal(tmp_path, **changes)
    assert message.startswith(f"{tmp_path / 'study.yaml'}: {field}")
    assert remedy in message[len(field) :]


OVERRIDES = {
    "no equals sign": ("base.lr", "override 'base.lr'", "write field=value"),
    "no YAML": ("base.lr=[1", "override 'base.lr=[1': line 1", "(YAML)"),
    "unknown field": (
        "base.optimizer.beta=0.9",
        "base.optimizer.beta: unknown field",
        "did you mean base.optimizer.beta",
    ),
    "below a value of the file": ("base.batch_tokens.x=1", "base.batch_tokens is a value", "write base.batch_tokens=1"),
    "of what an axis varies": (
        "base.lr=0.1",
        "base.lr would have no effect, the study varies lr",
        "override that axis",
    ),
    "unknown axis": ("axes.beta2=0.9", "axes.beta2: unknown field", "did you mean optimizer.beta2?"),
}


@pytest.mark.parametrize("mistake", OVERRIDES)
def test_mistake_in_an_override(tmp_path: Path, mistake: str):
    override, field, remedy = OVERRIDES[mistake]
    message = refusal(tmp_path, override)
    assert field in message
    assert remedy in message


FILES = {
    "empty": ("", "the file is empty", "write at least one field"),
    "only a comment": ("# nothing\n", "the file is empty", "such as `name: my-study`"),
    "a list": ("- 1\n", "expected lines of `field: value`", "got list"),
    "broken YAML": ("name: x\naxes: [1, 2\nbase:\n", "line 3", "(YAML)"),
    "tab": ("name: x\nbase:\n\tlr: 1\n", "line 3", "(YAML)"),
    "key given twice": ("name: x\naxes:\n  lr: [1]\n  lr: [2]\n", "line 4: lr is given twice", "keep one"),
    "key that is a number": ("name: x\naxes:\n  8: [1]\n", "line 3: the key '8' is not text", "(YAML)"),
    "two documents": ("name: x\n---\nname: y\n", "line 2", "single document"),
    "no name at all": ("base: {}\n", "name: missing", "write name:"),
}


@pytest.mark.parametrize("mistake", FILES)
def test_mistake_of_form(tmp_path: Path, mistake: str):
    text, what, remedy = FILES[mistake]
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        plan_study(tmp_path / "study.yaml", (), ONE)
    message = one_line(raised)
    assert message.startswith(f"{tmp_path / 'study.yaml'}: {what}")
    assert remedy in message


def test_missing_file_names_its_neighbour(tmp_path: Path):
    (tmp_path / "quickstart.yaml").write_text("name: x\n")
    with pytest.raises(ConfigError, match=r"quickstrat\.yaml: no such file; did you mean .*/quickstart\.yaml\?$"):
        plan_study(tmp_path / "quickstrat.yaml", (), ONE)


def test_missing_file_in_a_missing_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"x\.yaml: no such file; in .*/nowhere: none$"):
        plan_study(tmp_path / "nowhere" / "x.yaml", (), ONE)


def test_a_directory_and_a_binary_file_are_no_studies(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        plan_study(tmp_path, (), ONE)
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"study\.yaml: not a text file in UTF-8"):
        plan_study(tmp_path / "study.yaml", (), ONE)


def test_mistake_in_the_base_points_to_its_file(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("optimizer: {beta3: 0.9}\n")
    assert "base.yaml: optimizer.beta3: unknown field" in refusal(tmp_path, base="base.yaml")
    assert "bass.yaml: no such file; did you mean" in refusal(tmp_path, base="bass.yaml")


def test_several_mistakes_are_counted(tmp_path: Path):
    message = refusal(tmp_path, base={"lr": -1, "seed": -1, "model": {"widht": 64}})
    assert "base.model.widht: unknown field; did you mean base.model.width? (and 2 more mistakes)" in message


def test_batch_not_divisible_over_the_processes(tmp_path: Path):
    message = refusal(tmp_path, hardware=Hardware(world_size=3))
    assert "batch_tokens = 512 is not a multiple of model.seq_len x world_size = 384: use 384 or 768" in message


@pytest.mark.parametrize(
    ("hardware", "words"),
    [
        (Hardware(0), "world_size = 0: use at least 1 process"),
        (Hardware(1, 0), "micro_batch_seqs = 0: use at least 1 sequence"),
    ],
)
def test_impossible_hardware(tmp_path: Path, hardware: Hardware, words: str):
    assert words in refusal(tmp_path, hardware=hardware)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (
            (2**18, 2**16, 257),
            "budget_tokens = 262144 needs 2048 sequences of model.seq_len = 128, the training data has 2047: "
            "use at most 262016 or prepare more data",
        ),
        (
            (2**20, 1000, 257),
            "data.valid_tokens = 32768 needs 256 sequences of model.seq_len = 128, the validation data has 7: "
            "use at most 896 or prepare more data",
        ),
        (
            (2**20, 2**16, 50_304),
            "model.vocab_size = 257 is below the data's vocabulary of 50304: use 50304 or more",
        ),
    ],
)
def test_data_that_is_too_small_or_has_too_many_token_types(tmp_path: Path, held: tuple[int, int, int], words: str):
    run = plan_good(tmp_path).runs[0]
    check_tokens(run, 2**18 + 1, 2**15 + 1, 257)  # the first token of the data is never a target
    with pytest.raises(ConfigError) as raised:
        check_tokens(run, *held)
    assert one_line(raised) == words
