"""A run on several nodes of a real SLURM is the run on one."""

from configs.rundir import read_metrics, read_status, run_dir_of
from launch.slurm.submission import submissions
from tests.slurm.conftest import BASE

RUN = f"{BASE}\naxes: {{budget_tokens: [2^12], batch_tokens: [2^9]}}\n"


def test_two_nodes_give_the_curve_of_one(user, monkeypatch):
    """Two ranks over gloo, on one node and on two, by srun and by the `deepspeed` launcher without ssh.

    Submitted from inside another launch, whose variables sbatch takes along.
    """
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setitem(user.cluster.environment, name, value)
    study = user.study("pair", RUN)
    cases = [("srun", 1), ("srun", 2), ("deepspeed", 2)]
    outs = [user.home / f"{launcher}-{nodes}" for launcher, nodes in cases]
    for (launcher, nodes), out in zip(cases, outs, strict=True):
        site = user.site(ranks_per_node=2 // nodes, launcher=launcher)
        done = user.bcrit("submit", study, "--site", site, "--out", out, "--ranks", 2)
        assert done.returncode == 0, done.stderr
    user.cluster.drain(300)
    curves = []
    for (_, nodes), out in zip(cases, outs, strict=True):
        (submitted,) = submissions(out)
        run_dir, (job,) = run_dir_of(out, submitted.tasks[0][0]), submitted.jobs
        assert read_status(run_dir).state == "finished", user.logs(out)
        assert read_status(run_dir).world_size == 2
        said = (out / f"slurm/logs/{job}_0.log").read_text().splitlines()
        (line,) = [line for line in said if line.startswith("[bcrit]")]
        assert len(line.partition(" on ")[2].partition(",")[0].split()) == nodes
        kept = ("kind", "tokens", "loss", "lr", "grad_norm")
        curves.append([{name: row.get(name) for name in kept} for row in read_metrics(run_dir)])
    assert len(curves[0]) > 8
    assert curves[1] == curves[0]
    assert curves[2] == curves[0]
