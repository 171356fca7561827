"""Run directories -> the run table, where some runs are the trunks of others."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse
from analysis.report.provenance import provenance
from analysis.table import build_table, write_table
from configs.identity import run_id
from configs.plan import readouts
from configs.rundir import (
    Readout,
    Status,
    create_run,
    metrics_path,
    run_dir_of,
    write_atomic,
    write_json,
    write_status,
)
from configs.schema import RunConfig

BUDGETS = (2**16, 2**17)
LRS = tuple(2.0**k for k in range(-10, -4))


def run(**fields: object) -> RunConfig:
    return RunConfig.model_validate({"data": {"fingerprint": "f"}, **fields})


def finish(study_dir: Path, config: RunConfig, loss: float) -> str:
    """A finished run's directory; its id."""
    identity = run_id(config)
    run_dir = run_dir_of(study_dir, identity)
    create_run(run_dir, config)
    at = [(0, 5.5), *((tokens, loss) for tokens in readouts(config))]
    read = tuple(Readout(tokens=tokens, loss=value, train_loss=None, rms={}) for tokens, value in at)
    write_status(run_dir, Status(state="finished", tokens=config.budget_tokens, readouts=read))
    return identity


@pytest.fixture
def cooldowns(tmp_path: Path) -> Path:
    """For each learning rate a trunk of 2^16 + 2^15 tokens and a cooldown to either budget, on a parabola."""
    lines = []
    for lr in LRS:
        trunk = finish(tmp_path, run(lr=lr, budget_tokens=2**16 + 2**15), loss=1.0)  # lower than any branch
        lines.append(trunk)
        for budget in BUDGETS:
            branch = {"parent": trunk, "tokens": budget * 3 // 4}
            config = run(lr=lr, budget_tokens=budget, schedule={"kind": "wsd"}, branch=branch)
            lines.append(finish(tmp_path, config, loss=3.0 + 0.02 * (LRS.index(lr) - 2.5) ** 2))
    write_atomic(tmp_path / "manifest.jsonl", "".join(f'{{"id": "{identity}"}}\n' for identity in lines))
    return tmp_path


def test_trunks_have_no_rows_and_branches_name_them(cooldowns: Path):
    table = build_table(cooldowns)
    assert len(table) == len(LRS) * len(BUDGETS)
    assert set(table["schedule"]) == {"wsd"}
    assert not set(table["parent"]) & set(table["run_id"])
    assert all(run_dir_of(cooldowns, parent).is_dir() for parent in table["parent"])
    assert table.groupby("parent").size().tolist() == [len(BUDGETS)] * len(LRS)
    assert list(table["tokens"]) == list(table["budget_tokens"]) == list(BUDGETS) * len(LRS)
    assert list(table["branch_tokens"]) == [2**15 + 2**14, 2**16 + 2**15] * len(LRS)
    assert (table["loss"] >= 3).all()


def test_laws_take_no_notice_of_trunks(cooldowns: Path):
    """A trunk's row would be refused (two schedules) or, at 1.0 nats, be the best run of all."""
    cells = analyse(build_table(cooldowns)).cells
    assert [(cell.tokens, cell.state) for cell in cells] == [(budget, "interior") for budget in BUDGETS]
    assert [cell.lr.value for cell in cells] == pytest.approx([2**-7.5] * 2)
    assert [cell.loss.value for cell in cells] == pytest.approx([3.0] * 2)


def test_the_tokens_of_a_trunk_are_counted_once(cooldowns: Path):
    table = build_table(cooldowns)
    trained = len(LRS) * (2**16 + 2**15 + 2**14 + 2**15)  # a trunk and what the two branches add to it: 147,456
    assert trained == 884_736
    assert "885k in finished runs and their trunks" in provenance(table, analyse(table))
    foreign = table.drop(columns=["parent", "branch_tokens"])
    assert "1.18M in finished runs<" in provenance(foreign, analyse(foreign)).replace("</", "<")
    assert len(LRS) * sum(BUDGETS) == 1_179_648


def test_what_was_measured_at_a_checkpoint_is_in_its_row(cooldowns: Path):
    last = build_table(cooldowns).iloc[-1]
    where = run_dir_of(cooldowns, last["run_id"]) / "surge" / f"{last['tokens']:015d}"
    where.mkdir(parents=True)
    write_json(where / "surge.json", {"measured": {"noise_from_drop": {"value": 1234.0}}})
    assert build_table(cooldowns)["step_noise"].tolist()[-1] == 1234.0
    assert build_table(cooldowns)["step_noise"].notna().sum() == 1


def test_a_run_from_scratch_has_no_parent(tmp_path: Path):
    identity = finish(tmp_path, run(readout_tokens=[2**17]), loss=3.0)
    write_atomic(tmp_path / "manifest.jsonl", f'{{"id": "{identity}"}}\n')
    table = build_table(tmp_path)
    assert list(table["tokens"]) == [2**17, 2**18]
    assert table["parent"].isna().all()
    assert list(table["branch_tokens"]) == [0, 0]


def test_the_table_survives_its_files(cooldowns: Path):
    table = build_table(cooldowns)
    parquet, csv = write_table(table, cooldowns)
    columns = ["parent", "branch_tokens", "tokens", "loss"]
    pd.testing.assert_frame_equal(pd.read_parquet(parquet)[columns], table[columns], check_dtype=False)
    assert list(pd.read_csv(csv, dtype={"parent": str})["parent"]) == list(table["parent"])


def test_a_foreign_table_needs_neither_column(cooldowns: Path):
    table = build_table(cooldowns)
    foreign = table[["width", "tokens", "batch_tokens", "lr", "loss"]]
    assert [cell.lr for cell in analyse(foreign).cells] == [cell.lr for cell in analyse(table).cells]


def test_the_noise_that_runs_logged_is_a_definition_of_the_critical_batch(tmp_path: Path):
    """Planted: tr Sigma = 4096 |G|^2; at the first budget of a readout only half of the records are there."""
    random, lines = np.random.default_rng(0), []
    for lr in LRS:
        config = run(lr=lr, readout_tokens=[2**17], log={"noise": "gradients"})
        lines.append(finish(tmp_path, config, loss=3.0 + 0.02 * (math.log2(lr) + 7.4) ** 2))
        rows = [{"kind": "resume", "tokens": 0}]
        for tokens in range(2**11, 2**18 + 1, 2**11):
            mean_sq, trace = 1 + 0.3 * random.standard_normal(), 4096 * (1 + 0.1 * random.standard_normal())
            rows.append({"kind": "noise", "tokens": tokens, "of": "gradients", "mean_sq": mean_sq, "trace": trace})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(metrics_path(run_dir_of(tmp_path, lines[-1]), 1), text)
    write_atomic(tmp_path / "manifest.jsonl", "".join(f'{{"id": "{identity}"}}\n' for identity in lines))
    table = build_table(tmp_path)
    assert set(table["noise_of"]) == {"gradients"}
    assert ((table["noise_scale_low"] < 4096) & (table["noise_scale_high"] > 4096)).mean() >= 0.75
    found = [crit for crit in analyse(table).critical_batch if crit.definition == "noise_scale"]
    assert [crit.tokens for crit in found] == [2**17, 2**18]
    assert [crit.batch.value for crit in found] == pytest.approx([4096] * 2, rel=0.15)
    assert found[0].batch.value != found[1].batch.value
