"""The coordinate check's measurement: sizes of activations, and of what training changes in them, through the engine.

Yang et al., Tensor Programs V (arXiv 2203.03466), appendix D.1: after a few steps nothing may grow or vanish with
width, neither an activation nor its change since the start. Both are root mean squares over fixed validation sequences.

Kinds, each over all blocks: embedding (as it enters the first block), query, key and value (after their projections
and qk_norm), attention_logits (q.k after rotation and multiplier, over visible positions), attention and ffn (outputs
of the branches before the residual multiplier), ffn_hidden (into down_proj), residual (the stream after each block),
final (after the last norm), logits (after their multiplier).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.models.granite.modeling_granite import apply_rotary_pos_emb

from configs.plan import Hardware, plan
from configs.schema import RunConfig
from train.build import built
from train.data.batches import TokenStore, windows
from train.engine import device, optimizer_step, set_lr
from train.evaluate import OBSERVED_WINDOWS
from train.feed import samples
from train.model import loss_of

Seen = dict[str, list[torch.Tensor]]


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """The run of a coordinate check: `steps` steps of `config` at its full learning rate, from the first one on."""
    schedule = config.schedule.model_copy(update={"kind": "constant", "warmup_tokens": 0})
    change = {"schedule": schedule, "budget_tokens": steps * config.batch_tokens, "readout_tokens": (), "branch": None}
    change["optimizer"] = config.optimizer.model_copy(update={"svag": None})
    return config.model_copy(update=change)


def measure(
    config: RunConfig, stores: tuple[TokenStore, TokenStore], on_step: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Train a run (see `shortened`) on this process group of one and measure its coordinates after every step.

    Rows of step (0: before the first), kind, quantity (`size`: RMS of x_t; `update`: RMS of x_t - x_0) and rms, and for
    each step one of kind `loss` (nats, on the training batch before the step's update).
    """
    planned = plan(config, Hardware(world_size=1))
    train_store, valid_store = stores
    probe = torch.from_numpy(windows(valid_store, np.arange(OBSERVED_WINDOWS))).to(device())
    rows: list[dict[str, Any]] = []
    with built(config, planned) as (engine, _):
        before = _activations(engine.module, probe)
        rows += _rows(0, "size", before)
        for step in range(planned.steps):
            set_lr(engine, config.lr)
            tokens = samples(train_store, config, planned, step * config.batch_tokens).to(device())
            losses = (loss_of(engine, micro) for micro in tokens.split(planned.micro_batch_seqs))
            loss, _ = optimizer_step(engine, losses, config.optimizer.clip_norm)
            now = _activations(engine.module, probe)
            rows += _rows(step + 1, "size", now)
            rows += _rows(step + 1, "update", {k: [x - y for x, y in zip(now[k], before[k], strict=True)] for k in now})
            rows.append({"step": step, "kind": "loss", "quantity": "size", "rms": loss.item()})
            on_step()
    return rows


def _rows(step: int, quantity: str, seen: Seen) -> list[dict[str, Any]]:
    def rms(tensors: list[torch.Tensor]) -> float:
        return float(torch.stack([x.double().square().mean() for x in tensors]).mean().sqrt())

    return [{"step": step, "kind": kind, "quantity": quantity, "rms": rms(tensors)} for kind, tensors in seen.items()]


@torch.no_grad()
def _activations(network: nn.Module, probe: torch.Tensor) -> Seen:
    network.eval()
    # A compiled model would be compiled again for its hooks.
    with _watched(network) as seen, torch.compiler.set_stance("force_eager"):
        network(input_ids=probe[:, :-1])
    network.train()
    return seen


@contextmanager
def _watched(network: Any) -> Iterator[Seen]:
    """Collect activations by kind while the model runs forward."""
    seen: Seen = {}
    handles = []

    def keep(kind: str, tensor: torch.Tensor) -> None:
        seen.setdefault(kind, []).append(tensor.detach().float())

    def watch_output(module: nn.Module, kind: str) -> None:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            keep(kind, output[0] if isinstance(output, tuple) else getattr(output, "logits", output))

        handles.append(module.register_forward_hook(hook))

    def watch_input(module: nn.Module, kind: str) -> None:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            keep(kind, args[0] if args else kwargs["hidden_states"])

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def watch_logits(attention: Any) -> None:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            keep("attention_logits", _visible_logits(attention, seen, kwargs["position_embeddings"]))

        handles.append(attention.register_forward_hook(hook, with_kwargs=True))

    watch_input(network.model.layers[0], "embedding")
    for block in network.model.layers:
        attention, ffn = block.self_attn, block.mlp
        for name in ("query", "key", "value"):
            watch_output(getattr(attention, f"{name[0]}_proj"), name)
        watch_logits(attention)
        watch_output(attention, "attention")
        watch_input(ffn.down_proj, "ffn_hidden")
        watch_output(ffn, "ffn")
        watch_output(block, "residual")
    watch_output(network.model.norm, "final")
    watch_output(network, "logits")
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _visible_logits(attention: Any, seen: Seen, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """What enters the softmax of the block that was just seen, at positions not behind the causal mask, flat."""
    query, key = (seen[kind][-1].unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for kind in ("query", "key"))
    query, key = apply_rotary_pos_emb(query, key, *rotation)
    logits = query @ key.transpose(-1, -2) * attention.scaling
    return logits[..., torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()]
