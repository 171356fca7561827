"""What DeepSpeed does wrongly or leaves to a default, shown to be wrong, and that bcrit keeps clear of it.

A test that fails because DeepSpeed has been mended is good news: lift the refusal or drop the workaround it names.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.checkpoint.ds_to_universal import main as to_universal
from deepspeed.utils import safe_get_full_optimizer_state
from pydantic import ValidationError
from torch import nn
from transformers import GraniteForCausalLM

from configs.errors import ConfigError
from configs.plan import Hardware, plan
from configs.schema import RunConfig
from tests.parity.cells import Cell, Precision, config_of, layout
from tests.parity.engines import link_moments
from train.build import built
from train.engine import deepspeed_config
from train.model import build, granite_config

pytestmark = pytest.mark.usefixtures("process_group")
BF16 = {"bf16": {"enabled": True}}


@pytest.fixture
def start():
    """A function that makes an engine; all are freed after the test."""
    engines = []

    def make(optimizer: torch.optim.Optimizer, network: nn.Module, config: dict[str, Any]) -> Any:
        quiet = {"train_micro_batch_size_per_gpu": 1, "steps_per_print": 2**62}
        engine, *_ = deepspeed.initialize(
            model=network, optimizer=optimizer, config=quiet | config, dist_init_required=False
        )
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.destroy()


def ours(precision: Precision = "fp32", zero_stage: int = 1, micro_batch_seqs: int = 32, **optimizer: float) -> dict:
    config = config_of(precision, zero_stage, micro_batch_seqs)
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update=optimizer)})
    return deepspeed_config(config, plan(config, Hardware(world_size=1)))


def stage(number: int) -> dict:
    return {"zero_optimization": {"stage": number, "overlap_comm": False}}


def two_groups() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    groups = [{"params": list(layer.parameters()), "lr": lr} for layer, lr in zip(network, (1e-3, 5e-4), strict=True)]
    return network, torch.optim.AdamW(groups)


def take_step(engine: Any) -> None:
    engine.backward(engine(torch.ones(1, 4)).sum())
    engine.step()


# ZeRO-0 in half precision takes an optimizer step while it is set up.


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_zero_0_in_half_precision_steps_before_training(half, start, monkeypatch):
    monkeypatch.setattr(type(get_accelerator()), "is_fp16_supported", lambda self: True)  # DeepSpeed doubts it on CPUs
    network = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    before = network.weight.detach().clone()
    start(optimizer, network, {half: {"enabled": True}})
    master = optimizer.param_groups[0]["params"][0]
    assert optimizer.state[master]["step"] == 1
    assert (master.norm() / before.norm()).item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-3)


def test_the_same_at_zero_1_does_not(start):
    network = nn.Linear(4, 4)
    start(optimizer := torch.optim.AdamW(network.parameters()), network, ours("bf16"))
    assert not any(optimizer.state.values())


def test_we_refuse_zero_0_in_half_precision():
    with pytest.raises(ConfigError, match=r"engine\.zero_stage = 0 with precision = bf16"):
        plan(config_of("bf16", zero_stage=0), Hardware(world_size=1))
    with pytest.raises(ValidationError):
        RunConfig.model_validate({"precision": "fp16"})


# Gradients are clipped at 1.0 unless something else is said.


def moved_by_gradient_of_ten(start: Any, config: dict) -> float:
    """How far SGD at learning rate 1 moves the weight of a loss whose gradient is 10."""
    network = nn.Linear(1, 1, bias=False)
    before = network.weight.item()
    engine = start(torch.optim.SGD(network.parameters(), lr=1.0), network, config)
    engine.backward(engine(torch.tensor([[10.0]])).sum())
    engine.step()
    return before - network.weight.item()


def test_gradients_are_clipped_by_default(start):
    assert moved_by_gradient_of_ten(start, {}) == pytest.approx(1.0, rel=1e-5)


def test_we_clip_as_asked(start):
    assert moved_by_gradient_of_ten(start, ours(zero_stage=0, clip_norm=0.0)) == pytest.approx(10.0, rel=1e-5)
    assert [ours(clip_norm=norm)["gradient_clipping"] for norm in (0.0, 0.7)] == [0.0, 0.7]


# Schedules of DeepSpeed with a single maximum give every group the same learning rate.


def test_a_scalar_warmup_destroys_the_ratio_of_groups(start):
    network, optimizer = two_groups()
    params = {"warmup_min_lr": 0.0, "warmup_max_lr": 1e-3, "warmup_num_steps": 2, "warmup_type": "linear"}
    engine = start(optimizer, network, stage(1) | {"scheduler": {"type": "WarmupLR", "params": params}})
    for _ in range(4):
        take_step(engine)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-3]


def test_we_use_no_schedule_of_deepspeed(start):
    assert "scheduler" not in ours()
    network, optimizer = two_groups()
    engine = start(optimizer, network, ours())
    assert engine.lr_scheduler is None
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 5e-4]


# In bf16, gradients are summed in bf16, and summed or not they are rounded to bf16 on their way between ranks.


def norm_of_sum(start: Any, config: dict) -> float:
    """Norm of the sum of 16 gradients, the first 1, the others 2^-9 each, as the engine has it."""
    network = nn.Linear(1, 1, bias=False)
    engine = start(torch.optim.AdamW(network.parameters()), network, config)
    for gradient in [1.0] + 15 * [2**-9]:
        engine.backward(engine(torch.tensor([[gradient]], dtype=torch.bfloat16)).sum())
        engine.step()
    return 16 * float(engine.get_global_grad_norm())


ACCUMULATE = {"gradient_accumulation_steps": 16, "gradient_clipping": 0.0}
IN_FP32 = {"data_types": {"grad_accum_dtype": "fp32"}}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_bf16_gradients_are_summed_in_bf16_by_default(number, start):
    assert norm_of_sum(start, BF16 | ACCUMULATE | stage(number)) == 1.0


def test_bf16_gradients_summed_in_fp32_are_rounded_by_default(start):
    assert norm_of_sum(start, BF16 | ACCUMULATE | IN_FP32 | stage(1)) == 1 + 2**-5


@pytest.mark.parametrize("number", [1, 2, 3])
def test_we_sum_bf16_gradients_in_fp32(number, start):
    assert norm_of_sum(start, ours("bf16", number, micro_batch_seqs=2, clip_norm=0.0)) == 1 + 15 * 2**-9


# Loading a universal checkpoint at ZeRO-3 gives all groups the first one's learning rate and decay, and one step count
# that all of them advance.


def after_universal(start: Any, number: int, tmp_path: Path) -> tuple[list[float], list[float]]:
    """Learning rates, and Adam's step counts one step later, where the universal checkpoint of step 3 was loaded."""
    network, optimizer = two_groups()
    engine = start(optimizer, network, stage(number))
    for _ in range(3):
        take_step(engine)
    engine.save_checkpoint(str(tmp_path), tag="own", save_latest=False)
    folders = {"input_folder": str(tmp_path / "own"), "output_folder": str(tmp_path / "universal")}
    workers = {"num_extract_workers": 1, "num_merge_workers": 1}
    to_universal(Namespace(**folders, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True))
    network, optimizer = two_groups()
    engine = start(optimizer, network, stage(number) | {"checkpoint": {"load_universal": True}})
    engine.load_checkpoint(str(tmp_path), tag="universal")
    rates = [group["lr"] for group in optimizer.param_groups]
    take_step(engine)
    return rates, [float(state["step"]) for state in optimizer.state.values() if state]


def test_a_universal_checkpoint_at_zero_3_mixes_up_the_groups(start, tmp_path):
    assert after_universal(start, 3, tmp_path) == ([1e-3, 1e-3], [5, 5])


@pytest.mark.parametrize("number", [1, 2])
def test_one_of_lower_stages_does_not(number, start, tmp_path):
    assert after_universal(start, number, tmp_path) == ([1e-3, 5e-4], [4, 4])


def test_we_load_no_universal_checkpoint_at_zero_3():
    assert "checkpoint" not in ours(zero_stage=3)


# zero.Init makes every tensor in the compute precision, also the frequencies of the rotary positions.


def test_zero_init_rounds_the_rotary_frequencies():
    with deepspeed.zero.Init(config_dict_or_path=ours("bf16", 3)):
        network = GraniteForCausalLM(granite_config(config_of("bf16").model))
    assert {buffer.dtype for buffer in network.buffers()} == {torch.bfloat16}


def test_we_keep_the_rotary_frequencies_in_fp32():
    config, planned = layout(Cell("bf16", 3, 1, 1))
    expected = dict(build(config.model, config.seed).named_buffers())
    with built(config, planned) as (engine, _):
        found = dict(engine.module.named_buffers())
        assert found.keys() == expected.keys() != set()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


# After the first step, ZeRO-1 and 2 know the moments of the first optimizer group only.


@pytest.mark.parametrize("number", [1, 2])
def test_moments_of_later_groups_cannot_be_read(number, start):
    network, optimizer = two_groups()
    engine = start(optimizer, network, stage(number))
    take_step(engine)
    first, second = network[0].weight, network[1].weight
    assert safe_get_full_optimizer_state(first, "exp_avg").any()
    with pytest.raises(ValueError, match="exp_avg not found"):
        safe_get_full_optimizer_state(second, "exp_avg")
    link_moments(engine)
    assert safe_get_full_optimizer_state(second, "exp_avg").any()
