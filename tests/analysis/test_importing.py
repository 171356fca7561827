"""Anybody's table -> a run table: odd names, text in numbers, what is left out and why."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from analysis.columns import column
from analysis.importing import import_table, read_raw
from analysis.stored import load_table, table_dirs, write_import
from configs.errors import ConfigError
from configs.mapping import Mapping, read_mapping
from launch.cli import main
from tests.planted import planted_table
from tests.processes import ROOT

COLUMNS = {"width": "N", "tokens": "D", "batch_tokens": "bs * 2048", "lr": "lr", "loss": "smooth loss"}


def foreign(**changes: object) -> pd.DataFrame:
    """Twelve runs as text, as a CSV gives them: two batches of sequences, six learning rates."""
    rows = [
        {
            "N": "64",
            "D": "1e9",
            "bs": str(bs),
            "lr": f"{2.0**k:g}",
            "smooth loss": f"{3 + 0.02 * (k + 7) ** 2 + bs:.4f}",
        }
        for bs in (1, 2)
        for k in range(-10, -4)
    ]
    return pd.DataFrame(rows).assign(**changes)


def imported(table: pd.DataFrame, **fields: object):
    return import_table(table, Mapping.model_validate({"columns": COLUMNS, **fields}))


def refuse(words: str, table: pd.DataFrame, **fields: object) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        imported(table, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a", 3.0),
        ("odd name (x*y)", 5.0),
        ("2^10 * a", 3072.0),
        ("`odd name (x*y)` * 2 - -a", 13.0),
        ("`p^q` + a^2", 16.0),
        ("7", 7.0),
        ("sqrt(a + 1)", 2.0),
        ("significant(1234.6 * a, 2)", 3700.0),
        (r"match(name, '_lr([0-9.e-]+)$')", 5e-4),
        (r"match(name, '^w(\d+)') * 2", 512.0),
        ("a == 3 and 'lr5' in name", 1.0),
        ("not a in [1, 2] or name == 'x'", 1.0),
        ("x.y", 9.0),
    ],
)
def test_expressions(expression, value):
    row = {"a": "3", "odd name (x*y)": "5", "p^q": "7", "name": "w256_lr5e-04", "x.y": "9"}
    found = column(pd.DataFrame([row, row]), expression)
    assert list(pd.to_numeric(found)) == [value, value]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("bss", "no column 'bss'; did you mean bs"),
        ("bs +", "not an expression"),
        ("__import__('os')", "not understood"),
        ("bs.__class__", "no column"),
        ("match(bs, 'x')", "exactly one group"),
        ("'text' * 2", "arithmetic needs numbers"),
        ("lambda: 1", "not understood"),
    ],
)
def test_expressions_that_are_none(expression, words):
    with pytest.raises(ConfigError, match=words):
        column(foreign(), expression)


def test_a_table_as_it_is():
    found = imported(foreign())
    assert len(found.table) == 12
    assert set(found.table["batch_tokens"]) == {2048, 4096}
    assert found.table["tokens"].dtype == "int64"
    assert set(found.table["seed"]) == {0}
    assert found.left_out.empty


def test_what_cannot_be_used_is_listed_with_its_reason():
    table = foreign()
    for i, (name, value) in enumerate(
        [("lr", "fast"), ("lr", ""), ("D", "12k"), ("D", "-5"), ("smooth loss", ""), ("D", "100"), ("D", "inf")]
    ):
        table.loc[i, name] = value
    table = pd.concat([table, table.tail(1)], ignore_index=True)
    found = imported(table)
    assert list(found.left_out["row"]) == [1, 2, 3, 4, 5, 6, 7, 13]
    assert list(found.left_out["reason"]) == [
        "lr is not a number",
        "lr is empty",
        "tokens is not a number",
        "tokens is not above 0",
        "loss is empty",
        "tokens is less than one batch_tokens: are both in tokens?",
        "tokens is not finite",
        "repeats another row's reading",
    ]
    assert found.left_out["lr"].iloc[0] == "fast"
    assert len(found.table) + len(found.left_out) == len(table)


def test_divergence_by_the_rule_and_by_a_threshold():
    table = foreign()
    table.loc[5, "smooth loss"] = "nan"
    table.loc[4, "smooth loss"] = "4.9"  # 0.9 above the best, at a higher rate
    table.loc[0, "smooth loss"] = "4.9"  # as much at a lower rate: undertrained, not diverged
    found = imported(table).table
    assert list(found["status"][:6]) == ["finished"] * 4 + ["diverged"] * 2
    assert found["loss"][4:6].isna().all()
    assert found["reported_loss"][4] == 4.9
    above = imported(table, diverged_above=4.8).table
    assert list(above["status"][:6]) == ["diverged"] + ["finished"] * 3 + ["diverged"] * 2


def test_contradicting_rows_say_what_they_differ_in():
    both = pd.concat([foreign(sched="a"), foreign(sched="b", **{"smooth loss": "9"})], ignore_index=True)
    refuse("rows 1 and 13 have the same .* they differ in smooth loss, sched: --group", both)
    apart = imported(both, group=["sched"])
    assert set(apart.table["group"]) == {"sched=a", "sched=b"}
    seeds = imported(both, columns={**COLUMNS, "seed": "sched"})
    assert set(seeds.table["seed"]) == {0, 1}
    assert len(imported(both, where="sched == 'a'").left_out) == 12


def test_what_looks_odd_is_noted():
    table = foreign()
    table.loc[:5, "D"] = ["1.01e9"] * 6
    notes = " ".join(imported(table, columns={**COLUMNS, "n_params": "N"}).notes)
    assert "within 2 % of the next" in notes
    two = " ".join(imported(foreign().iloc[[0, 1, 6, 7]]).notes)
    assert "2 of 2 cells (N, T, B) have fewer than 3 learning rates" in two
    mixed = foreign()
    mixed.loc[0, "D"] = "1e16"
    assert any("units mixed" in note for note in imported(mixed).notes)
    assert any("not used: gpu" in note for note in imported(foreign(gpu=[str(i) for i in range(12)])).notes)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (foreign(lr="fast"), "no row can be used: 12 lr is not a number"),
        (foreign(D="1.5"), "no row can be used: 12 tokens is less than one batch_tokens"),
        (foreign().drop(columns="lr"), "no such column, and not|no column 'lr'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(table, words):
    refuse(words, table)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["lr=lr"], "nothing gives tokens, batch_tokens, loss, width"),
        (["learning_rate=lr"], "learning_rate: no such column"),
        (["lr"], "write name=expression"),
        (["steps=s", "batch_tokens=b"], "nothing gives target_loss"),
    ],
)
def test_a_mapping_that_lacks_something(columns, words):
    with pytest.raises(ConfigError, match=words):
        read_mapping(None, columns)


@pytest.mark.parametrize("preset", sorted((ROOT / "configs/presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_are_complete(preset):
    mapping = read_mapping(preset)
    assert mapping.about
    assert read_mapping(preset, ["lr=7"] if mapping.kind == "runs" else ["steps=7"], where="a == 1").where == "a == 1"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_files_of_three_kinds_say_the_same(tmp_path, suffix):
    table = planted_table(widths=(64,), diverge_above=3.5)[["width", "tokens", "batch_tokens", "lr", "loss"]]
    path = tmp_path / f"runs.{suffix}"
    match suffix:
        case "csv":
            table.to_csv(path, index=False, na_rep="nan")
        case "parquet":
            table.to_parquet(path, index=False)
        case _:
            path.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")))
    found = import_table(read_raw(path), Mapping(columns={name: name for name in table}))
    np.testing.assert_array_equal(found.table["loss"], table["loss"])
    assert (found.table["status"] == "diverged").equals(table["loss"].isna())


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "a.parquet").write_text("x")
    (tmp_path / "a.jsonl").write_text("{")
    for name in ("a.csv", "a.parquet", "a.jsonl", "a.txt", "none.csv"):
        with pytest.raises(ConfigError, match=name):
            read_raw(tmp_path / name)


def test_from_a_file_to_laws_and_report(tmp_path, capsys):
    """The commands: the imported table is what is analysed, and it is not overwritten."""
    planted = planted_table(widths=(64,), budgets=(2**18, 2**19))
    source = tmp_path / "mine.csv"
    planted.rename(columns={"loss": "final loss"}).to_csv(source, index=False)
    out = tmp_path / "out"
    maps = [f"--map={name}={name}" for name in ("width", "tokens", "batch_tokens", "lr")]
    assert main(["table", "import", str(source), *maps, "--map", "loss=final loss", "--out", str(out)]) == 0
    before = (out / "table.parquet").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["analyse", str(out)]) == 0
        assert main(["report", str(out)]) == 0
    assert (out / "table.parquet").read_bytes() == before
    laws = json.loads((out / "laws.json").read_text())
    surge = [c["batch"]["value"] for c in laws["critical_batch"] if c["definition"] == "time_transfer_surge"]
    assert surge == pytest.approx([750, 1500], rel=1e-6)
    assert (out / "report/index.html").exists()
    assert "time_transfer_surge" in capsys.readouterr().out
    assert main(["table", str(out)]) == 2
    assert "holds an imported table" in capsys.readouterr().err


def test_groups_are_tables_of_their_own(tmp_path):
    both = pd.concat([foreign(sched="a/b"), foreign(sched="a b", **{"smooth loss": "9"})], ignore_index=True)
    source = tmp_path / "x.csv"
    both.to_csv(source, index=False)
    mapping = Mapping.model_validate({"columns": COLUMNS, "group": ["sched"]})
    write_import(import_table(read_raw(source), mapping), source, mapping, tmp_path / "out")
    directories = table_dirs(tmp_path / "out")
    assert [d.name for d in directories] == ["sched=a-b", "sched=a-b+"]
    assert [load_table(d)["group"].unique().tolist() for d in directories] == [["sched=a b"], ["sched=a/b"]]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(ConfigError, match="something else"):
        write_import(import_table(read_raw(source), mapping), source, mapping, tmp_path / "other")
