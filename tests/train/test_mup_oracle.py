"""mup 1.0.0 as oracle: its optimizer, its base-shape files, its coordinate check; and where we differ on purpose."""

import copy
import re
from dataclasses import replace

import mup
import numpy as np
import pytest
import torch
import yaml
from mup.coord_check import _get_coord_data, get_coord_data
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import GraniteForCausalLM

from configs.plan import Hardware, plan
from configs.schema import ModelConfig, OptimizerConfig, RunConfig
from launch.cli import main
from tests.configs.mup_cells import COLUMNS, expected, run_config
from train.model import blank, build, granite_config, skeleton
from train.parametrization import ParametrizationError, check_against_mup, optimizer_groups, role_of, table

FLAT_DEPTH = {"base_depth": None, "depth_alpha": 1.0, "depth": 2}
RUNS = {
    "more heads": run_config(width=128, **FLAT_DEPTH),
    "wider heads": run_config(width=128, head_dim=32, base_head_dim=8, **FLAT_DEPTH),
    "narrower": run_config(width=16, **FLAT_DEPTH),
    "normed": run_config(width=128, qk_norm=True, **FLAT_DEPTH),
    "tied": run_config(width=128, tied=True, **FLAT_DEPTH),
    "deeper": run_config(width=128),
}
by_run = pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)


def at_width(model: ModelConfig, width: int) -> ModelConfig:
    """The same model with another number of heads of the base's size."""
    return model.model_copy(update={"width": width, "head_dim": model.base_head_dim or model.head_dim})


def with_base_shapes(network: nn.Module, model: ModelConfig) -> nn.Module:
    """The network after mup has seen it, as its README tells users of models that mup did not initialise."""
    base, delta = (skeleton(at_width(model, times * model.base_width)) for times in (1, 2))
    return mup.set_base_shapes(network, base, delta=delta, do_assert=False, rescale_params=False)


def by_name(network: nn.Module, groups: list[dict]) -> dict[str, dict]:
    """The optimizer group of every parameter."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def mup_adamw(network: nn.Module, config: RunConfig) -> Optimizer:
    """mup's AdamW with the settings of the run."""
    optimizer = config.optimizer
    return mup.MuAdamW(
        network.parameters(), lr=config.lr, weight_decay=optimizer.weight_decay, eps=optimizer.eps, betas=(0.9, 0.95)
    )


# mup's optimizer.


@pytest.mark.parametrize("run", ["more heads", "narrower", "normed", "tied"])
def test_sgd_has_the_rates_of_mu_sgd(run):
    config = RUNS[run].model_copy(update={"optimizer": OptimizerConfig(kind="sgd")})
    network = with_base_shapes(skeleton(config.model), config.model)
    ours = by_name(network, optimizer_groups(network, table(network, config), config))
    theirs = by_name(network, mup.MuSGD(network.parameters(), lr=config.lr).param_groups)
    for name, group in ours.items():
        own = config.model.embedding_lr_multiplier if role_of(name) == "embedding" else 1.0
        if "q_norm" in name or "k_norm" in name:  # mup sees no width in them, but their gradient falls with it
            own = config.model.width / config.model.base_width
        assert group["lr"] == pytest.approx(theirs[name]["lr"] * own, rel=1e-12), name


def both(config: RunConfig) -> tuple[dict[str, dict], dict[str, dict]]:
    """Our groups and those of MuAdamW on the same network, by name."""
    network = with_base_shapes(skeleton(config.model), config.model)
    ours = optimizer_groups(network, table(network, config), config)
    return by_name(network, ours), by_name(network, mup_adamw(network, config).param_groups)


@by_run
def test_every_matrix_has_the_rate_and_decay_of_mu_adamw(config):
    ours, theirs = both(config)
    matrices = [name for name in ours if role_of(name) in ("hidden", "residual_out", "output")]
    assert len(matrices) == 7 * config.model.depth + (not config.model.tied)
    by_depth = expected(config, "norm", "lr_multiplier")  # mup does not know depth; nothing else is in a norm's rate
    for name in matrices:
        depth = 1.0 if role_of(name) == "output" else by_depth
        assert ours[name]["lr"] == pytest.approx(theirs[name]["lr"] * depth, rel=1e-12), name
        shrinks = [group["lr"] * group["weight_decay"] for group in (ours[name], theirs[name])]
        assert shrinks[0] == pytest.approx(shrinks[1], rel=1e-12), name


@by_run
def test_what_is_no_matrix_differs_from_mu_adamw_as_documented(config):
    ours, theirs = both(config)
    others = [name for name in ours if role_of(name) in ("embedding", "norm", "final_norm")]
    for name in others:
        role = role_of(name)
        assert theirs[name]["lr"] == config.lr, name
        assert ours[name]["lr"] == config.lr * expected(config, role, "lr_multiplier"), name
        assert (ours[name]["weight_decay"], theirs[name]["weight_decay"]) == (0, 0.1), name
    assert {group["eps"] for group in theirs.values()} == {config.optimizer.eps}
    for name, group in ours.items():
        assert group["eps"] == pytest.approx(config.optimizer.eps * expected(config, role_of(name), "eps_multiplier"))


def test_one_tensor_as_learning_rate_is_divided_for_all_groups_by_mup():
    config = RUNS["more heads"]
    network = with_base_shapes(skeleton(config.model), config.model)
    groups = by_name(network, mup.MuAdamW(network.parameters(), lr=torch.tensor(0.5)).param_groups)
    assert {group["lr"].item() for group in groups.values()} == {0.5 / 4}


# What mup reads from shapes, and we from names.


def test_mup_refuses_a_head_that_is_no_mu_readout():
    model = RUNS["more heads"].model
    base, delta = skeleton(at_width(model, 32)), skeleton(at_width(model, 64))
    with pytest.raises(AssertionError, match=r"lm_head.*MuReadout"):
        mup.set_base_shapes(skeleton(model), base, delta=delta)


def one_key_head(model: ModelConfig) -> GraniteForCausalLM:
    """The model with one key and value head at every width."""
    config = granite_config(model)
    config.num_key_value_heads = 1
    with torch.device("meta"):
        return GraniteForCausalLM(config)


def test_keys_of_fixed_width_get_the_full_rate_from_mup_and_are_named_by_our_check():
    config = RUNS["more heads"]
    base, delta, network = (one_key_head(at_width(config.model, width)) for width in (32, 64, 128))
    mup.set_base_shapes(network, base, delta=delta, do_assert=False, rescale_params=False)
    theirs = by_name(network, mup_adamw(network, config).param_groups)
    rows = table(network, config)
    ours = by_name(network, optimizer_groups(network, rows, config))
    key = "model.layers.0.self_attn.k_proj.weight"
    assert (ours[key]["lr"], theirs[key]["lr"]) == (config.lr / 4, config.lr)
    with pytest.raises(ParametrizationError, match=re.escape(key)):
        check_against_mup(network, mup.make_base_shapes(base, delta), rows, config)


def test_base_and_delta_of_one_width_are_standard_parametrisation_to_mup_without_a_word():
    config = RUNS["more heads"]
    network, model = skeleton(config.model), config.model
    mup.set_base_shapes(network, skeleton(model), delta=skeleton(model), do_assert=False, rescale_params=False)
    assert {group["lr"] for group in by_name(network, mup_adamw(network, config).param_groups).values()} == {config.lr}


def test_mup_s_shapes_are_lost_on_a_copy_and_ours_are_not():
    config = RUNS["more heads"]
    copied = copy.deepcopy(with_base_shapes(blank(config.model), config.model))
    assert not hasattr(copied.lm_head.weight, "infshape")
    with pytest.raises(AssertionError, match="infshape"):
        mup_adamw(copied, config)
    assert table(copied, config) == table(skeleton(config.model), config)


def test_sharded_from_birth_the_table_is_whole_and_mup_sees_nothing(process_group):
    from train.engine import born_sharded

    config = RUNS["more heads"]
    sharded = config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": 3})})
    with born_sharded(sharded, plan(sharded, Hardware(world_size=1))):
        network = blank(config.model)
    assert table(network, config) == table(skeleton(config.model), config)
    with_base_shapes(network, config.model)
    assert network.lm_head.weight.infshape.shape() == [0]


# Base-shape files.


@pytest.fixture
def bcrit_mup(tmp_path, capsys):
    """`bcrit mup` on a run; returns its exit code, what it printed, and its complaint."""

    def run(config: RunConfig, *arguments: object) -> tuple[int, str, str]:
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
        code = main(["mup", str(path), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@by_run
def test_our_file_is_to_mup_what_base_and_delta_are(config, bcrit_mup, tmp_path):
    file = tmp_path / "ours.bsh"
    code, printed, _ = bcrit_mup(config, "--save-base-shapes", file)
    assert code == 0
    assert "for mup.set_base_shapes" in printed
    from_file = mup.set_base_shapes(skeleton(config.model), str(file), do_assert=False, rescale_params=False)
    from_models = with_base_shapes(skeleton(config.model), config.model)
    for (name, ours), theirs in zip(from_file.named_parameters(), from_models.parameters(), strict=True):
        assert ours.infshape == theirs.infshape, name
        role = role_of(name)
        if role in ("hidden", "residual_out", "output"):
            assert ours.infshape.width_mult() == expected(config, role, "fan_in_ratio"), name


@by_run
def test_a_file_of_mup_s_is_accepted(config, bcrit_mup, tmp_path):
    base, delta = (skeleton(at_width(config.model, width)) for width in (32, 96))
    mup.make_base_shapes(base, delta, savefile=str(tmp_path / "theirs.bsh"))
    code, printed, error = bcrit_mup(config, "--base-shapes", tmp_path / "theirs.bsh")
    assert (code, error) == (0, "")
    assert "hidden" in printed


WRONG = {  # base and delta of the file, as changes of the run's model, and what is said of it
    "another depth": ({"depth": 3}, {"depth": 3, "width": 64}, "another model"),
    "another base width": ({"width": 16}, {"width": 64}, "fan-in ratio 4, mup's is 8"),
    "base and delta alike": ({}, {}, "embed_tokens.*mup infers 0"),
    "tied": ({"tied": True}, {"tied": True, "width": 64}, "another model.*lm_head"),
}


@pytest.mark.parametrize(("base", "delta", "complaint"), WRONG.values(), ids=WRONG)
def test_a_file_of_another_model_or_width_is_refused_by_name(base, delta, complaint, bcrit_mup, tmp_path):
    config = RUNS["more heads"]
    file = tmp_path / "theirs.bsh"
    models = (skeleton(config.model.model_copy(update={"width": 32} | changes)) for changes in (base, delta))
    mup.make_base_shapes(*models, savefile=str(file))
    code, printed, error = bcrit_mup(config, "--base-shapes", file)
    assert (code, printed) == (2, "")
    assert error.count("\n") == 1
    assert re.match(f"error: .*{re.escape(str(file))}: .*{complaint}", error), error


def test_a_file_that_is_not_there_or_no_yaml_is_refused_by_name(bcrit_mup, tmp_path):
    (tmp_path / "torn.bsh").write_text("lm_head.weight: [48,")
    for name in ("absent.bsh", "torn.bsh"):
        code, printed, error = bcrit_mup(RUNS["more heads"], "--base-shapes", tmp_path / name)
        assert (code, printed) == (2, "")
        assert f"{tmp_path / name}: cannot be read" in error


# What `bcrit mup` prints.


@by_run
@pytest.mark.parametrize("parametrization", ["mup", "sp"])
def test_the_printed_table_has_every_cell_of_every_parameter(config, parametrization, bcrit_mup):
    model = config.model.model_copy(update={"parametrization": parametrization})
    config = config.model_copy(update={"model": model})
    code, printed, _ = bcrit_mup(config)
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in printed.splitlines()]
    headings, *printed_rows = [line for line in lines if line]
    assert code == 0
    assert headings[3:] == ["fan-in ratio", "init std", "forward x", "lr x", "weight decay x", "eps x"]
    rows = table(skeleton(model), config)
    assert len(printed_rows) == len(rows)
    columns = list(COLUMNS.values())
    for row, (name, shape, role, *cells) in zip(rows, printed_rows, strict=True):
        assert row.name.startswith(name.rstrip("…"))
        assert (shape, role) == (" x ".join(map(str, row.shape)), row.role)
        assert cells == [f"{expected(config, row.role, column):.6g}" for column in columns]


# mup's coordinate check.


WIDTHS = (32, 64, 128)
STEPS = 4
PLAIN = {"embedding_init_std": 1, "embedding_multiplier": 1, "output_init_std": 2**-3, "output_multiplier": 1}
COORDINATE_RUN = {"base_width": 32, "head_dim": 16, "seq_len": 32, "vocab_size": 64, "residual_multiplier": 1} | PLAIN
MORE_HEADS = {width: COORDINATE_RUN for width in WIDTHS}
WIDER_HEADS = {width: COORDINATE_RUN | {"head_dim": width // 2, "base_head_dim": 16} for width in WIDTHS}
TOKENS = torch.randint(64, (4, 33), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": TOKENS, "labels": TOKENS}


def coordinates(shapes: dict[int, dict], optimizer: str = "ours", **changes) -> dict[str, float]:
    """Powers of width with which the activations of each matrix and block have grown, once mup has trained us a little.

    optimizer: "ours", "mup" (MuAdamW), or "no lr x" (ours, as if that column were 1).
    """
    configs = {
        width: RunConfig(model=ModelConfig.model_validate({"width": width, **shape, **changes}), lr=2**-7)
        for width, shape in shapes.items()
    }

    def network_of(config: RunConfig):
        seeds = iter(range(100))  # mup builds each model once a seed
        return lambda: with_base_shapes(build(config.model, next(seeds)), config.model)

    def adamw(network: GraniteForCausalLM) -> AdamW:
        config = configs[network.config.hidden_size]
        rows = table(network, config)
        if optimizer == "no lr x":
            rows = tuple(replace(row, rule=replace(row.rule, lr_multiplier=1.0)) for row in rows)
        return AdamW(optimizer_groups(network, rows, config))

    asked = {
        "nsteps": STEPS,
        "nseeds": 2,
        "dict_in_out": True,
        "cuda": False,
        "show_progress": False,
        "filter_module_by_name": re.compile(r"model\.layers\.\d+(\..*_proj)?").fullmatch,
    }
    networks = {width: network_of(config) for width, config in configs.items()}
    if optimizer == "mup":
        frame = get_coord_data(networks, [BATCH], optimizer="adamw", lr=2**-7, **asked)
    else:
        frame = _get_coord_data(networks, [BATCH], adamw, **asked)
    sizes = frame[frame.t == STEPS].groupby(["module", "width"]).l1.mean().unstack()
    return {name: np.polyfit(np.log2(sizes.columns), np.log2(row), 1)[0] for name, row in sizes.iterrows()}


FLAT = {
    "our groups": (MORE_HEADS, "ours"),
    "mup's optimizer": (MORE_HEADS, "mup"),
    "wider heads": (WIDER_HEADS, "ours"),
}


@pytest.mark.parametrize(("shapes", "optimizer"), FLAT.values(), ids=FLAT)
def test_mup_s_coordinate_check_is_flat(shapes, optimizer):
    powers = coordinates(shapes, optimizer)
    assert len(powers) == 2 * 8
    assert max(map(abs, powers.values())) < 0.2, powers


GROWING = {
    "sp": (MORE_HEADS, {"parametrization": "sp"}),
    "sp, wider heads": (WIDER_HEADS, {"parametrization": "sp"}),
    "without lr x": (MORE_HEADS, {"optimizer": "no lr x"}),
}


@pytest.mark.parametrize(("shapes", "changes"), GROWING.values(), ids=GROWING)
def test_the_coordinates_of_other_parametrisations_grow(shapes, changes):
    powers = coordinates(shapes, **changes)
    assert all(powers[f"model.layers.{i}.mlp.down_proj"] > 0.4 for i in (0, 1)), powers
    assert powers["model.layers.1"] > 0.2, powers
