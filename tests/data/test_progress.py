"""How far a preparation is, and what it hands out as one piece."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from train.data import prepare as module
from train.data.documents import Position, open_source, read, share_read
from train.data.partial import Journal
from train.data.progress import showing, time_left

TEXTS = [f"document {i} " + "x" * 200 for i in range(80)]


def shares(pattern, limit=None):
    """What is known of the share read, whenever reading could go on, and how much has been read by then."""
    source = open_source(str(pattern))
    return [(share_read(source, at, limit), at.documents / len(TEXTS)) for _, at in read(source, Position(), limit)]


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def test_rows_are_counted_where_their_number_is_known(tmp_path):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert [known == read for known, read in shares(tmp_path / "a.parquet")] == [True] * 3
    assert [known for known, _ in shares(tmp_path / "a.parquet", limit=64)] == [0.5, 1.0]


def test_bytes_of_plain_files_are_compared(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(TEXTS))
    assert [known for known, _ in shares(tmp_path / "a.jsonl")] == pytest.approx([0.4, 0.8, 1.0], abs=0.1)


def test_compressed_files_are_counted(tmp_path):
    for name, texts in (("a", TEXTS[:40]), ("b", TEXTS[40:])):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines(texts).encode()))
    assert [known for known, _ in shares(tmp_path / "*.gz")] == [0.0, 0.5, 1.0]
    assert [known for known, _ in shares(tmp_path / "a.jsonl.gz")] == [None, None]  # one file: nothing is known


def test_time_left_is_what_the_rest_will_take():
    assert time_left((100.0, 0.2), (110.0, 0.4)) == "0:00:30 left"
    assert time_left((100.0, 0.2), (110.0, 0.2)) == "time left unknown"
    assert time_left(None, (110.0, None)) == "time left unknown"


def test_a_line_now_and_then_without_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("train.data.progress.QUIET_PERIOD_S", 0.0)
    with showing(documents_before=10, tokens_before=1000) as report:
        report(20, 2000, None)
        report(30, 3000, 0.5)
    printed = capsys.readouterr().err
    assert "going on behind 10 documents, 1,000 tokens" in printed
    assert "20 documents, 2,000 tokens" in printed
    assert "time left unknown" in printed
    assert "left" not in printed.splitlines()[-1]
    assert printed.splitlines()[-1].startswith("30 documents, 3,000 tokens, ")


def test_long_documents_are_pieces_of_their_own(tmp_path, monkeypatch):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:02d}.txt").write_text(text)
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 100)
    chunks = list(module._chunks([(None, open_source(str(tmp_path)))], Journal(identity={}), None))
    assert [chunk.texts for chunk in chunks] == [[text] for text in TEXTS]
    ends = [number for number, chunk in enumerate(chunks, 1) if chunk.position]
    assert ends == [32, 64, 80]  # where a batch of rows ends


def test_short_documents_share_a_piece(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text(lines(TEXTS))
    size = sum(map(len, TEXTS))
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", size // 2)
    chunks = list(module._chunks([(None, open_source(str(tmp_path)))], Journal(identity={}), None))
    assert [len(chunk.texts) for chunk in chunks] == [64, 16]
    assert [chunk.position and chunk.position.rows for chunk in chunks] == [64, 80]
