"""The coordinate check through DeepSpeed's engine: muP passes at every ZeRO stage, and what breaks muP fails it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.coordinates import CoordinateSlope, coordinate_slopes, passes
from configs import mup
from configs.errors import ConfigError
from configs.load import load_run
from configs.schema import RunConfig
from train.coordcheck import check_runs, measured
from train.data.prepare import ensure_embedded

RUN = """
model: {width: 32, base_width: 32, depth: 1, head_dim: 16, seq_len: 32,
  hidden_init_std: 2^-2.5, output_init_std: 2^-3.5}
data: {valid_tokens: 1024}
batch_tokens: 512
lr: 2^-8
engine: {zero_stage: 0}
"""
WIDTHS = (64, 128, 256)


@pytest.fixture
def base(tmp_path: Path) -> RunConfig:
    (tmp_path / "run.yaml").write_text(RUN)
    return load_run(tmp_path / "run.yaml")


@pytest.fixture
def check(tmp_path: Path, data_dir: Path, process_group: None):
    """A function that measures a configuration at some widths and returns all rows."""
    corpus = ensure_embedded(data_dir)

    def rows(
        config: RunConfig,
        widths: Iterable[int] = WIDTHS,
        seeds: int = 1,
        steps: int = 6,
        grown_heads: bool = False,
        into: str = "measured",
    ) -> pd.DataFrame:
        runs = check_runs(config, corpus, list(widths), seeds, steps, grown_heads=grown_heads)
        return pd.DataFrame(measured(runs, corpus, tmp_path / into, lambda: None))

    return rows


def of(slopes: Iterable[CoordinateSlope], kind: str, quantity: str = "update") -> float:
    """The exponent of one kind after the last step."""
    value = [s.exponent.value for s in slopes if (s.kind, s.quantity) == (kind, quantity)][-1]
    assert value is not None
    return value


def changed(config: RunConfig, **model: object) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=model)})


def test_mup_passes_and_standard_parametrisation_fails(base, check):
    slopes = coordinate_slopes(check(base, seeds=2))
    assert passes(slopes), [(s.kind, s.quantity, s.step, s.exponent.value) for s in slopes if not s.passed]
    standard = coordinate_slopes(check(changed(base, parametrization="sp"), seeds=2))
    assert not passes(standard)
    for kind in ("ffn", "residual", "logits"):
        assert of(standard, kind) > 0.3


def test_wider_heads_need_one_over_d_attention(base, check, monkeypatch):
    right = of(coordinate_slopes(check(base, grown_heads=True), grown_heads=True), "attention_logits")
    true = mup.forward_multipliers
    wrong = lambda model: replace(true(model), attention=model.head_dim**-0.5)  # noqa: E731
    monkeypatch.setattr("train.model.forward_multipliers", wrong)
    broken = check(base, grown_heads=True, into="broken")
    assert right < 0.1
    assert of(coordinate_slopes(broken, grown_heads=True), "attention_logits") > right + 0.4


@pytest.mark.parametrize(
    ("role", "cell", "kind"),
    [("hidden", "lr_multiplier", "ffn_hidden"), ("residual_out", "lr_multiplier", "ffn")],
)
def test_a_learning_rate_that_does_not_fall_is_seen(base, check, monkeypatch, role, cell, kind):
    true = mup.rules

    def broken(config):
        table = true(config)
        return table | {role: replace(table[role], **{cell: 1.0})}

    monkeypatch.setattr("train.parametrization.rules", broken)
    monkeypatch.setattr("train.parametrization.check_against_mup", lambda *_: None)
    assert of(coordinate_slopes(check(base)), kind) > 0.3


def test_logits_without_their_multiplier_are_seen(base, check, monkeypatch):
    true = mup.forward_multipliers
    monkeypatch.setattr("train.model.forward_multipliers", lambda model: replace(true(model), logits=1.0))
    assert of(coordinate_slopes(check(base)), "logits") > 0.3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_coordinates_are_the_same_at_every_stage(base, check, stage):
    plain = check(base, widths=(32, 64), steps=3)
    engine = base.engine.model_copy(update={"zero_stage": stage})
    sharded = check(base.model_copy(update={"engine": engine}), widths=(32, 64), steps=3)
    assert list(sharded["kind"]) == list(plain["kind"])
    torch.testing.assert_close(torch.tensor(sharded["rms"]), torch.tensor(plain["rms"]), rtol=2e-4, atol=1e-7)


def test_a_measurement_is_kept_and_read_again(base, check, monkeypatch):
    first = check(base, widths=(32, 64), steps=1)
    monkeypatch.setattr("train.coordcheck.measure", lambda *_: pytest.fail("it was trained again"))
    pd.testing.assert_frame_equal(check(base, widths=(32, 64), steps=1), first)


@pytest.mark.parametrize(
    ("widths", "grown", "message"),
    [
        ((64,), False, "--widths 64: .*at least two"),
        ((32, 40), False, "model.width = 40 is not a multiple"),
        ((32, 33), True, "head_dim"),
    ],
)
def test_widths_that_cannot_be_are_refused_before_anything_is_trained(base, check, widths, grown, message):
    with pytest.raises(ConfigError, match=message):
        check(base, widths=widths, grown_heads=grown)
