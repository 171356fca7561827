"""What is pure about SLURM: sites, packing, scripts, snapshots, and where a run stands."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.rundir import Status, failed, parked
from configs.site import SiteConfig, duration_seconds, load_site, nodes_of
from launch.cli import main
from launch.slurm.packing import arrays_of, pack, tasks_wanted
from launch.slurm.script import Job, array_script, clock, report_script
from launch.slurm.snapshot import VERSION, code_hash, take_snapshot
from tests.processes import ROOT

JOB = Job("s", Path("/d/s"), Path("/d/data"), Path("/d/s/slurm/001/manifest.jsonl"), "abc", Path("/d/code"), "py", 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45", 45), ("30:00", 1800), ("4:00:00", 14400), ("1-12:00:00", 129600), (90, 90), ("1-00:00:01", 86401)],
)
def test_durations(text, seconds):
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "1-12", "4h", "-5", None, True, 0, "1-2:3"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        duration_seconds(text)


@given(st.integers(1, 10**7))
def test_a_time_limit_reads_back(seconds):
    assert duration_seconds(clock(seconds)) == seconds


@given(st.lists(st.floats(0.1, 100), max_size=60), st.integers(1, 20), st.floats(0, 200))
def test_every_run_is_packed_once_into_tasks_that_fit_and_are_alike(seconds, wanted, limit):
    tasks = pack(seconds, wanted, limit)
    assert sorted(i for task in tasks for i in task) == list(range(len(seconds)))
    loads = [sum(seconds[i] for i in task) for task in tasks]
    assert loads == sorted(loads, reverse=True)
    assert all(len(task) == 1 or load <= limit * (1 + 1e-9) for task, load in zip(tasks, loads, strict=True))
    assert len(tasks) >= min(wanted, len(seconds))
    if loads:  # greedy: a task is longer than another by no more than its last, shortest run
        assert all(
            load - min(seconds[i] for i in task) <= loads[-1] + 1e-9 for task, load in zip(tasks, loads, strict=True)
        )


def test_no_more_tasks_than_needed():
    assert len(pack([5.0] * 12, wanted=2, limit_s=100)) == 2
    assert len(pack([5.0] * 12, wanted=2, limit_s=20)) == 3
    assert pack([50, 1, 1, 1], wanted=1, limit_s=10) == ((0,), (1, 2, 3))


def test_as_many_tasks_as_run_at_a_time_but_none_that_only_starts():
    assert tasks_wanted(total_s=8000, startup_s=60, concurrency=8) == 8
    assert tasks_wanted(total_s=1300, startup_s=60, concurrency=8) == 2  # of ten start-ups each
    assert tasks_wanted(total_s=80, startup_s=60, concurrency=8) == 1
    assert tasks_wanted(total_s=8000, startup_s=60, concurrency=None) == 13


@given(st.integers(0, 300), st.integers(1, 50), st.one_of(st.none(), st.integers(1, 400)))
def test_arrays_cover_all_tasks_and_keep_the_limit(count, size, concurrency):
    if concurrency is not None and concurrency < -(-count // size):
        with pytest.raises(ConfigError, match=f"concurrency = {concurrency}"):
            arrays_of(count, size, concurrency)
        return
    arrays = arrays_of(count, size, concurrency)
    assert [task for piece, _ in arrays for task in piece] == list(range(count))
    assert all(len(piece) <= size for piece, _ in arrays)
    if concurrency and arrays:
        assert sum(share or 0 for _, share in arrays) == concurrency
        assert all(share for _, share in arrays)


@pytest.mark.parametrize("name", ["h100", "cpu"])
def test_the_example_sites_make_valid_scripts(name):
    site = load_site(ROOT / f"configs/sites/{name}.yaml")
    for script in (array_script(JOB, site, range(3), 2), report_script(JOB, site)):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        directives = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        body = script.splitlines()[2:]
        assert body[: len(directives)] == directives, "SLURM reads no directive after the first command"


def test_a_script_says_what_a_cluster_needs_to_know():
    site = SiteConfig(
        name="x", partition="gpu", account="me", qos="long", constraint="a100", time_limit=14400, gpus_per_node=4,
        gres="gpu:h100", cpus_per_task=8, mem_per_cpu="4G", signal_seconds=300, setup=("module load CUDA",),
        extra=("--exclusive",), python="python3", launcher="deepspeed",
    )  # fmt: skip
    text = array_script(Job(**(JOB.__dict__ | {"ranks": 8})), site, range(1000, 1040), 8)
    for option in (
        "--partition=gpu", "--account=me", "--qos=long", "--constraint=a100", "--array=0-39%8", "--nodes=2",
        "--ntasks-per-node=4", "--gres=gpu:h100:4", "--cpus-per-task=8", "--mem-per-cpu=4G", "--time=04:00:00",
        "--signal=B:USR1@300", "--requeue", "--open-mode=append", "--output=/d/s/slurm/logs/%A_%a.log", "--exclusive",
    ):  # fmt: skip
        assert f"#SBATCH {option}\n" in text
    assert text.index("module load CUDA") < text.index("exec py -m launch.slurm.task")
    assert "--first 1000" in text
    assert "--launcher deepspeed" in text
    assert "DS_ACCELERATOR" not in text


@pytest.mark.parametrize(
    ("gpus", "per_node", "ranks", "found"),
    [(4, None, 1, (1, 1)), (4, None, 8, (2, 4)), (4, None, 6, (2, 3)), (0, None, 6, (1, 6)), (0, 1, 2, (2, 1))],
)
def test_nodes_of_a_run(gpus, per_node, ranks, found):
    site = SiteConfig(name="x", time_limit=600, gpus_per_node=gpus, ranks_per_node=per_node)
    assert nodes_of(site, ranks) == found


def test_ranks_that_nodes_cannot_share_equally():
    with pytest.raises(ConfigError, match=r"--ranks 7.*use 6"):
        nodes_of(SiteConfig(name="x", time_limit=600, gpus_per_node=4), 7)
    with pytest.raises(ConfigError, match="ranks_per_node = 8 is more than gpus_per_node = 4"):
        nodes_of(SiteConfig(name="x", time_limit=600, gpus_per_node=4, ranks_per_node=8), 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("partitoin: gpu", "partitoin: unknown field; did you mean partition?"),
        ("report: {tim_limit: 5}", "report.tim_limit: unknown field; did you mean report.time_limit?"),
        ("time_limit: 4h", "time_limit: not a duration: write seconds, 30:00"),
        ("signal_seconds: 2000", "signal_seconds = 2000 leaves no time to train"),
        ("partition: a b", "partition = 'a b': expected text without spaces"),
        ("extra: [exclusive]", "extra[0] = 'exclusive': expected"),
        ("launcher: ssh", "launcher = 'ssh': expected one of srun, deepspeed"),
        ("gpu: h1000", "gpu = h1000: not known; did you mean h100?"),
        ("concurrency: 0", "concurrency = 0: expected an integer > 0"),
    ],
)
def test_a_mistake_in_a_site_is_one_line(tmp_path, capsys, change, words):
    field = change.partition(":")[0]
    lines = [line for line in ("name: x", "time_limit: 1:00:00") if not line.startswith(f"{field}:")]
    (tmp_path / "site.yaml").write_text("\n".join([*lines, change]))
    study = ROOT / "configs/studies/quickstart.yaml"
    assert main(["submit", str(study), "--site", str(tmp_path / "site.yaml"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / 'site.yaml'}: ")
    assert words in said
    assert said.count("\n") == 1


def test_a_snapshot_is_the_code_as_it_was(tmp_path):
    root = tmp_path / "checkout"
    for package in ("configs", "train", "launch", "analysis"):
        (root / package / "__pycache__").mkdir(parents=True)
        (root / package / "a.py").write_text(f"# {package}")
        (root / package / "__pycache__" / "a.pyc").write_text("old")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "configs/a.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    (root / "configs/a.py").write_text("changed")
    snapshot = take_snapshot(tmp_path / "slurm", root)
    assert snapshot == take_snapshot(tmp_path / "slurm", root)
    (root / "configs/a.py").write_text("changed again")
    assert (snapshot / "configs/a.py").read_text() == "changed"
    assert (snapshot / "train/a.py").read_text() == "# train"
    assert not list(snapshot.rglob("__pycache__"))
    assert (snapshot / VERSION).read_text().endswith("+changes\n")
    assert "+changed" in (snapshot / "changes.diff").read_text()
    assert snapshot.name == f"code-{code_hash(snapshot)}", "the hash is of the code alone"
    assert take_snapshot(tmp_path / "slurm", root) != snapshot


def test_the_same_failure_three_times_without_progress_parks_a_run():
    status = Status()
    for tokens in (0, 0):
        status = failed(status.model_copy(update={"resumed": tokens}), "OSError: 12 bytes left", now=1.0)
        assert not parked(status)
    status = failed(status, "OSError: 7 bytes left\nmore", now=2.0)
    assert parked(status)
    assert status.message == "OSError: 7 bytes left"


def test_another_failure_or_progress_counts_anew():
    status = failed(failed(Status(), "a", 1.0), "a", 1.0)
    assert failed(status, "b", 1.0).failures == 1
    assert failed(status.model_copy(update={"resumed": 512}), "a", 1.0).failures == 1
    assert not parked(failed(status, "a", 1.0).model_copy(update={"state": "running"}))
