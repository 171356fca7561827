"""Rule checks: arms named by their fields, gaps and verdicts of planted losses, and the page of a planted study."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.arms import REFERENCE, SVAG, Run, distances, gaps, own_rule_of, read_runs, rule_of
from analysis.report.rules import rule_verdict, svag_verdict, write_rules
from analysis.table import build_table
from configs.errors import ConfigError
from configs.identity import run_id
from configs.load import load_study
from configs.plan import readouts
from configs.rundir import Readout, Status, create_run, metrics_path, run_dir_of, write_atomic, write_status
from configs.schema import RunConfig
from launch.cli import main
from launch.grid import grid
from tests.analysis.coverage import holds
from tests.processes import ROOT

SEEDS = (0, 1, 2)
PLANTED = {"sqrt": 0.001, "linear": 0.05, "lr": 0.01, "none": -0.04}  # nats at twice the batch, growing with octaves


def arm(rule: str, factor: float, seed: int, loss: float) -> Run:
    return Run("0" * 12, rule, factor, seed, round(1024 * factor), 0, 2**16, {2**16: loss}, ())


def planted(noise: float, rules: dict[str, float] = PLANTED) -> list[Run]:
    random = np.random.default_rng(0)
    runs = [arm(REFERENCE, 1.0, seed, 3.0 + 0.1 * seed) for seed in SEEDS]
    for rule, size in rules.items():
        for factor in (2.0, 4.0, 8.0):
            for seed in SEEDS:
                loss = 3.0 + 0.1 * seed + size * math.log2(factor) + noise * random.standard_normal()
                runs.append(arm(rule, factor, seed, loss))
    return runs


def test_gaps_are_those_of_pairs():
    for gap in gaps(planted(0.0)):
        assert gap.gap.value == pytest.approx(PLANTED[gap.rule] * math.log2(gap.factor))
    noisy = gaps(planted(0.002))
    covered = [holds(g.gap, PLANTED[g.rule] * math.log2(g.factor)) for g in noisy]
    assert sum(covered) >= 10  # of 12 at 95 %
    for gap in noisy:
        low, high = gap.gap.low, gap.gap.high
        assert low is not None
        assert high is not None
        assert high - low < 0.02  # a seed's own level, 0.1, is no noise of a pair
        assert "6 degrees of freedom" in gap.gap.method


def test_the_verdict_says_which_rules_are_told_apart():
    found = distances(planted(0.002), "sqrt")
    assert [d.rule for d in found] == list(PLANTED)
    assert found[1].distance.value == pytest.approx(0.1, abs=0.01)
    text = rule_verdict(found)
    assert text.startswith("Runs under the square-root rule end 0.00")
    assert "it held better than linear (0.09" in text
    assert "none (0.08" in text
    assert "not told apart" not in text
    close = planted(0.01, {"sqrt": 0.01, "lr": 0.011})
    assert "it is not told apart from lr only" in rule_verdict(distances(close, "sqrt"))
    worse = planted(0.001, {"sqrt": 0.05, "none": 0.01})
    assert "it held worse than none" in rule_verdict(distances(worse, "sqrt"))


def test_a_diverged_rule_has_no_distance_and_one_seed_no_interval():
    runs = planted(0.001)
    broken = [arm(r.rule, r.factor, r.seed, math.nan) if (r.rule, r.factor) == ("linear", 8.0) else r for r in runs]
    assert [gap.n_diverged for gap in gaps(broken) if gap.rule == "linear"] == [0, 0, 3]
    assert "linear (a run of the rule diverged" in rule_verdict(distances(broken, "sqrt"))
    alone = [run for run in runs if run.seed == 0]
    assert all(gap.gap.low is None for gap in gaps(alone))
    assert "it is not told apart from" in rule_verdict(distances(alone, "sqrt"))


def test_svag_is_judged_by_every_length():
    runs = [arm(REFERENCE, 1.0, seed, 3.0) for seed in SEEDS]
    near = [arm(SVAG, length, seed, 3.0 + 0.001 * (seed - 1)) for length in (2.0, 4.0) for seed in SEEDS]
    far = [arm(SVAG, length, seed, 3.1 + 0.001 * (seed - 1)) for length in (2.0, 4.0) for seed in SEEDS]
    assert own_rule_of(runs + near) == SVAG
    assert svag_verdict(gaps(runs + near)).startswith("No run is told apart from the optimizer's, to within 0.001")
    assert svag_verdict(gaps(runs + far)).startswith("Runs end elsewhere")


@pytest.mark.parametrize(("name", "rules"), [("rule-check", set(PLANTED)), ("svag-check", {SVAG})])
def test_the_arms_of_the_ready_studies_are_named(name, rules):
    runs = grid(load_study(ROOT / f"configs/studies/{name}.yaml"))
    reference = min(runs, key=lambda run: (run.batch_tokens, run.optimizer.svag or 1))
    named = [rule_of(run, reference) for run in runs]
    assert {rule for rule, _ in named} == {REFERENCE, *rules}
    counts = {each: named.count(each) for each in named}
    assert set(counts.values()) == {len(SEEDS)}
    assert len(counts) == (17 if name == "rule-check" else 3)


def test_a_recipe_of_no_rule_is_refused():
    reference = RunConfig(batch_tokens=1024)
    with pytest.raises(ConfigError, match="no scaling rule makes this of the run of batch_tokens = 1024"):
        rule_of(RunConfig(batch_tokens=2048, lr=2**-4), reference)
    with pytest.raises(ConfigError, match="one recipe only"):
        own_rule_of([arm(REFERENCE, 1.0, 0, 3.0)])


def study(directory: Path) -> None:
    """A rule check whose runs have ended: losses as planted, a noise scale of 1,500 tokens."""
    random, lines = np.random.default_rng(1), []
    runs = grid(load_study(ROOT / "configs/studies/rule-check.yaml"))
    reference = min(runs, key=lambda run: run.batch_tokens)
    for run in runs:
        rule, factor = rule_of(run, reference)
        data = run.data.model_copy(update={"fingerprint": "f"})
        config = run.model_copy(update={"data": data, "branch": None})
        final = 3.0 + 0.1 * config.seed + PLANTED.get(rule, 0.0) * math.log2(factor)
        run_dir = run_dir_of(directory, run_id(config))
        create_run(run_dir, config)
        at = [(0, 5.5), *((tokens, final + 2**15 / tokens) for tokens in readouts(config))]
        read = tuple(Readout(tokens=tokens, loss=loss, train_loss=loss, rms={}) for tokens, loss in at)
        write_status(run_dir, Status(state="finished", tokens=config.budget_tokens, readouts=read))
        rows = [{"kind": "resume", "tokens": 0}]
        for tokens in range(2**13, 2**18 + 1, 2**13):
            mean_sq, trace = 1 + 0.1 * random.standard_normal(), 1500 * (1 + 0.1 * random.standard_normal())
            rows.append({"kind": "train", "tokens": tokens, "loss": final + 2**15 / tokens})
            rows.append({"kind": "noise", "tokens": tokens, "of": "gradients", "mean_sq": mean_sq, "trace": trace})
            rows[-1] |= {"noise_scale": 1500.0, "weights_norm": 10.0, "update_norm_per_token": 1e-6}
        write_atomic(metrics_path(run_dir, 1), "".join(json.dumps(row) + "\n" for row in rows))
        lines.append(run_dir.name)
    write_atomic(directory / "manifest.jsonl", "".join(f'{{"id": "{name}"}}\n' for name in lines))


def test_the_page_of_a_planted_study(tmp_path, capsys):
    study(tmp_path)
    assert main(["rules", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "it held better than linear (0.1250" in said
    assert "Gradient noise scale of the reference at the end, tr Σ/|G|² of gradients of all parameters: 1," in said
    assert "The square-root rule is not seen to lose more than 0.01 nats at any batch tried, up to 2,048 tokens" in said
    assert "Where noise dominates, at B up to 1,024 tokens: Runs under the square-root rule" in said.replace("\n", " ")
    content = json.loads((tmp_path / "rules/rules.json").read_text())
    assert len(content["gaps"]) == 16
    page = (tmp_path / "rules/index.html").read_text()
    assert page.count("<figure") == 3
    assert page.count("data-drawn") >= 3
    statistics = (tmp_path / "rules/data/rule-statistics.csv").read_text()
    assert "reference,1.0," in statistics
    assert "sqrt,16.0," in statistics
    path, sentences = write_rules(build_table(tmp_path), read_runs(tmp_path), (), "again", tmp_path / "again")
    assert path.exists()
    assert sentences == content["said"]
