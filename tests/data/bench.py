"""What preparing data costs as a corpus grows: `python -m tests.data.bench [TEXT FILE ...]`. No test asserts a time.

Documents are this machine's Python sources, over and over, or those of the files that are given; the tokenizer is a
byte-level BPE of 8,192 tokens trained on them. Every size runs in a process of its own, so that peak memory is its own.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from tokenizers.implementations import ByteLevelBPETokenizer

from train.data.corpus import python_roots, python_sources
from train.data.prepare import prepare

SIZES = (2**20, 10 * 2**20, 100 * 2**20)  # characters
DOCUMENT = 2**14  # characters


def documents(texts: list[str], characters: int) -> Iterator[str]:
    """Pieces of the texts, again and again until there are so many characters."""
    written = 0
    for text in cycle(texts):
        for begin in range(0, len(text), DOCUMENT):
            if written >= characters:
                return
            piece = text[begin : begin + DOCUMENT]
            written += len(piece)
            yield piece


def measure(folder: Path, characters: int, processes: int) -> None:
    """One line: characters, processes, tokens, seconds, tokens/s, peak memory of it and of a child."""
    with tempfile.TemporaryDirectory() as out:
        done = prepare(
            str(folder / f"{characters}.jsonl"),
            Path(out) / "packed",
            tokenizer=str(folder / "tokenizer.json"),
            processes=processes,
        )
    peaks = [resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        f"{characters / 2**20:5.0f} Mi characters  {processes} process(es)  {done.tokens:11,} tokens  "
        f"{done.seconds:6.1f} s  {done.tokens_per_s:9,.0f} tokens/s  "
        f"peak {peaks[0]:.2f} GiB, a child {peaks[1]:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        texts = [Path(name).read_text() for name in sys.argv[1:]] or list(python_sources(python_roots(), 2**24))
        with tempfile.TemporaryDirectory() as folder:
            learner = ByteLevelBPETokenizer()
            learner.train_from_iterator(texts, vocab_size=8192, special_tokens=["<|endoftext|>"], show_progress=False)
            learner.save(f"{folder}/tokenizer.json")
            for size in SIZES:
                with Path(folder, f"{size}.jsonl").open("w") as file:
                    file.writelines(json.dumps({"text": text}) + "\n" for text in documents(texts, size))
                for processes in ("1", "2"):
                    one = [sys.executable, "-m", "tests.data.bench", "--one", folder, str(size), processes]
                    subprocess.run(one, check=True)
