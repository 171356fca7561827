"""Entry of the trainer, under any launcher:

    deepspeed train/pretrain.py --config FILE [key=value ...]     one run
    torchrun train/pretrain.py --config FILE [key=value ...]      the same
    deepspeed train/pretrain.py --study DIR                       runs of a planned study, one after another

Exit codes: 0 finished, diverged or nothing left; 85 stopped and resumable; 1 an error. The status file is the truth.
"""

import argparse
import os
import sys
import time
from pathlib import Path

# `python train/pretrain.py` puts train/ itself on the path; the packages live one level up.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from configs.errors import ConfigError  # noqa: E402
from train.control import catch_signals  # noqa: E402
from train.engine import start_distributed, stop_distributed  # noqa: E402
from train.worker import run_single, run_study  # noqa: E402


def main() -> int:
    """Parse the command line, join the other ranks, train."""
    parser = argparse.ArgumentParser(description="Train one run, or the runs of a planned study.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="YAML file of a run (see configs/runs)")
    what.add_argument("--study", type=Path, help="directory of a study planned by `bcrit run`")
    parser.add_argument("--run-dir", type=Path, help="where the run is written (default: runs/single/runs/<id>)")
    parser.add_argument("--data-dir", type=Path, default=Path("runs/data"), help="where the embedded corpus is kept")
    parser.add_argument("--only", type=lambda text: text.split(","), default=(), metavar="ID,ID", help="of the study")
    parser.add_argument("--stop-file", type=Path, help="stop when this file exists")
    parser.add_argument("--parent", type=int, help="stop when this process is gone")
    parser.add_argument("--launched", type=float, default=time.time(), help="unix time of the launch, for the record")
    parser.add_argument("--since", type=float, default=time.time(), help="do not retry runs that failed since then")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a field of the run")
    arguments = parser.parse_args()
    catch_signals()
    start_distributed()
    try:
        if arguments.study:
            ends = {"parent": arguments.parent, "stop_file": arguments.stop_file}
            what_and_when = (arguments.study, arguments.data_dir, arguments.launched, arguments.since)
            return run_study(*what_and_when, only=arguments.only, **ends)
        where = (arguments.run_dir, arguments.data_dir, arguments.launched)
        return run_single(arguments.config, arguments.overrides, *where)
    except ConfigError as error:
        if os.environ["RANK"] == "0":
            print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        stop_distributed()


if __name__ == "__main__":
    sys.exit(main())
