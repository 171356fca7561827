"""Sharpness probes on real engines: right, the same however a run is sharded, and without a trace in the run."""

import pytest
import torch
from torch.func import functional_call

from configs.errors import ConfigError
from configs.load import load_run
from configs.plan import Hardware, plan
from configs.rundir import read_metrics
from configs.schema import RunConfig
from tests.ranks import pretrain, start_ranks, wait_for_ranks
from tests.train.conftest import RUN, assert_same_tensors, checkpoints_of, science
from train.build import built
from train.engine import optimizer_step, set_lr
from train.model import build, loss_of
from train.sharpness import Probe, probe_sharpness

EVERY = ("log.sharpness.every_tokens=1024", "log.sharpness.seqs=4")
LAYOUTS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 1), ("bf16", 3)]


def sharpness(run_dir):
    return [row for row in read_metrics(run_dir) if row["kind"] == "sharpness"]


@pytest.mark.parametrize(("precision", "stage"), LAYOUTS)
def test_probes_leave_no_trace(run, tmp_path, precision, stage):
    layout = (f"precision={precision}", f"engine.zero_stage={stage}", "checkpoint.every_tokens=1024")
    run(tmp_path / "without", *layout)
    run(tmp_path / "with", *layout, *EVERY)
    rest = [row for row in science(tmp_path / "with") if row["kind"] != "sharpness"]
    assert rest == science(tmp_path / "without")
    for one, other in zip(checkpoints_of(tmp_path / "with"), checkpoints_of(tmp_path / "without"), strict=True):
        assert_same_tensors(one, other)
    rows = sharpness(tmp_path / "with")
    assert [row["tokens"] for row in rows] == [0, 1024, 2048, 3072, 4096]
    assert all(row["residual"] <= 1e-3 and row["products"] > 4 and row["seconds"] > 0 for row in rows)
    assert rows[0]["lr"] == 2**-6 * 128 / 1024  # of the step that follows, in the middle of its tokens
    assert rows[0]["preconditioned"] > rows[-1]["preconditioned"]


def test_sharpness_does_not_depend_on_the_layout(run, tmp_path, data_dir):
    """One rank at stages 0 and 3, and two at stages 2 and 3."""
    found = {}
    for stage in (0, 3):
        run(tmp_path / str(stage), *EVERY, f"engine.zero_stage={stage}")
        found[stage] = sharpness(tmp_path / str(stage))
    (tmp_path / "two.yaml").write_text(RUN)
    for stage in (2, 3):
        out, log = tmp_path / f"two-{stage}", tmp_path / "log"
        arguments = ("--config", tmp_path / "two.yaml", "--run-dir", out, "--data-dir", data_dir)
        ranks = start_ranks(2, pretrain, *arguments, *EVERY, f"engine.zero_stage={stage}", log=log)
        assert wait_for_ranks(ranks) == [0, 0], log.read_text()
        found[f"two-{stage}"] = sharpness(out)
    for rows in found.values():
        assert [row["tokens"] for row in rows] == [row["tokens"] for row in found[0]]
        for row, other in zip(rows, found[0], strict=True):
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
            for name in ("sharpness", "preconditioned"):
                assert row[name] == pytest.approx(other[name], rel=1e-3)


def small(stage):
    return RunConfig.model_validate(
        {
            "model": {"width": 8, "base_width": 4, "depth": 1, "head_dim": 4, "seq_len": 8, "vocab_size": 16},
            "data": {"valid_tokens": 8},
            "optimizer": {"beta2": 0.99, "eps": 1e-4, "clip_norm": 0.5},
            "engine": {"zero_stage": stage},
            "log": {"sharpness": {"every_tokens": 32, "tolerance": 1e-5}},
            "batch_tokens": 32,
            "budget_tokens": 320,
        }
    )


def tokens_of(seed):
    return torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("stage", "steps"), [(0, 3), (2, 0), (2, 3)])
def test_a_run_against_the_dense_matrix(process_group, stage, steps):
    """Plain AdamW beside the engine says what v is; H is dense; the rates of muP's groups are in P."""
    config, batch = small(stage), tokens_of(9)
    beta1, beta2, eps = 0.9, 0.99, 1e-4
    with built(config, plan(config, Hardware(1))) as (engine, rows):
        twin = build(config.model, config.seed)
        v = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
        for step in range(steps):
            twin.load_state_dict(engine.module.state_dict())
            loss_of(twin, tokens_of(step)).backward()
            norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            assert norm > 0.5
            for name, p in twin.named_parameters():
                assert p.grad is not None
                v[name] = beta2 * v[name] + (1 - beta2) * p.grad**2
            twin.zero_grad()
            set_lr(engine, 2**-6)
            optimizer_step(engine, [loss_of(engine, tokens_of(step))], 0.5)
        row = probe_sharpness(Probe(batch), engine, rows, config, 0)
        weights = {name: p.detach().clone() for name, p in engine.module.named_parameters()}
        multiplier = {r.name: (r.rule.lr_multiplier, r.rule.eps_multiplier) for r in rows}
    twin.set_attn_implementation("eager")
    sizes = [w.numel() for w in weights.values()]

    def loss(vector):
        parts = zip(weights.items(), vector.split(sizes), strict=True)
        named = {name: part.view_as(w) for (name, w), part in parts}
        return loss_of(lambda **inputs: functional_call(twin, named, kwargs=inputs), batch)

    point = torch.cat([w.flatten() for w in weights.values()]).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(point), point, create_graph=True)
    eye = torch.eye(len(point))
    (dense,) = (part.double() for part in torch.autograd.grad(gradient, point, eye, is_grads_batched=True))
    g = gradient.detach() * min(1.0, 0.5 / gradient.norm().item())
    p = []
    for (name, w), part in zip(weights.items(), g.split(sizes), strict=True):
        root = ((beta2 * v[name].flatten() + (1 - beta2) * part**2) / (1 - beta2 ** (steps + 1))).sqrt()
        by_lr, by_eps = multiplier[name]
        p.append((1 - beta1 ** (steps + 1)) * (root + eps * by_eps) / by_lr)
        assert w.numel() == len(part)
    scale = torch.cat(p).double().rsqrt()
    dense = (dense + dense.T) / 2
    assert len({lr for lr, _ in multiplier.values()}) > 1
    assert row["sharpness"] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-4)
    scaled = torch.linalg.eigvalsh(scale[:, None] * dense * scale)[-1].item()
    assert row["preconditioned"] == pytest.approx(scaled, rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("log.sharpness.seqs=3", "log.sharpness.seqs = 3 is not a multiple of world_size = 2: use 2 or 4"),
        ("log.sharpness.seqs=256", "log.sharpness.seqs = 256 are 8192 tokens, .*: use at most 128"),
        ("log.sharpness.every_tokens=100", "log.sharpness.every_tokens = 100 is not a multiple of batch_tokens = 256"),
        ("engine.liger=true", "use engine.liger false"),
    ],
)
def test_probes_that_cannot_be_taken_are_refused(tmp_path, override, message):
    (tmp_path / "run.yaml").write_text(RUN)
    config = load_run(tmp_path / "run.yaml", [*EVERY, override])
    with pytest.raises(ConfigError, match=message):
        plan(config, Hardware(world_size=2))
