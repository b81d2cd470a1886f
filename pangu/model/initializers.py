"""How parameters start, per scheme: `released` trained the published weights, `master` is the original's later code."""

import math

from mindspore.common.initializer import Initializer, Normal, TruncatedNormal

from pangu.config import ModelConfig


def word_table(config: ModelConfig) -> Initializer:
    return Normal(0.02) if config.initializer == "released" else Normal(0.01)


def position_table(config: ModelConfig) -> Initializer:
    """Cut `released` at two deviations. MindSpore's bounds were in deviations then and are absolute now."""
    return TruncatedNormal(0.02, a=-0.04, b=0.04) if config.initializer == "released" else Normal(0.01)


def query_key_value(config: ModelConfig) -> Initializer:
    return Normal(0.01)


def ffn_up(config: ModelConfig) -> Initializer:
    return Normal(0.02) if config.initializer == "released" else Normal(0.01)


def into_residual(config: ModelConfig) -> Initializer:
    """Return the two matrices that write into the residual stream; `released` scales them down with depth."""
    return Normal(0.02 / math.sqrt(2 * config.num_layers)) if config.initializer == "released" else Normal(0.01)
