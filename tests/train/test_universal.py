"""A run goes on with another number of ranks or ZeRO stage as if nothing had happened: within the noise of fp32."""

import errno
import os
import shutil
from itertools import combinations, product
from types import SimpleNamespace

import pytest
import torch

from configs.errors import ConfigError
from tests.ranks import start_ranks, wait_for_ranks
from tests.train.universal_ranks import CUT, STEPS, config_of, fresh, go_on, leg, run_legs
from train import state, universal

STAGES = (0, 1, 2, 3)
ALONE = [("fp32", stage) for stage in STAGES] + [("bf16", stage) for stage in (1, 2, 3)]
PAIR_WHOLE = ["fp32-z0", "fp32-z1", "fp32-z3", "bf16-z1"]
PAIR_LEGS = ["w1-fp32-z0>fp32-z3", "w1-fp32-z3>fp32-z1", "w1-fp32-z3>fp32-z3", "w1-bf16-z3>bf16-z1"]
THREE_LEGS = ["w2-fp32-z3>fp32-z3", "w2-fp32-z1>fp32-z2", "w2-bf16-z1>bf16-z3"]
# Relative differences allowed in loss, gradient norm, and any weight or moment (by norm). The largest seen between
# layouts of a run that nothing interrupts: fp32 9.2e-8, 8.7e-8, 3.6e-7; bf16 3.5e-5, 5.3e-4, 6.7e-3; after a change of
# layout: fp32 1.8e-7, 1.7e-7, 2.7e-7; bf16 2.6e-5, 3.6e-4, 5.7e-3.
TOLERANCE = {"fp32": (5e-7, 5e-7, 2e-6), "bf16": (2e-4, 2e-3, 2e-2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory whose name means something to shells, globs and regular expressions."""
    path = tmp_path_factory.mktemp("universal") / "c++ [1] (a)"
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def alone(root, process_group):
    """The whole runs at every stage, at one rank, with their checkpoints halfway converted."""
    runs = {f"w1-{precision}-z{stage}": leg(root, f"{precision}-z{stage}") for precision, stage in ALONE}
    for name in runs:
        universal.convert(root / name)
    return runs


def run_in_ranks(root, count, legs):
    """The results of legs that so many ranks have run; their checkpoints halfway are converted."""
    log = root / f"log-{count}"
    assert wait_for_ranks(start_ranks(count, run_legs, root, *legs, log=log)) == [0] * count, log.read_text()
    for name in legs:
        if ">" not in name:
            universal.convert(root / f"w{count}-{name}")
    return {f"w{count}-{name}": torch.load(root / f"w{count}-{name}.pt") for name in legs}


@pytest.fixture(scope="module")
def pair(root, alone):
    """Two ranks: the whole runs, and legs that go on from one rank's checkpoints."""
    return run_in_ranks(root, 2, PAIR_WHOLE + PAIR_LEGS)


@pytest.fixture(scope="module")
def three(root, pair):
    """Three ranks, which divide none of the model's sizes, going on from two ranks' checkpoints."""
    return run_in_ranks(root, 3, THREE_LEGS)


def differences(run, whole):
    """Largest relative difference of losses, gradient norms, and final tensors, each by its norm."""
    assert run["end"].keys() == whole["end"].keys()
    assert run["end"]["step"] == whole["end"]["step"] == STEPS
    rows = list(zip(run["seen"], whole["seen"], strict=True))
    loss, norm = (max(abs(a[i] / b[i] - 1) for a, b in rows) for i in (0, 1))
    tensors = max(((run["end"][name] - b).norm() / b.norm()).item() for name, b in whole["end"].items())
    return loss, norm, tensors


def check(name, run, whole):
    """`run` went on from the middle of `whole` in another layout: nothing else has changed."""
    assert all(torch.equal(run["cut"][key], whole["cut"][key]) for key in whole["cut"])
    assert run["groups"] == whole["groups"]
    found = differences(run, whole)
    print(f"{name}: loss {found[0]:.1e}, norm {found[1]:.1e}, tensors {found[2]:.1e}")
    assert all(a <= b for a, b in zip(found, TOLERANCE[name[3:7]], strict=True)), (name, found)


@pytest.mark.parametrize(("source", "target"), list(product(STAGES, STAGES)))
def test_every_stage_goes_on_from_every_stage(source, target, alone, root):
    name = f"w1-fp32-z{source}"
    check(f"{name}>z{target}", leg(root, f"{name}>fp32-z{target}"), alone[name])


@pytest.mark.parametrize(("source", "target"), [(1, 2), (1, 3), (2, 1), (3, 1)])
def test_stages_change_in_bf16(source, target, alone, root):
    name = f"w1-bf16-z{source}"
    check(f"{name}>z{target}", leg(root, f"{name}>bf16-z{target}"), alone[name])


def test_one_rank_becomes_two(alone, pair):
    for name in PAIR_LEGS:
        assert pair[f"w2-{name}"]["accumulation"] == 2
        check(name, pair[f"w2-{name}"], alone[name.partition(">")[0]])


def test_two_ranks_become_three(pair, three):
    for name in THREE_LEGS:
        assert three[f"w3-{name}"]["accumulation"] == 1
        check(name, three[f"w3-{name}"], pair[name.partition(">")[0]])


@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 3), (3, 0), (3, 3)])
def test_two_ranks_become_one(source, target, pair, root):
    name = f"w2-fp32-z{source}"
    run = leg(root, f"{name}>fp32-z{target}")
    assert run["accumulation"] == 3
    check(f"{name}>z{target}", run, pair[name])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layouts_of_an_uninterrupted_run_differ_by_as_much(precision, alone, pair):
    whole = {name: run for name, run in (alone | pair).items() if precision in name and ">" not in name}
    found = [differences(whole[a], whole[b]) for a, b in combinations(whole, 2)]
    worst = [max(column) for column in zip(*found, strict=True)]
    print(f"{precision}: loss {worst[0]:.1e}, norm {worst[1]:.1e}, tensors {worst[2]:.1e}")
    assert len(found) >= 6
    assert all(a <= b for a, b in zip(worst, TOLERANCE[precision], strict=True))


def test_a_wrong_step_of_adam_would_be_seen(alone, root):
    config = config_of("fp32", 3)
    with fresh(config, seed=1) as engine:
        universal.load(engine, root / "w1-fp32-z3")
        for state in engine.basic_optimizer.state.values():
            state["step"] -= 1
        seen = go_on(engine, config, CUT, STEPS)
    errors = [abs(a[0] / b[0] - 1) for a, b in zip(seen, alone["w1-fp32-z3"]["seen"], strict=True)]
    assert max(errors) > 100 * TOLERANCE["fp32"][0]


@pytest.fixture
def engine(request, process_group):
    """An fp32 engine of a given stage that has not stepped."""
    with fresh(config_of("fp32", request.param), seed=1) as engine:
        yield engine


@pytest.mark.parametrize(
    ("engine", "accessor", "named"),
    [
        (1, "safe_set_full_fp32_param", "embed_tokens.weight"),
        (2, "safe_set_full_optimizer_state", "exp_avg of"),
        (3, "safe_set_local_fp32_param", "fp32 of"),
        (3, "safe_set_local_optimizer_state", "exp_avg of"),
    ],
    indirect=["engine"],
)
def test_what_deepspeed_does_not_restore_is_noticed(engine, accessor, named, alone, root, monkeypatch):
    monkeypatch.setattr(state, accessor, lambda *_: None)
    with pytest.raises(RuntimeError, match=f"not restored, the first is .*{named}"):
        universal.load(engine, root / "w1-fp32-z3")


@pytest.mark.parametrize("engine", [2], indirect=True)
def test_weights_of_the_forward_pass_and_the_step_are_checked_too(engine, alone, root, monkeypatch):
    start = universal.start_optimizer
    monkeypatch.setattr(universal, "start_optimizer", lambda engine, step: start(engine, step - 1))
    monkeypatch.setattr(engine.optimizer, "update_lp_params", lambda: None)
    with pytest.raises(RuntimeError, match="24 tensors were not restored, the first is step of"):
        universal.load(engine, root / "w1-fp32-z2")


@pytest.mark.parametrize("engine", [1], indirect=True)
def test_an_engine_that_has_stepped_is_refused(engine, alone, root):
    go_on(engine, config_of("fp32", 1), 0, 1)
    with pytest.raises(RuntimeError, match="stepped already"):
        universal.load(engine, root / "w1-fp32-z1")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def copy(alone, root, tmp_path):
    """A converted checkpoint to spoil."""
    return shutil.copytree(root / "w1-fp32-z1", tmp_path / "checkpoint")


@pytest.mark.parametrize("engine", [1], indirect=True)
@pytest.mark.parametrize(
    ("harm", "name"), [(flip, "exp_avg.pt"), (flip, "step.pt"), (os.unlink, "fp32.pt"), (os.unlink, "manifest.json")]
)
def test_damage_is_found_before_anything_is_loaded(engine, copy, harm, name):
    harm(max((copy / "universal").rglob(name)))
    before = held_weights(engine)
    with pytest.raises(ConfigError, match="run `bcrit universal` again"):
        universal.load(engine, copy)
    assert all(torch.equal(a, b) for a, b in zip(before, held_weights(engine), strict=True))


def held_weights(engine):
    return [parameter.detach().clone() for parameter in engine.module.parameters()]


def test_a_checkpoint_of_another_model_is_refused(alone, root):
    for change, text in (({"depth": 2}, "differs in model.layers.1"), ({"width": 64}, "another model's")):
        config = config_of("fp32", 1)
        other = config.model_copy(update={"model": config.model.model_copy(update=change)})
        with fresh(other, seed=1) as engine, pytest.raises(ConfigError, match=text):
            universal.load(engine, root / "w1-fp32-z1")


def test_a_conversion_that_fails_leaves_everything_as_it_was(copy, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            universal.convert(copy)
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
        with pytest.raises(ConfigError, match="GB free"):
            universal.convert(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert not (copy / "universal.partial").exists()


def test_a_conversion_can_be_repeated_and_says_nothing(copy, capfd):
    shutil.rmtree(copy / "universal" / "lm_head.weight")
    (copy / "universal.partial").mkdir()  # as a kill leaves it
    universal.convert(copy)
    assert (copy / "universal" / "lm_head.weight" / "step.pt").exists()
    assert not (copy / "universal.partial").exists()
    assert capfd.readouterr() == ("", "")
