"""The critical learning rate of quadratics, and of a real run whose engine must not notice the search."""

from math import inf, nan, sqrt

import pytest
import torch

from configs.plan import Hardware, plan
from configs.schema import RunConfig
from tests.ranks import start_ranks, wait_for_ranks
from tests.train.universal_ranks import BATCH_SEQS, SEQ_LEN, config_of, go_on, held
from train.build import built
from train.critical_lr import critical_lr
from train.engine import optimizer_step, set_lr, start_distributed, stop_distributed
from train.evaluate import look_ahead
from train.model import loss_of
from train.trial import trial_steps


@pytest.mark.parametrize("delta", [0.1, 0.01])
@pytest.mark.parametrize("sharpness", [0.05, 1.0, 50.0, 500.0])
def test_gradient_descent_on_a_parabola(sharpness, delta):
    found = critical_lr(lambda lr: 3 * (1 - lr * sharpness) ** 2, 3.0, 1e-4, 1e4, delta)
    assert found.outcome == "found"
    assert 2 / sharpness <= found.high <= (1 + sqrt(1 + delta)) / sharpness
    assert found.low < 2 / sharpness
    assert found.passes == 1 + len(found.trials)
    if delta == 0.1 and sharpness in (500.0, 0.05):
        assert found.passes == {500.0: 10, 0.05: 25}[sharpness]  # as counted for the paper's start of 1e-4


def test_a_loss_that_rises_at_once():
    found = critical_lr(lambda lr: (1 - lr * 1e5) ** 2, 1.0, 1e-4, 1.0)
    assert (found.outcome, found.low, found.high, found.passes) == ("below_start", 0.0, 1e-4, 2)


def test_a_loss_that_never_rises_up_to_the_target():
    found = critical_lr(lambda lr: 1 - lr, 1.0, 0.1, 0.3)
    assert (found.outcome, found.low, found.high) == ("above_target", 0.3, 0.3)
    assert [lr for lr, _ in found.trials] == [0.1, 0.2, 0.3]


def test_no_trial_is_above_the_target():
    found = critical_lr(lambda lr: (1 - lr * 8) ** 2, 1.0, 0.05, 0.3)
    assert found.outcome == "found"
    assert max(lr for lr, _ in found.trials) == 0.3
    assert critical_lr(lambda lr: 2.0, 1.0, 0.5, 0.3).high == 0.3


@pytest.mark.parametrize("beyond", [nan, inf])
def test_a_cliff_is_bracketed(beyond):
    found = critical_lr(lambda lr: 0.5 if lr < 0.3 else beyond, 1.0, 1e-3, 1.0)
    assert found.low < 0.3 <= found.high < 0.3 * 1.002


def batch_of(seed: int) -> torch.Tensor:
    return torch.randint(16, (BATCH_SEQS, SEQ_LEN + 1), generator=torch.Generator().manual_seed(seed)) ** 2


def configured(kind: str, stage: int, second_moment: str = "zero") -> RunConfig:
    config = config_of("fp32", stage)
    optimizer = {"kind": kind, "second_moment": second_moment, "weight_decay": 0.1, "clip_norm": 0.7}
    return config.model_copy(update={"optimizer": type(config.optimizer).model_validate(optimizer)})


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize(
    ("kind", "stage"), [("adamw", 0), ("adamw", 1), ("adamw", 2), ("adamw", 3), ("sgd", 2), ("lion", 3), ("rmsprop", 0)]
)
def test_a_trial_is_the_step_that_the_engine_would_take(process_group, kind, stage, steps):
    """And leaves all that the engine holds as it was, bit for bit."""
    config, batch, lr = configured(kind, stage), batch_of(11), 2**-6
    with built(config, plan(config, Hardware(1))) as (engine, _):
        go_on(engine, config, 0, steps)
        before = state_of(engine)
        micro = batch.split(4)
        loss_after, loss = trial_steps(engine, config, micro)
        found = [loss_after(lr) for _ in range(2)]
        loss_after(100 * lr)
        found.append(loss_after(lr))
        assert len(set(found)) == 1
        after = state_of(engine)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert loss == pytest.approx(look_ahead(engine.module, micro), rel=1e-6)
        set_lr(engine, lr)
        optimizer_step(engine, (loss_of(engine, part) for part in micro), config.optimizer.clip_norm)
        assert found[0] == pytest.approx(look_ahead(engine.module, micro), rel=2e-6)
        assert abs(found[0] / loss - 1) > 1e-3


def state_of(engine) -> dict[str, torch.Tensor]:
    """Every tensor of this rank that a step changes."""
    optimizer = engine.basic_optimizer
    tensors = {name: getattr(p, "ds_tensor", p).detach().clone() for name, p in engine.module.named_parameters()}
    for i, state in enumerate(optimizer.state.values()):
        tensors |= {f"{i}/{key}": value.clone() for key, value in state.items()}
    groups = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    groups = groups or [p for group in optimizer.param_groups for p in group["params"]]
    return tensors | {f"flat/{i}": p.detach().clone() for i, p in enumerate(groups)}


def search(out) -> int:
    """One of several ranks: the critical rate after two steps at ZeRO-2, and that the run went on as without."""
    start_distributed()
    config, found = config_of("fp32", 2), []
    world = torch.distributed.get_world_size()
    for searching in (True, False):
        with built(config, plan(config, Hardware(world))) as (engine, _):
            go_on(engine, config, 0, 2)
            if searching:
                mine = batch_of(11).chunk(world)[torch.distributed.get_rank()]
                found.append(critical_lr(*trial_steps(engine, config, [mine]), 1e-4, 10.0))
            go_on(engine, config, 2, 4)
            found.append(held(engine))
    if torch.distributed.get_rank() == 0:
        torch.save(found, out)
    stop_distributed()
    return 0


def test_two_ranks_find_what_one_finds(process_group, tmp_path):
    assert wait_for_ranks(start_ranks(2, search, tmp_path / "two.pt", log=tmp_path / "log")) == [0, 0]
    two, searched, plain = torch.load(tmp_path / "two.pt", weights_only=False)
    assert all(torch.equal(searched[key], plain[key]) for key in plain)
    config = config_of("fp32", 0)
    with built(config, plan(config, Hardware(1))) as (engine, _):
        go_on(engine, config, 0, 2)
        one = critical_lr(*trial_steps(engine, config, [batch_of(11)]), 1e-4, 10.0)
    assert (one.outcome, two.outcome) == ("found", "found")
    assert (two.low, two.high) == pytest.approx((one.low, one.high), rel=1e-2)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
