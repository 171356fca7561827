"""Two moments of a gradient from its squared norms at two batch sizes: of its mean, and of its noise.

McCandlish et al. 2018 (1812.06162), appendix A.1. Batches count tokens (or sequences), and so does what comes out.
"""

from typing import Any

from configs.errors import ConfigError
from configs.schema import RunConfig
from configs.svag import length_of

# Probes watch one step in so many, so that they cost less than 2 % of a step of ten million parameters on a CPU: norms
# read all gradients once a micro-batch, gains take elementwise work beside the norms' own.
WATCHED = {"gradients": 2, "gains": 8}


def two_batch(small_sq: Any, big_sq: Any, small: float, big: float) -> tuple[Any, Any]:
    """Unbiased |G|^2, which may come out negative, and tr Sigma of one token (or sequence), floats or arrays (n,).

    From mean squared norms of gradients of `small` and of `big` tokens. Of a sum of independent gradients under weights
    of sum 1, as SVAG's, `big` is `small` / sum of their squares.
    """
    return (big * big_sq - small * small_sq) / (big - small), (small_sq - big_sq) / (1 / small - 1 / big)


def part_tokens(config: RunConfig, micro_batch_seqs: int) -> int:
    """Tokens behind one gradient whose norm is taken: of a micro-batch, or of a sequence where gains are watched."""
    return config.model.seq_len * (micro_batch_seqs if config.log.noise == "gradients" else 1)


def whole_tokens(config: RunConfig) -> float:
    """Tokens of a plain batch that is as noisy as the gradient a step is taken with: B, or B / l^2 under SVAG."""
    return config.batch_tokens / length_of(config) ** 2


def half_life_tokens(trained_tokens: int) -> float:
    """Half-life, in tokens, of the averages of both moments, for a run that trains so many tokens itself: 1 in 16."""
    return trained_tokens / 16


def check_noise(config: RunConfig, micro_batch_seqs: int) -> None:
    """Refuse a noise scale where there are no two batch sizes to compare. Raises ConfigError."""
    if config.log.noise and part_tokens(config, micro_batch_seqs) == whole_tokens(config):
        if config.log.noise == "gains":
            remedy = "use a larger batch_tokens, or leave log.noise empty"
        else:
            remedy = "use a smaller engine.micro_batch_seqs, more ranks, or log.noise = gains"
        raise ConfigError(
            f"log.noise = {config.log.noise}: a step's gradient is as noisy as that of one of its parts of "
            f"{part_tokens(config, micro_batch_seqs)} tokens, so there are no two batch sizes to compare: {remedy}"
        )
