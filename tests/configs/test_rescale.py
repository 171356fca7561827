import re

import pytest

from configs.errors import ConfigError
from configs.load import load_run
from configs.plan import Hardware, plan
from configs.rescale import cautions, changes, recipe_text, rescaled_run
from configs.scaling import RULES
from configs.schema import OptimizerConfig, RunConfig, ScheduleConfig
from launch.cli import main

BASE = RunConfig(
    batch_tokens=2**11,
    budget_tokens=2**18,
    lr=2**-7,
    optimizer=OptimizerConfig(beta1=0.9, beta2=0.98, eps=1e-8, weight_decay=0.1, clip_norm=0.0),
    schedule=ScheduleConfig(kind="wsd", warmup_tokens=2**14),
    ema_half_life_tokens=2**15,
)


def by_field(before, after):
    return {change.field: change.after for change in changes(before, after)}


def test_four_times_the_batch_by_hand():
    new = rescaled_run(BASE, 2**13, None, "sqrt")
    assert by_field(BASE, new) == pytest.approx(
        {
            "batch_tokens": 2**13,
            "lr": 2**-6,
            "optimizer.beta1": 0.6,
            "optimizer.beta2": 0.92,
            "optimizer.eps": 5e-9,
            "optimizer.weight_decay": 0.2,
        }
    )
    assert plan(new, Hardware(1)).steps * 4 == plan(BASE, Hardware(1)).steps


def test_decay_that_does_not_follow_lr_grows_with_the_batch():
    independent = BASE.model_copy(update={"optimizer": BASE.optimizer.model_copy(update={"decay_rule": "independent"})})
    assert by_field(independent, rescaled_run(independent, 2**13, None, "sqrt"))[
        "optimizer.weight_decay"
    ] == pytest.approx(0.4)


def test_the_joint_rule_stretches_what_is_in_tokens():
    new = rescaled_run(BASE, 2**13, 2**20, "joint")
    assert by_field(BASE, new) == {
        "batch_tokens": 2**13,
        "budget_tokens": 2**20,
        "schedule.warmup_tokens": 2**16,
        "ema_half_life_tokens": 2**17,
    }


@pytest.mark.parametrize("rule", RULES)
def test_what_is_written_reads_back(rule, tmp_path):
    before = BASE
    if rule in ("adagrad", "sign"):
        optimizer = OptimizerConfig(kind=rule, weight_decay=0.1, clip_norm=0.0)
        before = BASE.model_copy(update={"optimizer": optimizer})
    new = rescaled_run(before, 2**12, 2**19, rule)
    (tmp_path / "new.yaml").write_text(recipe_text(before, new, rule, None))
    assert load_run(tmp_path / "new.yaml") == new


def test_cautions_say_the_numbers():
    new = rescaled_run(BASE, 2**13, None, "sqrt")
    assert cautions(BASE, new, "sqrt", 2**14) == []
    (above,) = cautions(BASE, new, "sqrt", 2**12)
    assert above.startswith("a batch of 8192 tokens is above the measured noise scale of 4096")
    (unknown,) = cautions(BASE, new, "sqrt", None)
    assert "--noise-scale" in unknown
    clipped = BASE.model_copy(update={"optimizer": OptimizerConfig(clip_norm=1.0)})
    found = cautions(clipped, rescaled_run(clipped, 2**13, 2**19, "half_life"), "half_life", 2**14)
    assert [text.split()[0] for text in found] == ["optimizer.clip_norm", "rule"]
    short = rescaled_run(BASE, 2**14, None, "sqrt")
    assert any(text.startswith("optimizer.beta1 = 0.2 ") for text in cautions(BASE, short, "sqrt", 2**20))


@pytest.mark.parametrize(
    ("batch", "budget", "rule", "says"),
    [
        (2**15, None, "sqrt", r"optimizer.beta1 = 0.9: .* kappa \(1 - beta1\) = 1.6 must stay below 1"),
        (2**15, None, "half_life", "schedule.warmup_tokens = 16384 is not a multiple of batch_tokens = 32768"),
        (3000, None, "sqrt", "batch_tokens = 3000 is not a multiple of model.seq_len = 128"),
    ],
)
def test_what_cannot_be_is_refused(batch, budget, rule, says):
    with pytest.raises(ConfigError, match=says):
        rescaled_run(BASE, batch, budget, rule)


def test_the_command(tmp_path, capsys):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("lr: 2^-7\nbatch_tokens: 2^10\noptimizer: {weight_decay: 0.1}\n")
    assert main(["rescale", str(old), "--batch-tokens", "2^12", "--noise-scale", "2048", "--out", str(new)]) == 0
    text, said = new.read_text(), capsys.readouterr().out
    assert text.splitlines()[0] == "# Rescaled by bcrit: 4 times the batch, 1 the budget."
    assert "#   lr: 2^-7 -> 2^-6\n" in text
    assert "lr: 2^-6\nbatch_tokens: 2^12\n" in text
    assert re.search(r"Caution: a batch of 4096 tokens is above the measured noise scale of 2048", said)
    assert load_run(new).optimizer.beta1 == pytest.approx(0.6)
    assert main(["rescale", str(old), "--batch-tokens", "2^12", "--out", str(new)]) == 2  # nothing is overwritten
    assert "there is such a file" in capsys.readouterr().err
    assert main(["rescale", str(old), "lr=2^-8", "--batch-tokens", "2^14", "--rule", "lr"]) == 0
    assert "lr: 2^-6\n" in capsys.readouterr().out
    assert main(["rescale", str(old), "--batch-tokens", "2^14"]) == 2
    assert "kappa (1 - beta1) = 1.6 must stay below 1: use --rule half_life" in capsys.readouterr().err


def test_only_what_the_optimizer_uses_is_changed(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text("lr: 2^-7\nbatch_tokens: 2^10\noptimizer: {kind: rmsprop, beta2: 0.99}\n")
    assert (
        main(["rescale", str(tmp_path / "old.yaml"), "--batch-tokens", "2^14", "--out", str(tmp_path / "new.yaml")])
        == 0
    )
    new = load_run(tmp_path / "new.yaml")  # at 16 times, beta1 = 0.9 would be refused
    assert (new.lr, new.optimizer.beta1) == (2**-5, 0.9)
    assert new.optimizer.beta2 == pytest.approx(0.84)
    assert "Half-lives in tokens: beta2 7.062e+04 -> 6.514e+04; decay" in capsys.readouterr().out
    assert main(["rescale", str(tmp_path / "old.yaml"), "optimizer.kind=lion", "--batch-tokens", "2^12"]) == 2
    assert "no scaling rule is known" in capsys.readouterr().err
