"""The corpus a run asks for, built first if it is the embedded one."""

from pathlib import Path

from configs.errors import ConfigError
from configs.manifest import Manifest, read_manifest
from configs.schema import DataConfig
from train.data.prepare import ensure_embedded


def open_corpus(data: DataConfig, data_dir: Path, *, checksums: bool = False) -> Manifest:
    """Manifest of `data.path`, or of the embedded corpus kept under `data_dir`; `checksums` also reads every byte.

    Raises ConfigError if it is missing, damaged, or not the one whose fingerprint is pinned.
    """
    manifest = read_manifest(data.path) if data.path else ensure_embedded(data_dir)
    if data.fingerprint not in (None, manifest.fingerprint):
        raise ConfigError(
            f"data.fingerprint: {data.fingerprint} is asked for, {manifest.directory} has {manifest.fingerprint}; "
            f"restore that corpus, or remove the field to use this one"
        )
    if checksums:
        read_manifest(manifest.directory, checksums=True)
    return manifest
