"""Tables of steps to a target loss, against the numbers that Zhang et al. published for theirs."""

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse, to_json
from configs.errors import ConfigError
from tests.analysis.test_critical_batch import BATCH_SEQS, ZHANG

SIZES = {"85M": 85e6, "151M": 151e6, "302M": 302e6, "604M": 604e6, "1.2B": 1200e6}
SEQ_LEN = 512


@pytest.fixture(scope="module")
def zhang() -> pd.DataFrame:
    """The published table, batches in tokens."""
    return pd.DataFrame(
        [
            {"model": model, "n_params": SIZES[model], "target_loss": 3.0, "batch_tokens": int(batch) * SEQ_LEN}
            | {"steps": steps, "seq_len": SEQ_LEN}
            for model, (column, *_) in ZHANG.items()
            for batch, steps in zip(BATCH_SEQS, column, strict=True)
        ]
    )


def test_both_definitions_and_their_growth(zhang: pd.DataFrame):
    found = analyse(zhang)
    seqs = {(c.model, c.definition): c.batch.value / SEQ_LEN for c in found.critical_batch}
    for model, (_, a, b, critical) in ZHANG.items():
        assert seqs[model, "overhead20"] == pytest.approx(critical, rel=1e-3)
        assert seqs[model, "hyperbola"] == pytest.approx(b / a, rel=1e-3)
    law = {(g.quantity, g.variable): g for g in found.growth}
    overhead, hyperbola = (law[f"batch_crit:{name}", "n_params"] for name in ("overhead20", "hyperbola"))
    assert overhead.exponent.value == pytest.approx(0.468, abs=0.005)
    assert hyperbola.exponent.value == pytest.approx(0.619, abs=0.01)
    at_one_million = overhead.coefficient.value - overhead.exponent.value * np.log2(overhead.reference_tokens / 1e6)
    assert 2**at_one_million / SEQ_LEN == pytest.approx(93.20, rel=1e-3)
    assert all(c.batch.low < c.batch.value < c.batch.high for c in found.critical_batch)
    assert all(0.2 < c.factor < 0.35 for c in found.critical_batch if c.definition == "overhead20")


def test_tokens_of_the_best_batch_are_the_t_of_a_target(zhang: pd.DataFrame):
    by_model = {c.model: c.tokens for c in analyse(zhang).critical_batch}
    assert by_model["85M"] == 46000 * 64 * SEQ_LEN == 23000 * 128 * SEQ_LEN
    assert by_model["302M"] == 90000 * 128 * SEQ_LEN


def test_json_is_plain(zhang: pd.DataFrame):
    laws = to_json(analyse(zhang))
    assert len(laws["critical_batch"]) == 15
    assert {"definition", "tokens", "batch", "factor", "model", "target_loss"} <= set(laws["critical_batch"][0])


def test_without_a_context_length_the_smallest_batch_is_the_reference(zhang: pd.DataFrame):
    found = analyse(zhang.drop(columns=["seq_len", "n_params", "model"]).query("batch_tokens > 0").iloc[:9])
    (overhead,) = (c.batch for c in found.critical_batch if c.definition == "overhead20")
    assert f"B_ref = {64 * SEQ_LEN} tokens" in overhead.method
    assert not found.growth


def test_too_few_batches_are_said_or_refused(zhang: pd.DataFrame):
    short = pd.concat([zhang.iloc[:9], zhang.iloc[9:11]])
    assert any("151M" in text and "too few" in text for text in analyse(short).warnings)
    with pytest.raises(ConfigError, match="three batches"):
        analyse(zhang.iloc[:2])
