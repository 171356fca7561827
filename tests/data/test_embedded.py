"""The embedded corpus: the same tokens from the same files, held out by content, built once."""

import multiprocessing

import pytest

from configs.manifest import read_manifest
from tests.data.corpora import documents_of
from train.data.prepare import ensure_embedded

N_SOURCES = 120


@pytest.fixture
def roots(tmp_path):
    """Two directories of little sources, with everything that must be skipped."""
    library, packages = tmp_path / "library", tmp_path / "packages"
    for directory in (library, packages / "deep" / "er", library / "site-packages", packages / "train"):
        directory.mkdir(parents=True)
    for i in range(N_SOURCES):
        directory = library if i % 2 else packages / "deep" / "er"
        (directory / f"m{i}.py").write_text(f"answer = {i}  # naïve\n" * (i + 1))
    (library / "empty.py").touch()
    (library / "copy.py").write_text("answer = 0  # naïve\n")
    (library / "latin.py").write_bytes("# naïve\n".encode("latin-1"))
    (library / "table.py").write_text("x = 1\n" * 200_000)
    (library / "notes.txt").write_text("not Python")
    (library / "site-packages" / "other.py").write_text("other = 1\n")
    (packages / "train" / "own.py").write_text("own = 1\n")
    (packages / "__editable__bcrit_finder.py").write_text("own = 2\n")
    return [library, packages]


def texts_of(manifest, split):
    return [bytes(document).decode() for document in documents_of(manifest, split)]


def test_holds_every_distinct_source_once(roots, tmp_path):
    manifest = ensure_embedded(tmp_path, roots=roots)
    texts = texts_of(manifest, "train") + texts_of(manifest, "valid")
    assert sorted(texts) == sorted(f"answer = {i}  # naïve\n" * (i + 1) for i in range(N_SOURCES))
    assert 1 <= manifest.valid.documents <= 0.15 * N_SOURCES
    assert (manifest.vocab_size, manifest.eod_token, manifest.dtype) == (257, 256, "uint16")


def test_is_the_same_however_the_files_lie(roots, tmp_path):
    first = ensure_embedded(tmp_path / "a", roots=roots)
    (roots[0] / "m1.py").rename(roots[1] / "renamed.py")
    second = ensure_embedded(tmp_path / "b", roots=roots[::-1])
    assert first.fingerprint == second.fingerprint
    assert first.directory != second.directory


def test_a_document_keeps_its_split_whatever_else_is_installed(roots, tmp_path):
    before = ensure_embedded(tmp_path / "a", roots=roots)
    for i in range(N_SOURCES):
        (roots[0] / f"more{i}.py").write_text(f"more = {i}\n")
    after = ensure_embedded(tmp_path / "b", roots=roots)
    for split in ("train", "valid"):
        assert set(texts_of(before, split)) < set(texts_of(after, split))


def test_is_built_once(roots, tmp_path):
    first = ensure_embedded(tmp_path, roots=roots)
    (roots[0] / "later.py").write_text("later = 1\n")
    assert ensure_embedded(tmp_path, roots=roots) == first


def test_a_limit_cuts_the_same_order(roots, tmp_path):
    whole = ensure_embedded(tmp_path / "a", roots=roots)
    part = ensure_embedded(tmp_path / "b", roots=roots, max_bytes=(whole.train.tokens + whole.valid.tokens) // 2)
    for split in ("train", "valid"):
        kept = texts_of(part, split)
        assert kept == texts_of(whole, split)[: len(kept)]
    assert 0.3 < part.train.tokens / whole.train.tokens < 0.6


def _build(root, roots, start, fingerprints):
    start.wait()
    fingerprints.put(ensure_embedded(root, roots=roots).fingerprint)


def test_two_processes_at_once(roots, tmp_path):
    context = multiprocessing.get_context("spawn")
    start, fingerprints = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_build, args=(tmp_path / "data", roots, start, fingerprints)) for _ in "ab"]
    for process in processes:
        process.start()
    both = {fingerprints.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert both == {read_manifest(tmp_path / "data" / "embedded", checksums=True).fingerprint}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["embedded"]


def test_this_machine_has_a_corpus(tmp_path):
    limit = 2**22
    manifest = ensure_embedded(tmp_path, max_bytes=limit)
    documents = manifest.train.documents + manifest.valid.documents
    assert limit - 10**6 < manifest.train.tokens + manifest.valid.tokens - documents <= limit
    assert 0.01 < manifest.valid.documents / documents < 0.12
