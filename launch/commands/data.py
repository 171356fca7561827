"""Commands that prepare and check data."""

import argparse
import signal

from rich.console import Console


def prepare_command(arguments: argparse.Namespace, console: Console) -> int:
    from train.data.prepare import prepare

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it gives its claim back, as after Ctrl-C
    done = prepare(
        arguments.source,
        arguments.out,
        tokenizer=arguments.tokenizer,
        eod=arguments.eod,
        text_field=arguments.text_field,
        text_unit=arguments.text_unit,
        subset=arguments.subset,
        split=arguments.split,
        revision=arguments.revision,
        valid=arguments.valid,
        valid_fraction=arguments.valid_fraction,
        limit_documents=arguments.limit_documents,
        processes=arguments.processes,
    )
    corpus = done.manifest
    tokens = f"{corpus.train.tokens:,} training and {corpus.valid.tokens:,} validation tokens"
    console.print(f"wrote {corpus.directory}: {tokens}, fingerprint {corpus.fingerprint}")
    console.print(f"{done.tokens:,} tokens in {done.seconds:,.1f} s: {done.tokens_per_s:,.0f} tokens/s")
    return 0


def verify_command(arguments: argparse.Namespace, console: Console) -> int:
    from configs.manifest import read_manifest

    manifest = read_manifest(arguments.directory, checksums=True)
    console.print(f"{arguments.directory} is intact: fingerprint {manifest.fingerprint}")
    return 0
