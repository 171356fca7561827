"""A real SLURM on this machine: munged, slurmctld and a slurmd for each of several nodes, all on loopback.

Everything lies in one directory and the daemons are known by their pids, so that several clusters can be side by side.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.claims import process_start
from launch.local import free_ports

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")
NODES, CPUS, GPUS = 4, 4, 2
GRACE_S = 20  # from the first signal of a preemption to the kill
REQUEUE_S = 5  # after a requeue a job waits for its old credential to expire: 120 s unless told otherwise

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock,cred_expire={requeue}
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.txt
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2,requeue_setup_env_fail
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=600
InactiveLimit=0
JobRequeue=1
MaxArraySize=1001
FirstJobId={port}
GresTypes=gpu
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=cpu Nodes=ALL Default=YES MaxTime=2:00:00 DefaultTime=10 State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=10 DefaultTime=1 State=UP PriorityTier=10
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: object) -> str:
        """A command of SLURM's; what it says."""
        words = [str(word) for word in command]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def queue(self) -> list[str]:
        """Elements that have not ended, `<job>_<index> <state>` each."""
        return self.run("squeue", "-h", "-r", "-o", "%i %T").splitlines()

    def drain(self, patience_s: float) -> None:
        """Wait until no job is left."""
        deadline = time.monotonic() + patience_s
        while left := self.queue():
            assert time.monotonic() < deadline, f"still there after {patience_s:.0f} s: {left}"
            time.sleep(0.5)


def why_not() -> str:
    """Installs what is missing; why there can be no SLURM here, or nothing."""
    if all(shutil.which(daemon) for daemon in DAEMONS):
        return ""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"no SLURM: install {', '.join(PACKAGES)} (this needs root and apt-get)"
    apt = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300"]
    for command in ([*apt, "update"], [*apt, "install", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"no SLURM: {' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}"
    return ""


@contextlib.contextmanager
def running(root: Path) -> Iterator[Cluster]:
    """A cluster of NODES nodes from its start to its end."""
    _configure(root)
    environment = os.environ | {"SLURM_CONF": str(root / "slurm.conf")}
    cluster = Cluster(root, environment)
    try:
        munge = {
            "key-file": "munge/key",
            "socket": "run/munge.sock",
            "pid-file": "run/munged.pid",
            "log-file": "log/munged.log",
            "seed-file": "munge/seed",
        }
        options = [f"--{name}={root / path}" for name, path in munge.items()]
        subprocess.run(["munged", "--force", *options], check=True, capture_output=True)
        subprocess.run(["slurmctld", "-c"], env=environment, check=True, capture_output=True)
        for node in range(1, NODES + 1):
            start_node(cluster, f"n{node}")
        deadline = time.monotonic() + 60
        while set(cluster.run("sinfo", "-h", "-o", "%T").split()) != {"idle"}:
            assert time.monotonic() < deadline, _logs(root)
            time.sleep(0.2)
        yield cluster
    finally:
        _stop(cluster)


def start_node(cluster: Cluster, node: str) -> None:
    """Start the daemon of a node."""
    subprocess.run(["slurmd", "-N", node], env=cluster.environment, check=True, capture_output=True)


def _configure(root: Path) -> None:
    for part in ("state", "spool", "log", "run", "munge"):
        (root / part).mkdir(parents=True)
    (root / "munge").chmod(0o700)
    (root / "munge/key").write_bytes(secrets.token_bytes(128))
    (root / "munge/key").chmod(0o600)
    controller, *ports = free_ports(NODES + 1)
    host = socket.gethostname().partition(".")[0]
    about = {"host": host, "user": getpass.getuser(), "root": root}
    lines = [CONF.format(**about, port=controller, requeue=REQUEUE_S, grace=GRACE_S)]
    gres = ["AutoDetect=off"]
    for node, port in enumerate(ports, 1):
        lines.append(
            f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} Boards=1 "
            f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory=8000 Gres=gpu:{GPUS}\n"
        )
        devices = root / "dev" / f"n{node}"
        devices.mkdir(parents=True)
        for gpu in range(GPUS):
            (devices / f"nvidia{gpu}").symlink_to("/dev/null")
        gres.append(f"NodeName=n{node} Name=gpu File={devices}/nvidia[0-{GPUS - 1}]")
        (root / "spool" / f"n{node}").mkdir()
    (root / "slurm.conf").write_text("".join(lines))
    (root / "gres.conf").write_text("\n".join(gres) + "\n")


def _stop(cluster: Cluster) -> None:
    """End all jobs, then the daemons, by their pids."""
    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        cluster.run("scancel", f"--user={getpass.getuser()}")
        cluster.drain(30)
    files = [
        *cluster.root.glob("run/slurmd.*.pid"),
        cluster.root / "run/slurmctld.pid",
        cluster.root / "run/munged.pid",
    ]
    for file in files:
        if file.exists() and (pid := int(file.read_text() or 0)):
            _end(pid)


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + 5
        while process_start(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not process_start(pid):
            return


def _logs(root: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in root.glob("log/*.log"))
