"""Patterns of attention: the mask is the definition, both engines and the full forward agree, and training takes it."""

from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.fill import fill
from pangu.generation.likelihood import score
from pangu.model.attention_mask import CausalMask
from pangu.model.network import build, read_weights
from pangu.training.objectives.causal import Causal
from tests.pangu import small_model

END, LENGTH = 9, 24
PATTERNS = [
    {"pattern": "sliding_window", "span": 5},
    {"pattern": "strided", "span": 4},
    {"pattern": "fixed", "span": 6, "summary": 2},
    {"pattern": "sliding_window", "span": 1},
    {"pattern": "fixed", "span": 1},
    {"pattern": "sliding_window", "span": 1000},
]
NAMES = [f"{one['pattern']}-{one['span']}" for one in PATTERNS]


def config_of(attention: dict, **fields: object) -> ModelConfig:
    sizes = {"num_layers": 3, "hidden_size": 24, "num_heads": 3, "ffn_hidden_size": 48, "vocab_size": 60}
    told = {
        **sizes,
        "seq_length": LENGTH,
        "compute_dtype": "fp32",
        "dropout_rate": 0.0,
        "attention": attention,
        **fields,
    }
    return ModelConfig.from_fields(told, "test")


def seen_by(asking: int, place: int, pattern: str, span: int, summary: int = 1) -> bool:
    """Say the definition, place by place."""
    if place > asking:
        return False
    if pattern == "sliding_window":
        return place > asking - span
    if pattern == "strided":
        return place > asking - span or (asking - place) % span == 0
    return place // span == asking // span or span - summary <= place % span


@pytest.mark.parametrize("attention", PATTERNS, ids=NAMES)
def test_the_mask_is_the_definition_in_each_document(attention: dict) -> None:
    ids = np.ones((2, LENGTH), np.int32)
    ids[1, [6, 16]] = END
    _, bias = CausalMask(END, attention=config_of(attention).attention)(Tensor(ids))
    seen = bias.asnumpy()[:, 0] == 0
    for row, bounds in enumerate(((0, LENGTH), (0, 7, 17, LENGTH))):
        expected = np.zeros((LENGTH, LENGTH), bool)
        for first, end in pairwise(bounds):
            for asking in range(first, end):
                for place in range(first, asking + 1):
                    expected[asking, place] = seen_by(asking - first, place - first, **attention)
        assert (seen[row] == expected).all()


@pytest.mark.parametrize("attention", PATTERNS, ids=NAMES)
def test_both_engines_see_what_the_full_forward_sees(attention: dict) -> None:
    config = config_of(attention)
    weights, cell = small_model.network_of(config)
    ids = np.random.default_rng(6).integers(10, 60, LENGTH).astype(np.int32)
    given, _, _, positions, queries, bias = Causal(None, 0, config.attention).in_graph()(
        Tensor(np.append(ids, 0)[None])
    )
    logits = cell(given, positions, queries, bias, Tensor(0, ms.int32)).asnumpy()[0].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    expected = logits[np.arange(2, LENGTH - 1), ids[3:]]
    for engine in ("compiled", "mindspore"):
        (found,) = score(Generator(config, weights, engine=engine), [(ids[:3], ids[3:])])
        np.testing.assert_allclose(found.log_probabilities, expected, rtol=0, atol=1e-5)
    if attention["span"] >= LENGTH:  # nothing is hidden: the bits of full attention
        full = Generator(config_of({}), weights)
        same = Generator(config, weights)
        assert (
            score(full, [(ids[:3], ids[3:])])[0].log_probabilities
            == score(same, [(ids[:3], ids[3:])])[0].log_probabilities
        ).all()


def test_what_a_pattern_does_not_go_with_is_one_line() -> None:
    for fields, message in (
        ({"pattern": "sliding_window"}, "give one"),
        ({"span": 4}, "pattern is 'full'"),
        ({"pattern": "fixed", "span": 4, "summary": 5}, "a block has span = 4"),
        ({"pattern": "strided", "span": 4, "summary": 2}, "goes with the pattern fixed"),
        ({"summary": 2}, "goes with the pattern fixed"),
        ({"pattern": "strided", "span": 0}, "span"),
        ({"pattern": "slidingwindow", "span": 3}, "pattern"),
    ):
        with pytest.raises(UserError, match=message):
            config_of(fields)
    config = config_of({"pattern": "strided", "span": 4})
    generator = Generator(config, read_weights(build(config)))
    with pytest.raises(UserError, match="gaps need attention"):
        fill(generator, [3, None, 4], GenerationOptions(temperature=0))
