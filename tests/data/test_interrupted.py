"""Whenever a preparation is killed, the next one makes the corpus of one that was not; so does any number of cores."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from configs.claims import claim, release
from configs.errors import ConfigError
from configs.manifest import read_manifest
from tests.data.corpora import documents_of
from tests.data.hub import serving
from tests.processes import ENVIRONMENT, ROOT, descendants, kill_everything
from train.data import prepare as module
from train.data.partial import partial_of
from train.data.prepare import prepare

# A preparation that takes its time and, where it is to be killed, does not end before: it stalls after some writes.
SLOW = """
import json, signal, sys, time
from itertools import count
from pathlib import Path
from train.data import prepare
from train.data.pack import SplitWriter

stall_after = int(sys.argv[4]) if sys.argv[4:] else None
write, writes = SplitWriter.write, count(1)
def slow(self, tokens, documents):
    while next(writes) == stall_after:
        time.sleep(600)
    time.sleep(0.02)
    write(self, tokens, documents)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job started in the background has it ignored
    SplitWriter.write = slow
    prepare.JOURNAL_SECONDS, prepare.CHUNK_CHARACTERS = 0.0, 300
    prepare.prepare(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A pattern for three files with documents of all lengths, some empty, some quoting a special token."""
    words, folder = random.Random(0), tmp_path_factory.mktemp("source")
    for name in ("a", "b", "c"):
        texts = [f"{name}{i} <|endoftext|> " + "naïve 東京 " * words.randrange(30) for i in range(90)]
        texts[::13] = [""] * len(texts[::13])
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "held_out.jsonl").write_text("".join(json.dumps({"text": f"held {i}"}) + "\n" for i in range(300)))
    return str(folder / "?.jsonl")


def environment(**more: str) -> dict[str, str]:
    """Without torch, which `datasets` would import only to share memory with it."""
    return ENVIRONMENT | {"USE_TORCH": "0", **more}


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment(**more), cwd=ROOT, capture_output=True, text=True, timeout=200)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("held_out", [False, True], ids=["by hash", "by a second source"])
def test_killed_at_every_touch_of_the_disk(source, tmp_path, held_out):
    options: dict = {"shard_tokens": 4000, "valid_fraction": 0.2}
    if held_out:
        options |= {"valid": source.replace("?", "held_out"), "limit_documents": 200}
    undisturbed = prepare(source, tmp_path / "undisturbed", **options)
    out = tmp_path / "killed" / "corpus"
    result = run("-m", "tests.data.killed", source, out, json.dumps(options))
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert outcome["code"] in (0, -signal.SIGKILL), result.stderr
    assert outcome["attempts"] > 30
    assert read_manifest(out, checksums=True).fingerprint == undisturbed.manifest.fingerprint
    assert bytes_of(out) == bytes_of(tmp_path / "undisturbed")
    with pytest.raises(ConfigError, match="already there"):  # it also removes what the last kill left
        prepare(source, out, **options)
    assert list(out.parent.iterdir()) == [out]


def test_a_killed_preparation_with_all_its_processes(source, tmp_path, monkeypatch):
    undisturbed = prepare(source, tmp_path / "undisturbed", shard_tokens=4000)
    (tmp_path / "slow.py").write_text(SLOW)
    out, seen = tmp_path / "corpus", 0
    options = json.dumps({"shard_tokens": 4000, "processes": 2})
    for sign in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        with slowly(tmp_path / "slow.py", source, out, options, "25") as process:
            seen = wait_for_rows(out, more_than=seen, process=process)
            below = descendants(process.pid)
            assert len(below) >= 2
            process.send_signal(sign)
            process.wait(timeout=180)
            wait_until_gone(below)
        assert not out.exists()
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 1000)
    resumed = prepare(source, out, shard_tokens=4000, processes=2)
    assert 0 < resumed.tokens < resumed.manifest.train.tokens + resumed.manifest.valid.tokens
    assert resumed.tokens_per_s == resumed.tokens / resumed.seconds
    assert bytes_of(out) == bytes_of(tmp_path / "undisturbed")
    assert resumed.manifest.fingerprint == undisturbed.manifest.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "slow.py", "undisturbed"]


@contextmanager
def slowly(*arguments: object, **more: str) -> Iterator[subprocess.Popen]:
    """SLOW under way; whatever happens, nothing of it is left."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(**more), stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        kill_everything(process.pid)
        process.wait()


def wait_for_rows(out: Path, more_than: int, process: subprocess.Popen) -> int:
    journal = partial_of(out) / "journal.json"
    for _ in range(30000):
        if journal.exists() and (rows := json.loads(journal.read_text())["position"]["rows"]) > more_than:
            return rows
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    raise TimeoutError


def wait_until_gone(pids: list[int]) -> None:
    for _ in range(6000):
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.02)
    raise TimeoutError


def test_the_number_of_processes_changes_nothing(source, bpe, tmp_path, monkeypatch):
    options = {"tokenizer": str(bpe), "shard_tokens": 1000}
    prepare(source, tmp_path / "at once", **options)
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 700)
    for processes in (1, 2):
        prepare(source, tmp_path / f"{processes}", processes=processes, **options)
        assert bytes_of(tmp_path / f"{processes}") == bytes_of(tmp_path / "at once")


def test_documents_keep_their_order(tmp_path, monkeypatch):
    texts = [f"{i}" * (i % 50 + 1) for i in range(500)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "held.txt").write_text("held out")
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 300)
    held = str(tmp_path / "held.txt")
    made = prepare(str(tmp_path / "texts.txt"), tmp_path / "out", valid=held, text_unit="line", processes=2)
    assert [bytes(ids).decode() for ids in documents_of(made.manifest, "train")] == texts


@pytest.fixture
def begun(source, tmp_path, monkeypatch):
    """A preparation that ended on the way, with its options and a copy of what it left."""
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(module, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(module, "encode_chunks", broken(module.encode_chunks))
    options: dict = {"shard_tokens": 4000, "processes": 1}
    with pytest.raises(ConfigError, match=r"source: gone; .*/\.corpus\.partial keeps what is done: go on as it was"):
        prepare(source, tmp_path / "corpus", **options)
    monkeypatch.undo()
    return tmp_path / "corpus", options


def broken(encode_chunks):
    def some(*arguments):
        for number, chunk in enumerate(encode_chunks(*arguments)):
            if number == 3:
                raise ConfigError("source: gone")
            yield chunk

    return some


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer": "bpe"}, r"tokenizer: it was begun with 'bytes \(sha256 \w+\)', not '.*json \(sha256"),
        ({"valid_fraction": 0.1}, "valid_fraction: it was begun with 0.05, not 0.1"),
        ({"limit_documents": 100}, "limit_documents: it was begun with None, not 100"),
        ({"shard_tokens": 5000}, "shard_tokens: it was begun with 4000, not 5000"),
    ],
)
def test_other_options_are_refused(source, begun, bpe, change, words):
    out, options = begun
    before = everything(out.parent)
    change = {name: str(bpe) if value == "bpe" else value for name, value in change.items()}
    with pytest.raises(ConfigError, match=words + r".*partial keeps what is done: .* or remove it to start") as caught:
        prepare(source, out, **options | change)
    assert "\n" not in str(caught.value)
    assert everything(out.parent) == before


def test_changed_files_are_refused(source, begun):
    out, options = begun
    changed = Path(source).with_name("a.jsonl")
    content, times = changed.read_bytes(), (changed.stat().st_atime_ns, changed.stat().st_mtime_ns)
    try:
        changed.write_bytes(content.replace(b"a1 ", b"A1 "))
        with pytest.raises(
            ConfigError, match=r"source: it was begun with '.*\(files \w{16}\)', not '.*\(files \w{16}\)'"
        ):
            prepare(source, out, **options)
    finally:
        changed.write_bytes(content)
        os.utime(changed, ns=times)
    assert prepare(source, out, **options).tokens > 0


def test_one_preparation_at_a_time(source, begun):
    out, options = begun
    assert claim(partial_of(out))
    before = everything(out.parent)
    with pytest.raises(ConfigError, match=r"out: another process prepares .*; wait for it"):
        prepare(source, out, **options)
    assert everything(out.parent) == before
    release(partial_of(out))
    prepare(source, out, **options)


@pytest.mark.parametrize("shard", [0, -1], ids=["full", "open"])
def test_a_damaged_beginning_is_refused(source, begun, shard):
    out, options = begun
    path = sorted((partial_of(out) / "corpus").glob("train-*.bin"))[shard]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=rf"{path.name}: damaged since it was written; .* remove it to start again"):
        prepare(source, out, **options)


def test_a_damaged_journal_is_refused(source, begun):
    out, options = begun
    (partial_of(out) / "journal.json").write_text('{"version": 2}')
    with pytest.raises(ConfigError, match=r"journal\.json: not a journal of this version; .* remove it to start again"):
        prepare(source, out, **options)


def test_a_dataset_of_the_hub_is_streamed_and_resumed(source, tmp_path):
    folder = tmp_path / "repository" / "data"
    folder.mkdir(parents=True)
    for number, name in enumerate("abc"):
        content = Path(source.replace("?", name)).read_bytes()
        (folder / f"train-{number}.jsonl").write_bytes(content)
    (folder / "validation-0.jsonl").write_text('{"text": "held out"}\n')
    local = prepare(source, tmp_path / "local", valid=str(folder / "validation-0.jsonl"))

    (tmp_path / "slow.py").write_text(SLOW)
    out, options = tmp_path / "corpus", {"valid": "validation", "processes": 1}
    command = [tmp_path / "slow.py", "a/b", out]
    with serving(folder.parent, "c" * 40) as (address, asked):
        online = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": "0",
            "no_proxy": "127.0.0.1",
        }
        with slowly(*command, json.dumps(options), "60", **online) as process:
            wait_for_rows(out, more_than=90, process=process)  # in the second file
        asked.clear()
        assert run(*command, json.dumps(options), **online).returncode == 0
        assert {path.rpartition("/")[2] for path in asked if re.search(r"data/.*jsonl", path)} >= {
            "train-2.jsonl",
            "validation-0.jsonl",
        }
    made = read_manifest(out, checksums=True)
    assert made.fingerprint == local.manifest.fingerprint
    assert made.source == f"a/b (train, revision {'c' * 40})"
