"""What one element of a job array does: `python -m launch.slurm.task`, started by the script of `bcrit submit`.

It trains the runs of its line of the manifest through one worker, starts that again when it dies, and when SLURM
announces the end of the allocation (SIGUSR1) asks it to checkpoint and puts this array element back into the queue.
A run's directory says how it stands; exit codes are for people. 0: nothing is left; 1: something is; 2: a mistake.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.claims import LAUNCH, owner_of
from configs.errors import ConfigError
from configs.rundir import ENDED, failed, read_json, read_status, run_dir_of, write_atomic, write_json, write_status
from launch.local import FINE
from launch.slurm import queue
from launch.slurm.line import failures, left_of, progress, read_line
from launch.slurm.script import logs_of
from launch.slurm.workers import (
    attend,
    end_ranks,
    ending,
    first_error,
    free_port,
    hostfile_text,
    log_since,
    master_address,
    worker_command,
)

PATIENCE = 3  # launches without any progress before a task gives up
STARTS = 5  # and starts of the task
STOP_SHARE = 0.75  # of the time before the limit, for a checkpoint
REQUEUE_PAUSES_S = (5.0, 10.0, 20.0)  # the controller may be away for a moment
CLEAN_S = 20.0
KILL_WAIT_S = 300.0


@dataclass
class Task:
    """An element of a job array at one of its starts."""

    key: str  # 123_4
    job: int  # SLURM_JOB_ID, which every element has for its own
    restart: int
    study_dir: Path
    runs: tuple[str, ...]
    cache: Path  # on this node, for this job
    asked: list[int] = field(default_factory=list)  # signals so far
    asked_at: float | None = None  # time.monotonic of the first

    parent: int = field(default_factory=os.getppid)

    @property
    def stop_file(self) -> Path:
        """Asks the worker to checkpoint and end; rank 0 runs on this node. It is this start's alone."""
        return Path(f"{self.cache}-{self.restart}-{os.getpid()}.stop")

    def ask(self, number: int) -> None:
        """Ask the worker to stop, after a signal."""
        self.asked.append(number)
        self.asked_at = self.asked_at or time.monotonic()
        with contextlib.suppress(OSError):
            self.stop_file.touch()

    def when_asked(self) -> float | None:
        """When it was first asked to stop (time.monotonic); losing SLURM's batch step is like being ended by it."""
        if not self.asked and os.getppid() != self.parent:
            self.ask(signal.SIGTERM)
        return self.asked_at

    @property
    def stopped(self) -> bool:
        """Whether to start nothing more."""
        return self.when_asked() is not None or (self.study_dir / "STOP").exists()


def main() -> int:
    """Do what is left of one line of the manifest."""
    parser = argparse.ArgumentParser(description="One element of a job array.")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--sha256", required=True, help="of the manifest as it was submitted")
    parser.add_argument("--first", type=int, default=0, help="line of the array's first element")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--launcher", choices=("srun", "deepspeed"), default="srun")
    parser.add_argument("--signal-seconds", type=int, default=120, help="from SLURM's signal to the time limit")
    arguments = parser.parse_args()
    environment = os.environ
    try:
        index = int(environment["SLURM_ARRAY_TASK_ID"])
        task = Task(
            key=f"{environment['SLURM_ARRAY_JOB_ID']}_{index}",
            job=int(environment["SLURM_JOB_ID"]),
            restart=int(environment.get("SLURM_RESTART_COUNT", 0)),
            study_dir=arguments.study,
            runs=(),
            cache=Path(environment["BCRIT_CACHE"]),
        )
    except KeyError as error:
        print(f"error: {error.args[0]} is not set: this is started by the script of `bcrit submit`", file=sys.stderr)
        return 2
    _listen(task)
    code, message = 2, ""
    try:
        task.cache.mkdir(parents=True, exist_ok=True)
        task.runs = read_line(arguments.manifest, arguments.sha256, arguments.first + index, task.study_dir)
        code, message = _work(task, arguments)
    except ConfigError as error:
        message = str(error)
    except OSError as error:  # above all a full disk
        message = f"{error.filename or 'the disk'}: {error.strerror}"
    finally:
        _clean(task)
    if message:
        _say(f"error: {message}")
    _record(task, {"code": code, "message": message})
    announced = set(task.asked) == {signal.SIGUSR1}  # whoever sends SIGTERM ends the job, or requeues it himself
    goes_on = announced and code == 1 and not message and not (task.study_dir / "STOP").exists()
    return _requeue(task) if goes_on else code


def _work(task: Task, arguments: argparse.Namespace) -> tuple[int, str]:
    """Launch workers until nothing is left, something asks to stop, or nothing moves any more."""
    if problem := _restarted_in_vain(task):
        return 1, problem
    hosts = queue.hosts(os.environ["SLURM_JOB_NODELIST"])
    idle = launch = 0
    while True:
        left = left_of(task.study_dir, task.runs)
        if not left.runs:
            for obstacle in left.obstacles:
                _say(obstacle)
            return int(bool(left.obstacles)), ""
        if task.stopped:
            return 1, ""
        before = progress(task.study_dir, task.runs), failures(task.study_dir, task.runs)
        code = _launch(task, arguments, left.runs, hosts, launch)
        launch += 1
        moved = (progress(task.study_dir, task.runs), failures(task.study_dir, task.runs)) != before
        idle = 0 if moved else idle + 1
        if idle >= PATIENCE and not task.stopped:
            return 1, f"{idle} launches without any progress, the last: {ending(code)}; see the log"


def _launch(task: Task, arguments: argparse.Namespace, runs: tuple[str, ...], hosts: list[str], launch: int) -> int:
    """One worker to its end; if it dies, the run that it had has failed. Its exit code."""
    log = logs_of(task.study_dir) / f"{task.key}.log"
    offset = log.stat().st_size if log.exists() else 0
    address = master_address(hosts), free_port(task.job, launch)
    started = time.time()
    trainer = ["--study", str(task.study_dir), "--data-dir", str(arguments.data_dir), "--only", ",".join(runs)]
    trainer += ["--stop-file", str(task.stop_file), "--launched", str(started), "--since", str(started)]
    hostfile = _record_path(task).with_suffix(".hosts")
    write_atomic(hostfile, hostfile_text(hosts, arguments.ranks // len(hosts)))
    command = worker_command(
        arguments.launcher,
        sys.executable,
        trainer,
        nodes=len(hosts),
        per_node=arguments.ranks // len(hosts),
        cpus=int(os.environ.get("SLURM_CPUS_PER_TASK", 1)),
        hostfile=hostfile,
    )
    named = f"{task.key} {task.restart}.{launch}"
    environment = os.environ | {LAUNCH: named, "MASTER_ADDR": address[0], "MASTER_PORT": str(address[1])}
    _say(f"launch {named}: {len(runs)} runs on {' '.join(hosts)}, port {address[1]}")
    mark, grace_s = str(task.stop_file), STOP_SHARE * arguments.signal_seconds
    code = attend(subprocess.Popen(command, env=environment), mark, task.when_asked, grace_s)
    if end_ranks(task.key, mark, task.stop_file, len(hosts)):
        _say("its launcher was gone before its ranks; they have ended")
        if not task.asked:
            task.stop_file.unlink(missing_ok=True)
    if code not in FINE:
        reason = first_error(log_since(log, offset)) or ending(code)
        _say(f"launch {named} ended with exit code {code}: {reason}")
        if not task.asked:
            _blame(task, named, reason, started)
    return code


def _blame(task: Task, launch: str, reason: str, since: float) -> None:
    """Record the failure of the run whose worker died before it could do so itself."""
    for identity in task.runs:
        run_dir = run_dir_of(task.study_dir, identity)
        status = read_status(run_dir)
        recorded = status.state in (*ENDED, "preempted") or (status.state == "failed" and status.updated >= since)
        if owner_of(run_dir).get("launch") == launch and not recorded:
            write_status(run_dir, failed(status, reason, time.time()))


def _clean(task: Task) -> None:
    """Leave nothing on the nodes."""
    task.stop_file.unlink(missing_ok=True)
    if (nodes := int(os.environ.get("SLURM_JOB_NUM_NODES", 1))) > 1:
        srun = ["srun", "--overlap", "--mpi=none", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([*srun, "rm", "-rf", str(task.cache)], timeout=CLEAN_S, capture_output=True)
    shutil.rmtree(task.cache, ignore_errors=True)


def _restarted_in_vain(task: Task) -> str:
    """Note this start of the task; why to give up if the last ones moved nothing."""
    starts = [*_recorded(task).get("starts", []), [task.restart, time.time(), progress(task.study_dir, task.runs)]]
    _record(task, {"starts": starts, "code": None, "message": ""})
    if len(starts) > STARTS and len({tokens for _, _, tokens in starts[-STARTS - 1 :]}) == 1:
        return f"{STARTS} starts without a new checkpoint: is time_limit - signal_seconds too short? See the log"
    return ""


def _recorded(task: Task) -> dict[str, Any]:
    try:
        return read_json(_record_path(task))
    except (FileNotFoundError, ValueError):
        return {}


def _record(task: Task, changes: dict[str, Any]) -> None:
    """What `bcrit status` tells of this task."""
    with contextlib.suppress(OSError):  # a full disk is in the log, or nowhere
        write_json(_record_path(task), _recorded(task) | {"runs": task.runs} | changes)


def _record_path(task: Task) -> Path:
    return task.study_dir / "slurm" / "tasks" / f"{task.key}.json"


def _requeue(task: Task) -> int:
    """Put this element back into the queue, and wait for SLURM to end it."""
    _say(f"requeue {task.key}")
    for pause in (*REQUEUE_PAUSES_S, None):
        try:
            queue.requeue(task.key)
            break
        except ConfigError as error:
            _say(f"error: {error}")
            if pause is None:
                _record(task, {"message": f"{error}; go on with `bcrit resubmit`"})
                return 1
            time.sleep(pause)
    deadline = time.monotonic() + KILL_WAIT_S
    while signal.SIGTERM not in task.asked and time.monotonic() < deadline:
        time.sleep(0.2)
    return 0


def _listen(task: Task) -> None:
    """From now on signals ask the worker to stop."""

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: task.ask(number))


def _say(text: str) -> None:
    print(f"[bcrit] {time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
