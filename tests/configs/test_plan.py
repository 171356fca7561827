import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.plan import Hardware, flops_per_token, n_params, plan, readouts
from configs.schema import ModelConfig, RunConfig

ONE = Hardware(world_size=1)


@given(
    seq_len=st.sampled_from([16, 24, 128]),
    per_rank=st.integers(1, 96),
    world_size=st.integers(1, 6),
    steps=st.integers(1, 3000),
    limit=st.integers(1, 40),
    data=st.data(),
)
def test_steps_and_sequences_add_up(
    seq_len: int, per_rank: int, world_size: int, steps: int, limit: int, data: st.DataObject
):
    batch = seq_len * per_rank * world_size
    read = sorted(data.draw(st.sets(st.integers(1, steps), max_size=4)))
    run = RunConfig(
        model=ModelConfig(seq_len=seq_len),
        data={"valid_tokens": 3 * seq_len},
        schedule={"warmup_tokens": batch * data.draw(st.integers(0, steps))},
        batch_tokens=batch,
        budget_tokens=batch * steps,
        readout_tokens=[batch * step for step in read],
    )
    p = plan(run, Hardware(world_size, limit))
    assert p.steps * run.batch_tokens == p.tokens == run.budget_tokens
    assert p.micro_batch_seqs * p.accumulation * p.world_size == p.step_seqs == batch // seq_len
    assert p.micro_batch_seqs <= limit
    for fewer in range(1, p.accumulation):
        assert per_rank % fewer or per_rank // fewer > limit
    assert p.warmup_steps * batch == run.schedule.warmup_tokens
    assert [step * batch for step in p.readout_steps] == list(p.readout_tokens) == list(readouts(run))
    assert p.readout_steps[-1] == p.steps
    assert set(read) <= set(p.readout_steps)
    assert 1 <= p.log_every_steps <= max(1, p.steps / 256)
    assert p.flops == p.flops_per_token * p.tokens


def test_micro_batch_comes_from_the_run_unless_the_hardware_says_otherwise():
    run = RunConfig(batch_tokens=128 * 48, budget_tokens=128 * 48)
    assert (plan(run, ONE).micro_batch_seqs, plan(run, ONE).accumulation) == (24, 2)
    assert plan(run, Hardware(1, 16)).accumulation == 3
    assert plan(run, Hardware(2)).accumulation == 1


def test_learning_rates_follow_the_parametrisation():
    run = RunConfig(lr=2**-7, model=ModelConfig(width=256))
    rates = plan(run, ONE).lr_by_role
    assert rates["hidden"] == rates["residual_out"] == 2**-9
    assert rates["embedding"] == rates["output"] == rates["norm"] == 2**-7


def test_parameters_and_flops_by_hand():
    model = ModelConfig(width=64, depth=2, ffn_ratio=3, vocab_size=257, seq_len=128)
    block = 4 * 64 * 64 + 3 * 64 * 192 + 2 * 64
    assert n_params(model) == 2 * 257 * 64 + 2 * block + 64 == 139_712
    assert flops_per_token(model) == 6 * (139_712 - 257 * 64) + 12 * 2 * 64 * 128
    p = plan(RunConfig(model=model), ONE)
    assert (p.n_params, p.n_params_non_embedding) == (139_712, 139_712 - 257 * 64)


def test_readouts_end_with_the_budget():
    assert readouts(RunConfig(budget_tokens=2**18)) == (2**18,)
    assert readouts(RunConfig(budget_tokens=2**18, readout_tokens=[2**17])) == (2**17, 2**18)
    assert readouts(RunConfig(budget_tokens=2**18, readout_tokens=[2**17, 2**18])) == (2**17, 2**18)


def test_a_log_interval_is_taken_as_asked():
    assert plan(RunConfig(log={"every_tokens": 2**14}), ONE).log_every_steps == 8


def test_a_readout_at_the_end_is_legal_for_every_schedule():
    run = RunConfig(schedule={"kind": "cosine"}, readout_tokens=[2**18], budget_tokens=2**18)
    assert plan(run, ONE).readout_tokens == (2**18,)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_values_that_an_error_offers_are_legal(batch: int, budget: int):
    """Following the remedies one after another ends in a plan, and soon."""
    run = RunConfig(batch_tokens=batch, budget_tokens=budget)
    for _ in range(4):
        try:
            assert plan(run, Hardware(2)).steps >= 1
            return
        except ConfigError as error:
            field, remedy = str(error).split(" = ")[0], str(error).rsplit("use ", 1)[1]
            run = run.model_copy(update={field: int(remedy.split(" or ")[-1])})
    pytest.fail(f"no plan for {run.batch_tokens}, {run.budget_tokens}")
