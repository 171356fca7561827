"""The memory that is planned is the memory that is there: counted in DeepSpeed's engines and in autograd's graph."""

import gc
import re
import weakref

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from configs.devices import GIB
from configs.errors import ConfigError
from configs.memory import bucket_elements, memory, memory_text
from configs.plan import Hardware, Plan, n_params, plan
from configs.schema import ModelConfig, RunConfig
from train.build import built
from train.model import build, loss_of
from train.sharpness import Probe, probe_sharpness
from train.trial import trial_steps

PLAIN = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]
ABLATED = [(*engine, "qk_norm", "tied") for engine in ((0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "fp32"))]
LARGE = ModelConfig(width=2048, depth=20, head_dim=128, base_head_dim=16, seq_len=2048, vocab_size=50304)  # 1.30e9


def large(**changes: object) -> RunConfig:
    fields = {"model": LARGE, "precision": "bf16", "batch_tokens": 2**20, "budget_tokens": 2**20}
    return RunConfig.model_validate({**fields, "engine": {"micro_batch_seqs": 8}, **changes})


def tensors() -> list[torch.Tensor]:
    """Every tensor that is alive, and its gradient; compilers leave some that hold nothing."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    found = [tensor for tensor in alive if not isinstance(tensor, FakeTensor)]
    return found + [t.grad for t in found if t.is_leaf and t.grad is not None]


def size_of(held: list[torch.Tensor]) -> int:
    """Bytes of the storages behind tensors, each once."""
    storages = [t.untyped_storage() for t in held if t.device.type != "meta"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.fixture(scope="module", params=PLAIN + ABLATED, ids=lambda engine: " ".join(map(str, engine)))
def trained(request, process_group):
    """(config, plan, bytes of the buckets, all other bytes of an engine) when two micro-batches are accumulated."""
    stage, precision, *fields = request.param
    config = RunConfig.model_validate(
        {
            "model": {"width": 64, "depth": 2, "seq_len": 8} | dict.fromkeys(fields, True),
            "engine": {"zero_stage": stage, "micro_batch_seqs": 1},
            "precision": precision,
            "batch_tokens": 16,
            "budget_tokens": 160,
        }
    )
    planned = plan(config, Hardware(1))
    others = tensors()  # kept, so that no new storage gets the address of an old one
    with built(config, planned) as (engine, _):
        for micro in range(2 * planned.accumulation):  # the first step makes the moments
            engine.backward(loss_of(engine, torch.full((1, 9), micro)))
            if micro < 2 * planned.accumulation - 1:
                engine.step()
        before = {t.untyped_storage().data_ptr() for t in others}
        held = [t for t in tensors() if t.untyped_storage().data_ptr() not in before]
        queues = getattr(engine.optimizer, "ipg_buckets", {}).values()
        flat = [t for queue in queues for t in (queue.buffer if isinstance(queue.buffer, list) else [queue.buffer])]
        return config, planned, size_of(flat), size_of(held) - size_of(flat)


def test_an_engine_holds_the_planned_state(trained: tuple[RunConfig, Plan, int, int]):
    config, planned, _, held = trained
    expected = planned.memory.state - planned.memory.buckets
    assert expected == {0: 16, 1: 20, 2: 20, 3: 20}[config.engine.zero_stage] * planned.n_params - (
        2 * planned.n_params if config.precision == "bf16" else 0
    )
    assert held == pytest.approx(expected, abs=2048)  # counters and the tables of the rotary encoding


def test_a_bucket_is_no_larger_than_the_model(trained: tuple[RunConfig, Plan, int, int]):
    config, planned, buckets, _ = trained
    if config.engine.zero_stage == 3:  # below, it is there only during the backward pass
        assert buckets == planned.memory.buckets == 4 * planned.n_params
    else:
        assert buckets == 0


def test_state_is_shared_out_over_ranks():
    total = n_params(LARGE)
    eight = {stage: memory(large(engine={"zero_stage": stage}), total, 1, 8) for stage in (1, 2, 3)}
    per_parameter = {stage: (held.state - held.buckets) / total for stage, held in eight.items()}
    assert per_parameter == pytest.approx({1: 2 + 4 + 12 / 8, 2: 2 + 16 / 8, 3: 18 / 8})
    averaged = memory(large(ema_half_life_tokens=2**20), total, 1, 8)
    assert averaged.state == eight[1].state + 4 * total
    assert eight[3].gathered == 2 * 10**9
    assert memory(large(engine={"zero_stage": 3}), total, 1, 1).gathered == 0
    assert bucket_elements(total) == 500_000_000


@pytest.mark.parametrize(("kind", "stage"), [("lion", 0), ("sgd", 1), ("adam_lagged", 0), ("adafactor", 0)])
def test_moments_of_every_kind_are_as_planned(kind, stage, process_group):
    fields = {"model": {"width": 64, "depth": 2, "seq_len": 8, "qk_norm": True}, "batch_tokens": 8, "budget_tokens": 8}
    config = RunConfig.model_validate({**fields, "engine": {"zero_stage": stage}, "optimizer": {"kind": kind}})
    planned = plan(config, Hardware(1))
    with built(config, planned) as (engine, _):
        engine.backward(loss_of(engine, torch.zeros((1, 9), dtype=torch.long)))
        engine.step()
        held = [tensor for state in engine.basic_optimizer.state.values() for tensor in state.values()]
        assert sum(4 * t.numel() for t in held if t.dim()) == pytest.approx(planned.memory.moments, abs=64)


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = {t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for storage in made:
            if storage._cdata not in self.sizes and storage._cdata not in old:
                self.sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return out


@pytest.mark.parametrize("fields", [{}, {"qk_norm": True, "tied": True}], ids=["plain", "qk_norm tied"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pass_takes_the_estimated_memory(precision: str, checkpointing: bool, fields: dict):
    """Eagerly, on a model whose loss is the largest tensor, as it is with a real vocabulary."""
    model = ModelConfig.model_validate({"width": 64, "depth": 3, "seq_len": 128, "vocab_size": 1024} | fields)
    engine = {"compile": False, "activation_checkpointing": checkpointing}
    planned = memory(large(model=model, precision=precision, engine=engine), n_params(model), 4, 1)
    network = build(model, 0).bfloat16() if precision == "bf16" else build(model, 0)
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.randint(0, 1024, (4, 129))
    with Live() as live:
        loss_of(network, tokens).backward()
    assert live.peak == pytest.approx(planned.activations + max(planned.logits, planned.recomputed), rel=0.01)


@pytest.mark.parametrize("what", ["probe", "trial"])
def test_what_looks_at_the_loss_holds_the_planned_vectors(what, process_group):
    """At ZeRO-1, where weights and moments must be gathered; on a model whose parameters outweigh its activations."""
    fields = {"model": {"width": 128, "depth": 2, "seq_len": 8}, "batch_tokens": 8, "budget_tokens": 2**10}
    looks = {"log": {"sharpness": {"every_tokens": 8, "seqs": 1}}} if what == "probe" else {}
    warmup = {} if what == "probe" else {"schedule": {"warmup": "critical", "warmup_tokens": 2**9}}
    config = RunConfig.model_validate({**fields, **looks, **warmup, "engine": {"zero_stage": 1}})
    planned, tokens = plan(config, Hardware(1)), torch.arange(9)[None]
    with built(config, planned) as (engine, rows):
        engine.backward(loss_of(engine, tokens))
        engine.step()
        with Live() as live:
            if what == "probe":
                probe_sharpness(Probe(tokens), engine, rows, config, 8)
            else:
                loss_after, _ = trial_steps(engine, config, [tokens])
                loss_after(0.1)
    assert live.peak == pytest.approx(planned.memory.probe, rel=0.1)


def kept_by_autograd(network: torch.nn.Module, tokens: torch.Tensor) -> int:
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = loss_of(network, tokens)
    assert loss.requires_grad
    return size_of([t for t in kept if t.untyped_storage().data_ptr() not in own])


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_compiled_block_keeps_less(qk_norm: bool):
    """The partition of forward and backward that torch.compile uses, without making code of it."""
    tokens = torch.randint(0, 257, (2, 65))
    kept, planned = [], []
    for depth in (1, 2):
        model = ModelConfig(width=64, depth=depth, seq_len=64, qk_norm=qk_norm)
        network = build(model, 0).bfloat16()
        for layer in network.model.layers:
            layer.compile(backend="aot_eager_decomp_partition")
        kept.append(kept_by_autograd(network, tokens))
        config = RunConfig(model=model, precision="bf16")
        planned.append(memory(config, n_params(model), 2, 1).activations)
    assert kept[1] - kept[0] == planned[1] - planned[0]


def refusal(config: RunConfig, hardware: Hardware) -> str:
    with pytest.raises(ConfigError) as raised:
        plan(config, hardware)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_state_that_cannot_fit_is_refused_as_certain():
    message = refusal(large(), Hardware(1, device_memory=16 * GIB))
    assert "the model state alone exceeds a device's 16 GiB" in message
    assert "21.7 GiB = weights 2.42 + gradients 4.83 + master weights 4.83 + moments 9.66" in message
    assert message.endswith("use engine.activation_checkpointing = true and engine.micro_batch_seqs = 1 and 4 ranks")


def test_a_peak_that_does_not_fit_is_refused_as_an_estimate():
    message = refusal(large(), Hardware(1, device_memory=40 * GIB))
    assert "8 sequences at a time: the estimated peak exceeds a device's 40 GiB" in message
    assert "about 30.7 GiB more = activations 21.5 + logits 9.21: use engine.micro_batch_seqs = 4" in message
    assert plan(large(), Hardware(1)).memory.total > 40 * GIB  # not refused where the memory is not known
    assert memory_text(plan(large(), Hardware(1)).memory) in message


@pytest.mark.parametrize(
    ("gib", "average"), [(8, None), (12, None), (16, None), (24, None), (40, None), (16, 2**20), (24, 2**20)]
)
def test_the_remedy_fits(gib: int, average: int | None):
    engine: dict[str, object] = {"micro_batch_seqs": 16}
    message = refusal(large(ema_half_life_tokens=average, engine=engine), Hardware(1, device_memory=gib * GIB))
    remedy = message.rpartition(": use ")[2]
    engine |= {field: yaml.safe_load(value) for field, value in re.findall(r"engine\.(\w+) = (\w+)", remedy)}
    ranks = re.search(r"(\d+) ranks$", remedy)
    changed = large(ema_half_life_tokens=average, engine=engine)
    assert plan(changed, Hardware(int(ranks[1]) if ranks else 1, device_memory=gib * GIB)).steps


def test_what_can_never_fit_says_so():
    giant = large(model=LARGE.model_copy(update={"width": 2**15, "depth": 100}), ema_half_life_tokens=2**20)
    assert "use a smaller model or a larger device" in refusal(giant, Hardware(1, device_memory=GIB))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {"zero_stage": 3, "compile": True}}, "engine.compile = true with engine.zero_stage = 3"),
        ({"engine": {"zero_stage": 3}, "ema_half_life_tokens": 4096}, "ema_half_life_tokens = 4096 with engine.zero"),
        ({"engine": {"zero_stage": 0}}, "engine.zero_stage = 0 with precision = bf16"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(changes: dict, message: str):
    assert refusal(large(**changes), Hardware(1)).startswith(message)
