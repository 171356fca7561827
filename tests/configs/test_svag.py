import pytest

from configs.errors import ConfigError
from configs.plan import Hardware, check_tokens, data_tokens, first_sequence, plan
from configs.schema import OptimizerConfig, RunConfig, TrunkConfig
from configs.svag import batch_weights, stepped
from launch.trunks import branched, trunks_of

OPTIMIZER = OptimizerConfig(beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, clip_norm=0.0)
BASE = RunConfig(optimizer=OPTIMIZER, batch_tokens=2**11, budget_tokens=2**14, lr=2**-7)


def with_length(length: int | None, **fields) -> RunConfig:
    return BASE.model_copy(update={"optimizer": OPTIMIZER.model_copy(update={"svag": length, **fields})})


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_weights_keep_the_mean_and_multiply_the_noise(length):
    weights = batch_weights(length)
    assert sum(weights) == pytest.approx(1, rel=1e-12)
    assert sum(w**2 for w in weights) == pytest.approx(length**2, rel=1e-12)
    assert weights == ((1.0,) if length == 1 else (max(weights), min(weights)))


def test_the_recipe_by_hand():
    config = stepped(with_length(2))
    optimizer = config.optimizer
    assert (config.lr, optimizer.beta1, optimizer.beta2) == pytest.approx((2**-8, 0.975, 0.9975))
    assert (optimizer.eps, optimizer.weight_decay) == pytest.approx((2e-8, 0.05))
    assert stepped(with_length(2, decay_rule="independent")).optimizer.weight_decay == pytest.approx(0.025)
    assert stepped(with_length(1)) == with_length(1)


def test_a_plan_has_l_squared_steps_of_two_batches_each():
    plain, one, four = (plan(with_length(length), Hardware(2)) for length in (None, 1, 4))
    assert one == plain
    assert (four.steps, four.step_tokens, four.step_seqs) == (16 * plain.steps, 2**7, 32)
    assert four.micro_batch_seqs * four.accumulation * 2 == 32
    assert four.flops == 32 * plain.flops
    assert data_tokens(with_length(4)) == 32 * BASE.budget_tokens
    assert first_sequence(with_length(4), 3 * 2**7) == 3 * 32


def test_the_data_must_last():
    with pytest.raises(ConfigError, match=r"budget_tokens = 524288 needs 4096 sequences .* the training data has 4095"):
        check_tokens(with_length(4), 4096 * 128 - 1, 2**20, 257)
    check_tokens(with_length(4), 4096 * 128 + 1, 2**20, 257)


def test_lengths_share_a_plain_trunk_and_read_on_from_it():
    trunk = TrunkConfig(at="2^13", fields={})
    runs = [branched(with_length(length), trunk) for length in (1, 2, 4)]
    (stem,), parents = trunks_of(runs, trunk)
    assert stem.optimizer.svag is None
    assert parents == (0, 0, 0)
    assert [first_sequence(run, 2**13) for run in runs] == [64, 64, 64]
    assert [first_sequence(run, 2**13 + 2**11) for run in runs] == [80, 64 + 8 * 16, 64 + 32 * 16]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "lion"}, "optimizer.svag = 2 with optimizer.kind = lion: SVAG is known for Adam and RMSprop"),
        ({"clip_norm": 1.0}, "optimizer.clip_norm = 1 with optimizer.svag = 2: .* use optimizer.clip_norm = 0"),
    ],
)
def test_what_svag_is_not_for_is_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        plan(with_length(2, **fields), Hardware(1))


def test_a_batch_must_divide():
    model = BASE.model.model_copy(update={"seq_len": 24, "head_dim": 16})
    config = with_length(8).model_copy(update={"model": model, "batch_tokens": 24, "budget_tokens": 240})
    with pytest.raises(ConfigError, match=r"batch_tokens = 24 is not a multiple of optimizer.svag\^2 = 64: use 64"):
        plan(config, Hardware(1))
