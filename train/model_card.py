"""The card of an exported model: what a reader of its weights should know of the run, Markdown with a YAML head."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from configs.fields import NOT_SCIENCE, field_docs, values
from configs.identity import run_id
from configs.mup import forward_multipliers
from configs.optimizers import TRAITS
from configs.plan import n_params
from configs.rundir import Readout
from configs.schema import ModelConfig, RunConfig
from train.folding import factors, target_config
from train.parametrization import Row


def model_card(
    config: RunConfig,
    rows: Sequence[Row],
    readouts: Sequence[Readout],
    provenance: Mapping[str, Any],
    tokens: int,
    *,
    ema: bool,
    tokenizer: str,
    has_tokenizer: bool,
) -> str:
    """The card of the weights after `tokens` tokens, or of their average (`ema`).

    `rows` is the parametrisation of every parameter, `readouts` those up to `tokens` (losses in nats), `provenance`
    the run's record of that name, `tokenizer` a sentence about it. Every number comes from these.
    """
    weights = f"average of the weights, half-life {config.ema_half_life_tokens:,} tokens" if ema else "weights"
    identity, architecture = run_id(config), target_config(config.model).model_type
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["bcrit", architecture, config.model.parametrization],
        **_model_index(identity, readouts, tokens, ema),
    }
    sections = [
        f"# Run {identity} at {tokens:,} tokens",
        f"A {architecture.capitalize()} decoder of {n_params(config.model):,} parameters, trained by bcrit; the "
        f"{weights}, in fp32. No license is set: before you publish it, choose one and add `license:` to the head of "
        "this file.",
        "## Use",
        _usage(has_tokenizer),
        f"Tokenizer: {tokenizer}. Context: {config.model.seq_len:,} tokens.",
        "## Training",
        _summary(config, tokens),
        _fields(config),
        "## Parametrisation",
        _parametrisation(config, rows),
        "## Validation loss",
        f"Nats per token, computed in {config.precision}, over the first {config.data.valid_tokens:,} tokens of the "
        "validation split.",
        _losses(readouts),
        "## Origin",
        _origin(config, identity, provenance),
    ]
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(sections) + "\n"


def _model_index(identity: str, readouts: Sequence[Readout], tokens: int, ema: bool) -> dict[str, Any]:
    """The loss of these very weights in the form that model hubs read; nothing if they were not validated."""
    loss = next((r.ema_loss if ema else r.loss for r in readouts if r.tokens == tokens), None)
    if loss is None:
        return {}
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"name": "validation split", "type": "bcrit-packed"},
        "metrics": [{"type": "loss", "name": "validation loss, nats per token", "value": loss}],
    }
    return {"model-index": [{"name": f"bcrit-{identity}", "results": [result]}]}


def _usage(has_tokenizer: bool) -> str:
    if has_tokenizer:
        lines = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("PATH")  # this directory',
            'tokenizer = AutoTokenizer.from_pretrained("PATH")',
            'prompt = tokenizer("import ", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=16)[0]))",
        )
    else:
        lines = (
            "import torch",
            "from transformers import AutoModelForCausalLM",
            "",
            'model = AutoModelForCausalLM.from_pretrained("PATH")  # this directory',
            "print(model(input_ids=torch.tensor([[0, 1, 2]])).logits.shape)  # token ids as in the packed corpus",
        )
    return "\n".join(("```python", *lines, "```"))


def _summary(config: RunConfig, tokens: int) -> str:
    model, optimizer = config.model, config.optimizer
    used = ", ".join(f"{name} {getattr(optimizer, name):g}" for name in TRAITS[optimizer.kind].uses)
    return (
        f"Width N = {model.width} (base width {model.base_width}), depth {model.depth}; "
        f"{tokens:,} of T = {config.budget_tokens:,} tokens in steps of B = {config.batch_tokens:,} tokens; "
        f"peak learning rate {config.lr} at base width on a {config.schedule.kind} schedule; "
        f"optimizer {optimizer.kind} with {used} and weight decay {optimizer.weight_decay:g}; "
        f"seed {config.seed}; computed in {config.precision} with fp32 master weights."
    )


def _fields(config: RunConfig) -> str:
    docs = field_docs(RunConfig)
    rows = (
        (f"`{name}`", _shown(value), docs[name].description)
        for name, value in values(config).items()
        if value not in (None, ()) and not name.startswith(NOT_SCIENCE)
    )
    return _table(("field", "value", "meaning"), rows)


def _parametrisation(config: RunConfig, rows: Sequence[Row]) -> str:
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.role] = sizes.get(row.role, 0) + math.prod(row.shape)
    one_of = {row.role: row for row in rows}  # the multipliers of a role are the same in all its rows
    lines = (
        (
            "embedding, and the head" if config.model.tied and role == "embedding" else role,
            f"{size:,}",
            f"{(rule := one_of[role].rule).init_std:.6g}",
            f"{rule.lr_multiplier:.6g}",
            f"{rule.weight_decay_multiplier:.6g}",
            f"{rule.eps_multiplier:.6g}",
            f"{config.lr * rule.lr_multiplier:.6g}",
        )
        for role, size in sizes.items()
    )
    head = ("role", "parameters", "init std", "lr x", "weight decay x", "eps x", "peak lr")
    return (
        f"`{config.model.parametrization}`, width / base width = {config.model.width / config.model.base_width:g}. "
        f"Norm gains start at 1.\n\n{_table(head, lines)}\n\n{_multipliers(config.model)}"
    )


def _multipliers(model: ModelConfig) -> str:
    """The forward multipliers, and where the reader finds them."""
    multipliers, folded = forward_multipliers(model), factors(model)
    values = (
        f"embedding {multipliers.embedding:.6g}, attention {multipliers.attention:.6g}, "
        f"residual branch {multipliers.residual:.6g}, logits {multipliers.logits:.6g}"
    )
    if not folded:
        return f"Forward multipliers, all fields of `config.json`: {values} (1 / `logits_scaling`)."
    return (
        f"Forward multipliers of the training: {values}. They are no fields of `config.json`: the network of the run, "
        "Granite with QK norm, is no architecture of transformers. Qwen3 computes the same with these factors in it: "
        + ", ".join(f"`{end}` x {factor:.6g}" for end, factor in folded.items())
        + ". All others are as trained. To train on under this parametrisation, start from the run's checkpoint."
    )


def _losses(readouts: Sequence[Readout]) -> str:
    averaged = any(readout.ema_loss is not None for readout in readouts)
    head = ("tokens", "loss", "training loss", *(["loss of the average"] if averaged else []))
    losses = ((r.loss, r.train_loss, *([r.ema_loss] if averaged else [])) for r in readouts)
    lines = ((f"{r.tokens:,}", *map(_nats, row)) for r, row in zip(readouts, losses, strict=True))
    return _table(head, lines)


def _nats(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.6f}"


def _origin(config: RunConfig, identity: str, provenance: Mapping[str, Any]) -> str:
    changed = (provenance.get("branch") or {}).get("changed", {})
    changes = "".join(f"; `{name}` there {was}, here {now}" for name, (was, now) in changed.items())
    branch = config.branch and f"run `{config.branch.parent}` at {config.branch.tokens:,} tokens{changes}"
    packages = ", ".join(f"{name} {version}" for name, version in provenance.get("packages", {}).items())
    lines = (
        ("run id", f"`{identity}`"),
        ("branched off", branch or "no run, it was trained from its initialisation"),
        ("code version", f"`{provenance.get('code_version', 'unknown')}`"),
        ("data fingerprint", f"`{config.data.fingerprint}`"),
        ("packages", packages or "unknown"),
        ("device", provenance.get("device", "unknown")),
        ("ranks", provenance.get("world_size", "unknown")),
        ("ZeRO stage", config.engine.zero_stage),
    )
    return _table(("what", "value"), lines)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    written = (head, ["---"] * len(head), *lines)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in written)
