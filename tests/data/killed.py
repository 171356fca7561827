"""A preparation that is killed again and again: `python -m tests.data.killed SOURCE OUT OPTIONS` (OPTIONS in JSON).

The first attempt dies at its first touch of the disk, the next one at its second, and so on; each goes on where the
one before was killed, until one gets through. Prints how many died.
"""

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path

import datasets

from train.data import documents, encode, pack, prepare

TOUCHES = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir"}  # audit events of Python


def dying(directory: str, kill_at: int) -> None:
    """From now on this process counts what it does under `directory`, and dies at number `kill_at`."""
    moments = count(1)

    def moment() -> None:
        if next(moments) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def torn(file, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        moment()
        file.write(data[len(data) // 2 :])

    def synced(file, fsync=os.fsync) -> None:
        fsync(file)
        moment()

    sys.addaudithook(lambda event, args: moment() if event in TOUCHES and directory in str(args[0]) else None)
    os.fsync, pack._write_all = synced, torn


def main(source: str, out: Path, options: dict) -> None:
    """Kill until it is done."""
    prepare.JOURNAL_SECONDS, prepare.CHUNK_CHARACTERS, documents._BATCH_ROWS = 0.0, 1500, 24
    prepare.encode_chunks = lambda chunks, tokenizer, valid_fraction, processes: (
        (chunk, encode._encode(tokenizer, valid_fraction, chunk.texts, chunk.split)) for chunk in chunks
    )
    datasets.load_dataset_builder("json", data_files=[__file__])  # imports what every attempt would
    for kill_at in count(1):
        child = os.fork()
        if child == 0:
            dying(str(out.parent), kill_at)
            prepare.prepare(source, out, **options)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if out.exists() or code != -signal.SIGKILL:
            print(json.dumps({"attempts": kill_at, "code": code}))
            return


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
