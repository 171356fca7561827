"""The README's table of muP, cell by cell: a formula for every role and column, and what it says of a run.

The tests of the table, of the networks that follow it, and of what `bcrit mup` prints compare with these formulas; the
mutation tests show that each comparison can fail.
"""

import re
from pathlib import Path

import pytest

from configs import mup
from configs.expressions import evaluate
from configs.schema import RunConfig

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
COLUMNS = {  # the README's heading -> the field of a RoleRule
    "fan-in ratio": "fan_in_ratio",
    "init std": "init_std",
    "forward ×": "forward_multiplier",
    "lr ×": "lr_multiplier",
    "weight decay ×": "weight_decay_multiplier",
    "ε ×": "eps_multiplier",
}
ROLES = ("embedding", "hidden", "residual_out", "output", "norm", "final_norm", "bias")
CELLS = [(role, column) for role in ROLES for column in COLUMNS.values()]
_ROW = re.compile(r"^\| role \| (.+) \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)


def _readme_cells() -> dict[tuple[str, str], tuple[str, str]]:
    """(role, column) -> (formula, tags of its sources); a row may be of several roles, with a remark in parentheses."""
    found = _ROW.search(README)
    assert found, "the README has no table that begins with `| role |`"
    headings = found[1].split(" | ")
    cells = {}
    for line in found[2].splitlines():
        names, *texts = (text.strip() for text in line.strip("|").split("|"))
        for role in re.sub(r" \(.*\)", "", names).split(", "):
            for heading, text in zip(headings, texts, strict=True):
                if text:
                    formula, tags = re.fullmatch(r"`(.+)` \[([A-Z ]+)\]", text).groups()
                    cells[role, COLUMNS[heading]] = formula, tags
    return cells


README_CELLS = _readme_cells()


def names(config: RunConfig) -> dict[str, float]:
    """What the names of the README's formulas stand for in this run, under mup."""
    model = config.model
    deep = model.base_depth is not None
    return {
        "r": model.width / model.base_width,
        "m": model.depth / model.base_depth if deep else 1.0,
        "L": model.base_depth if deep else model.depth,
        "a": model.depth_alpha,
        "s_e": model.embedding_init_std,
        "s_h": model.hidden_init_std,
        "s_o": model.output_init_std,
        "m_e": model.embedding_multiplier,
        "m_r": model.residual_multiplier,
        "m_o": model.output_multiplier,
        "l_e": model.embedding_lr_multiplier,
        "d": model.head_dim,
        "d_0": model.base_head_dim or model.head_dim,
    }


def standard(config: RunConfig, role: str, column: str) -> float:
    """The cell under sp, where only the init of matrices knows of width and depth."""
    model = config.model
    r = model.width / model.base_width
    if column == "init_std":
        hidden = model.hidden_init_std * r**-0.5
        matrices = {
            "embedding": model.embedding_init_std,
            "hidden": hidden,
            "residual_out": hidden * (2 * model.depth) ** -0.5,
            "output": model.output_init_std * r**-0.5,
        }
        return matrices.get(role, 0.0)
    if column == "forward_multiplier":
        multipliers = {
            "embedding": model.embedding_multiplier,
            "residual_out": model.residual_multiplier,
            "output": model.output_multiplier,
        }
        return multipliers.get(role, 1.0)
    if column == "lr_multiplier":
        return model.embedding_lr_multiplier if role == "embedding" else 1.0
    if column == "weight_decay_multiplier":
        return 1.0 if role in ("hidden", "residual_out", "output") else 0.0
    if column == "fan_in_ratio":
        return r if role in ("hidden", "residual_out", "output") else 1.0
    return 1.0


def expected(config: RunConfig, role: str, column: str) -> float:
    """The number that belongs in the cell, under decay rule base_lr."""
    if config.model.parametrization == "sp":
        return standard(config, role, column)
    return float(evaluate(README_CELLS[role, column][0], names(config)))


def attention(config: RunConfig) -> float:
    """What multiplies q.k, by the README's line beneath the roles; sp knows no base head."""
    known = names(config)
    if config.model.parametrization == "sp":
        known["d_0"] = known["d"]
    return evaluate(README_CELLS["attention logits", "forward_multiplier"][0], known)


def check_cell(config: RunConfig, role: str, column: str) -> None:
    """One cell of `configs.mup.rules` for one run."""
    number = getattr(mup.rules(config)[role], column)
    assert number == pytest.approx(expected(config, role, column), rel=1e-12, abs=0), (role, column)


def run_config(parametrization: str = "mup", *, weight_decay: float = 0.1, rule: str = "base_lr", **model) -> RunConfig:
    """A run with heads of 8 and base width 32 in which no multiplier is 1 and no two are equal, unless `model` says so.

    Twice as wide and three times as deep as its base by default.
    """
    distinct = {
        "width": 64,
        "base_width": 32,
        "depth": 6,
        "base_depth": 2,
        "depth_alpha": 0.75,
        "head_dim": 8,
        "seq_len": 16,
        "vocab_size": 48,
        "embedding_init_std": 0.9,
        "hidden_init_std": 0.2,
        "output_init_std": 0.3,
        "embedding_multiplier": 1.5,
        "residual_multiplier": 0.7,
        "output_multiplier": 2.5,
        "embedding_lr_multiplier": 4.0,
    }
    return RunConfig.model_validate(
        {
            "model": {**distinct, "parametrization": parametrization, **model},
            "optimizer": {"eps": 1e-3, "weight_decay": weight_decay, "decay_rule": rule},
            "lr": 2**-6,
        }
    )
