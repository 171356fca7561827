"""Every optimizer against torch's where it has one, by hand where it has not, and through DeepSpeed's stages."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from configs.errors import ConfigError
from configs.optimizers import TRAITS
from configs.rundir import read_config
from configs.schema import OptimizerConfig
from launch.cli import main
from tests.train.conftest import assert_same_tensors, checkpoints_of, science
from train.optimizers import make_optimizer

KINDS = tuple(TRAITS)
LR, EPS = 0.01, 1e-3
OPTIM = torch.optim


def stepped(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int = 6) -> list[torch.Tensor]:
    """A matrix and a vector after steps on the same gradients."""
    random = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((5, 3), (4,))]
    optimizer = make(parameters)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=random)
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def ours(kind: str, decay: float = 0.0, **fields: float) -> Callable:
    config = OptimizerConfig.model_validate({"kind": kind, "eps": EPS, **fields})
    return lambda parameters: make_optimizer(
        [{"params": parameters, "lr": LR, "weight_decay": decay, "eps": EPS}], config
    )


class Unscaled(torch.optim.Adafactor):
    """torch's Adafactor with what it multiplies the rate of each tensor by taken out again."""

    def step(self, closure=None):
        for group in self.param_groups:
            (parameter,) = group["params"]
            group["lr"] = LR / float(parameter.detach().norm() / parameter.numel() ** 0.5)
        super().step(closure)


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("adamw", lambda p: OPTIM.AdamW(p, LR, betas=(0.8, 0.9), eps=EPS, weight_decay=0.0)),
        ("rmsprop", lambda p: OPTIM.RMSprop(p, LR, alpha=0.9, eps=EPS)),
        ("adagrad", lambda p: OPTIM.Adagrad(p, LR, eps=EPS)),
        ("sgd", lambda p: OPTIM.SGD(p, LR, momentum=0.8)),
        ("adafactor", lambda p: Unscaled([{"params": [q]} for q in p], beta2_decay=-0.8)),
    ],
)
def test_the_same_numbers_as_torchs(kind, theirs):
    for mine, other in zip(stepped(ours(kind, beta1=0.8, beta2=0.9)), stepped(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def trace(kind: str, gradients: list[float], **fields: float) -> list[float]:
    """A number that starts at 0, after each step."""
    parameter, values = nn.Parameter(torch.zeros(1)), []
    optimizer = ours(kind, **fields)([parameter])
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        values.append(parameter.item())
    return values


def test_five_steps_of_the_lagged_variants_by_hand():
    gradients, beta1, beta2 = [1.0, -2.0, 0.5, 3.0, -1.0], 0.5, 0.75
    # v after each step: 0.25, 1.1875, 0.953125, 2.96484375, ...; m: 0.5, -0.75, -0.125, 1.4375, 0.21875
    before = [0.25, 1.1875, 0.953125, 2.96484375]
    first = [-0.75, -0.125, 1.4375, 0.21875]
    rms, adam = [0.0], [0.0]
    for k, (v, m, g) in enumerate(zip(before, first, gradients[1:], strict=True), start=1):
        rms.append(rms[-1] - LR * g / (v**0.5 + EPS))
        adam.append(adam[-1] - LR * m / (1 - beta1 ** (k + 1)) / ((v / (1 - beta2**k)) ** 0.5 + EPS))
    assert trace("rmsprop_lagged", gradients, beta2=beta2) == pytest.approx(rms, rel=1e-5)
    assert trace("adam_lagged", gradients, beta1=beta1, beta2=beta2) == pytest.approx(adam, rel=1e-5)
    assert trace("adamw", gradients, beta1=beta1, beta2=beta2) != pytest.approx(adam, rel=0.1)


def test_signs_by_hand():
    gradients = [1.0, -4.0, 1.0, 2.0]
    # sign: m = 0.5, -1.75, -0.375, 0.8125
    assert trace("sign", gradients, beta1=0.5) == pytest.approx([-LR, 0, LR, 0], abs=1e-8)
    assert trace("sign", gradients, beta1=0.0) == pytest.approx([-LR, 0, -LR, -2 * LR], abs=1e-8)
    # lion: m = 0.25, -0.8125, -0.359; directions 1 > 0, 0.125 - 2 < 0, -0.406 + 0.5 > 0, -0.18 + 1 > 0
    assert trace("lion", gradients, beta1=0.5, beta2=0.75) == pytest.approx([-LR, 0, -LR, -2 * LR], abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_is_decoupled(kind):
    """Without a gradient a step is decay alone; a lagged one does not step at first."""
    parameter = nn.Parameter(torch.ones(3, 2))
    optimizer = ours(kind, decay=0.5)([parameter])
    for _ in range(3):
        parameter.grad = torch.zeros(3, 2)
        optimizer.step()
    steps = 2 if kind.endswith("lagged") else 3
    torch.testing.assert_close(parameter.detach(), torch.full((3, 2), (1 - LR * 0.5) ** steps))


ROTATED = [
    ("rmsprop", 1),
    ("rmsprop_lagged", 2),
    ("sign", 3),
    ("lion", 1),
    ("adagrad", 3),
    ("sgd", 2),
    ("adafactor", 0),
]
STAGED = [*(("adam_lagged", stage) for stage in (0, 1, 2, 3)), *ROTATED]  # how they use their state is the same


@pytest.mark.parametrize(("kind", "stage"), STAGED)
def test_a_run_cut_in_two_is_the_same_run_at_every_stage(run, tmp_path, kind, stage):
    how = (f"optimizer.kind={kind}", f"engine.zero_stage={stage}", "budget_tokens=1536", "optimizer.weight_decay=0.1")
    how += ("lr=2^-9",)
    assert run(tmp_path / "whole", *how).state == "finished"
    assert run(tmp_path / "cut", *how, stop_after=3).state == "preempted"
    assert run(tmp_path / "cut", *how).state == "finished"
    assert science(tmp_path / "cut") == science(tmp_path / "whole")
    assert_same_tensors(checkpoints_of(tmp_path / "cut")[-1], checkpoints_of(tmp_path / "whole")[-1])


@pytest.mark.parametrize("kind", ["adam_lagged", "adagrad"])
def test_all_stages_step_alike(trained, tmp_path, kind):
    how = (f"optimizer.kind={kind}", "budget_tokens=1024", "optimizer.weight_decay=0.1", "lr=2^-9")
    plain, *sharded = (
        trained(tmp_path / str(stage), *how, f"engine.zero_stage={stage}").master_weights for stage in (0, 1, 2, 3)
    )
    for weights in sharded:
        for name, weight in plain.items():
            assert (weights[name] - weight).abs().sum() <= 1e-5 * weight.abs().sum(), name


def test_bf16_steps_all_but_adafactor(run, tmp_path):
    for kind in ("lion", "sgd"):
        fp32 = run(tmp_path / f"{kind}32", f"optimizer.kind={kind}", "budget_tokens=1024", "lr=2^-9")
        for stage in (1, 3):
            how = (f"optimizer.kind={kind}", "precision=bf16", f"engine.zero_stage={stage}", "budget_tokens=1024")
            how += ("lr=2^-9",)
            assert run(tmp_path / f"{kind}{stage}", *how).readouts[-1].loss == pytest.approx(
                fp32.readouts[-1].loss, rel=1e-2
            )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (("optimizer.kind=adafactor",), "adafactor with engine.zero_stage = 1: ZeRO flattens matrices"),
        (("optimizer.kind=lion", "optimizer.eps=1e-6"), "optimizer.eps = 1e-06: optimizer.kind = lion has no eps"),
        (("optimizer.kind=rmsprop", "optimizer.beta1=0.5"), "optimizer.kind = rmsprop has no beta1"),
    ],
)
def test_what_would_have_no_effect_or_cannot_be_is_refused(run, tmp_path, fields, says):
    with pytest.raises(ConfigError, match=says):
        run(tmp_path / "run", *fields)


def test_other_moments_are_not_made_universal(run, tmp_path, capsys):
    run(tmp_path / "run", "optimizer.kind=lion", stop_after=2)
    assert read_config(tmp_path / "run").optimizer.kind == "lion"
    assert main(["universal", str(tmp_path / "run")]) == 2
    assert "optimizer.kind = lion: universal checkpoints hold Adam's two moments only" in capsys.readouterr().err
