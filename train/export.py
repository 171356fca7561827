"""A run's checkpoint -> a plain Hugging Face model: `bcrit export`. One process, no GPU, no process group."""

import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from configs.errors import ConfigError
from configs.identity import run_id
from configs.manifest import read_manifest
from configs.rundir import manifest_ids, path_of, read_config, read_json, read_status, run_dir_of, sync, write_json
from configs.schema import DataConfig, RunConfig
from train.checkpoints import load_ema, newest_intact
from train.data.tokenizer import load_tokenizer
from train.folding import fold, target_config
from train.intact import damage
from train.model import skeleton
from train.model_card import model_card
from train.parametrization import table
from train.ranks import say

RECORD = "bcrit.json"  # marks a directory as an export, and says of what
_EOD_NAME = "<|endoftext|>"  # for a corpus whose end of document has no name of its own


def export(run_dir: Path, tokens: int | None, out: Path | None, *, ema: bool = False) -> Path:
    """Write the fp32 weights of a run as a Hugging Face checkpoint, with tokenizer and card, and return its directory.

    It is a Granite, or, with QK norm, the Qwen3 that computes the same (`train.folding`).
    tokens: which checkpoint; None: the newest that is intact. out: where; None: run_dir/model, or run_dir/model-ema.
    ema: the average of the weights in place of the weights.

    The directory appears complete or not at all. It replaces an older export of the same run and nothing else.
    Raises ConfigError if there is no such run, checkpoint or average, or `out` holds something else.
    """
    config = config_of(run_dir)
    identity = run_id(config)
    out = out or run_dir / ("model-ema" if ema else "model")
    _check_replaceable(out, identity)
    checkpoint = checkpoint_of(run_dir, config, tokens)
    reached = int(checkpoint.name)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(target_config(config.model))
    network.load_state_dict(fold(_weights(checkpoint, ema), config.model), strict=True, assign=True)
    network.tie_weights()
    tokenizer, eod, about_tokenizer = _tokenizer(config.data, config.model.seq_len)
    if tokenizer is None:
        say(f"note: the tokenizer is {about_tokenizer}")
    # A document follows the end of another, so that token begins a text as well as ending it. It may pad what is
    # generated, but is no padding to the model, whose embedding of it would get no gradient any more.
    ends = {"bos_token_id": eod, "eos_token_id": eod}
    network.config.update({**ends, "use_cache": True})
    network.generation_config = GenerationConfig(**ends, pad_token_id=eod)
    provenance = run_dir / "provenance.json"
    card = model_card(
        config,
        table(skeleton(config.model), config),
        [readout for readout in read_status(run_dir).readouts if readout.tokens <= reached],
        read_json(provenance) if provenance.exists() else {},
        reached,
        ema=ema,
        tokenizer=about_tokenizer,
        has_tokenizer=tokenizer is not None,
    )
    described = config.model_dump(mode="json", exclude={"data": {"path"}})
    record = {"run_id": identity, "tokens": reached, "ema": ema, "config": described}
    with _appearing(out) as directory:
        with _quiet():
            network.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        (directory / "README.md").write_text(card)
        write_json(directory / RECORD, record)
    return out


def master_weights(state: Path) -> dict[str, torch.Tensor]:
    """The fp32 weights in DeepSpeed's checkpoint files, whole, by the model's own names: any ZeRO stage and world size.

    Stage 0 keeps them in the module. From stage 1 on they are shards of flat groups beside the optimizer's moments.
    """
    # DeepSpeed's classes are pickled in the files, so it is needed to read them.
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint, get_optim_files

    if not any(state.glob("*_optim_states.pt")):
        return _read(state / "mp_rank_00_model_states.pt")["module"]
    shards = [_read(Path(file))["optimizer_state_dict"] for file in get_optim_files(str(state))]
    if "zero_stage" in shards[0]:
        with _quiet():
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(state.parent), tag=state.name) or {})
    # ZeRO-1 with bf16: DeepSpeed's BF16_Optimizer names no stage, and zero_to_fp32 says "not a zero checkpoint".
    weights: dict[str, torch.Tensor] = {}
    groups = zip(*(shard["single_partition_of_fp32_groups"] for shard in shards), strict=True)
    shapes = _read(state / "mp_rank_00_model_states.pt")["param_shapes"]
    for parts, shape_of in zip(groups, shapes, strict=True):
        flat, begin = torch.cat(parts), 0  # the parameters one after another, then padding
        for name, shape in shape_of.items():
            weights[name] = flat[begin : begin + shape.numel()].view(shape)
            begin += shape.numel()
    return weights


def byte_tokenizer() -> Tokenizer:
    """The `bytes` tokenizer in the form of the `tokenizers` library: token b is byte b of the text's UTF-8.

    A BPE without merges over the characters that the library's byte level writes for the 256 bytes (as GPT-2 does).
    """
    tokenizer = Tokenizer(
        models.BPE(vocab={character: byte for byte, character in bytes_to_unicode().items()}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def config_of(run_dir: Path) -> RunConfig:
    """The configuration of a run. Raises ConfigError if the directory is not one."""
    if (run_dir / "manifest.jsonl").exists():
        one = run_dir_of(run_dir, next(iter(manifest_ids(run_dir)), "<id>"))
        raise ConfigError(f"{run_dir} is a study: name one of its runs, such as {one}")
    if not (run_dir / "config.json").exists():
        raise ConfigError(f"{run_dir}: no config.json, so it is not a run: name a directory such as runs/STUDY/runs/ID")
    return read_config(run_dir)


def checkpoint_of(run_dir: Path, config: RunConfig, tokens: int | None) -> Path:
    """The run's checkpoint at `tokens` (None: its newest), every byte of it as it was written. Raises ConfigError."""
    path = _newest(run_dir, config) if tokens is None else _at(run_dir, tokens)
    if (owner := read_json(path / "position.json")["run_id"]) != (identity := run_id(config)):
        raise ConfigError(f"{path}: belongs to run {owner}, not to {identity}: remove it")
    return path


def _newest(run_dir: Path, config: RunConfig) -> Path:
    newest = newest_intact(run_dir)
    if newest is None:
        raise ConfigError(
            f"{run_dir}: it is {read_status(run_dir).state} and has no checkpoint (checkpoint.keep = "
            f"{config.checkpoint.keep}): train it with checkpoint.keep = final"
        )
    return newest


def _at(run_dir: Path, tokens: int) -> Path:
    path = path_of(run_dir, tokens)
    there = ", ".join(str(int(p.name)) for p in sorted(path.parent.glob("*")) if p.name.isdigit()) or "none"
    if not path.exists():
        raise ConfigError(f"{run_dir}: no checkpoint at {tokens} tokens: choose of those there, {there}")
    if problem := damage(path):
        raise ConfigError(f"{path}: {problem}: choose another of those there, {there}")
    return path


def _weights(checkpoint: Path, ema: bool) -> dict[str, torch.Tensor]:
    if not ema:
        return master_weights(checkpoint / "state")
    average = load_ema(checkpoint)
    if average is None:
        raise ConfigError(
            f"{checkpoint}: no average of the weights: train with ema_half_life_tokens, or leave out --ema"
        )
    return average


def _read(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)


def _tokenizer(data: DataConfig, seq_len: int) -> tuple[PreTrainedTokenizerFast | None, int | None, str]:
    """The tokenizer of the run's corpus, its end of document, and a few words on both; None for what is not known."""
    if data.path is None:
        return _wrapped(byte_tokenizer(), 256, seq_len), 256, "bytes of UTF-8, 256 ends a document"
    try:
        manifest = read_manifest(data.path)
    except ConfigError as error:
        return None, None, f"not included, the corpus is not at hand ({error})"
    if manifest.fingerprint != data.fingerprint:
        return None, None, f"not included, {data.path} holds another corpus by now ({manifest.fingerprint})"
    about = f"{manifest.tokenizer}, {manifest.eod_token} ends a document"
    file = data.path / "tokenizer.json"
    if manifest.tokenizer == "bytes":
        backend = byte_tokenizer()
    elif not file.exists():
        return None, manifest.eod_token, f"{about}; not included, the corpus keeps no tokenizer.json"
    elif load_tokenizer(str(file)).sha256 != manifest.tokenizer_sha256:
        return None, manifest.eod_token, f"{about}; not included, {file} is not what the corpus was packed with"
    else:
        backend = Tokenizer.from_file(str(file))
    return _wrapped(backend, manifest.eod_token, seq_len), manifest.eod_token, about


def _wrapped(backend: Tokenizer, eod: int, seq_len: int) -> PreTrainedTokenizerFast:
    """For transformers: text becomes the ids that it became in the corpus, without a beginning or an end added.

    Unlike there, the name of a special token in a text is that token.
    """
    backend.no_truncation()
    backend.no_padding()
    backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
    name = backend.id_to_token(eod) or (_EOD_NAME if backend.get_vocab_size() == eod else None)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=name, eos_token=name, model_max_length=seq_len)


def _check_replaceable(out: Path, identity: str) -> None:
    if not out.exists():
        return
    record = out / RECORD
    owner = read_json(record)["run_id"] if record.exists() else None
    if owner != identity:
        what = f"the export of run {owner}" if owner else "something else than an export"
        raise ConfigError(f"{out}: already there, {what}: remove it or choose another directory with --out")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A new directory that takes the place of `out`, on disk and complete, if the block succeeds."""
    partial, old = (out.with_name(f".{out.name}.{secrets.token_hex(4)}.{kind}") for kind in ("partial", "old"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        if out.exists():
            os.rename(out, old)
        os.rename(partial, out)
        sync(out.parent)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{out}: cannot be written ({error}): make room or choose another --out") from error
    finally:
        if old.exists() and not out.exists():  # the second rename failed
            os.rename(old, out)
        for path in (partial, old):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress that libraries print; what goes wrong is raised, or logged."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
