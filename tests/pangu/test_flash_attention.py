"""Ascend's fused attention gets the same queries, keys, values and mask that the composed one computes with.

No CPU has the kernel: a plain one that follows its documentation (mask true = hidden, layout BNSD) stands in for it.
"""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.model.attention_mask import CausalMask
from pangu.model.network import build

CONFIG = ModelConfig(
    num_layers=3, hidden_size=32, num_heads=4, ffn_hidden_size=64, seq_length=12, vocab_size=40, compute_dtype="fp16"
)


def documented_kernel(
    query: Tensor, key: Tensor, value: Tensor, shift: None, dropped: None, padding: None, hidden: Tensor
) -> tuple[None, None, None, Tensor]:
    assert hidden.dtype == ms.uint8
    assert hidden.shape == (query.shape[0], 1, query.shape[2], key.shape[2])
    assert query.dtype == key.dtype == value.dtype == ms.float16
    scores = np.einsum("bhqd,bhkd->bhqk", query.asnumpy().astype(np.float32), key.asnumpy())
    scores = np.where(hidden.asnumpy() == 1, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    heads = np.einsum("bhqk,bhkd->bhqd", weights, value.asnumpy().astype(np.float32)).astype(np.float16)
    return None, None, None, Tensor(heads)


@pytest.fixture
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("end_of_document", [None, 9])
def test_fused_attention_equals_the_composed(pynative, end_of_document: int | None) -> None:
    network = build(CONFIG)
    network.set_train(False)
    random = np.random.default_rng(2)
    ids = random.integers(10, 40, (2, 12)).astype(np.int32)
    ids[0, 4] = ids[1, 7] = 9
    positions, bias = CausalMask(end_of_document)(Tensor(ids))
    inputs = (Tensor(ids), positions, positions, bias, Tensor(0, ms.int32))
    composed = network(*inputs).asnumpy()
    calls = []
    backbone = network.backbone
    for layer in [*backbone.blocks, backbone.top_query_layer]:
        assert not layer.attention.fused  # what this machine chose
        kernel = layer.attention.flash_attention.kernel
        assert (kernel.head_num, kernel.scale_value) == (4, 1.0)
        layer.attention.fused = True
        layer.attention.flash_attention.kernel = lambda *given: calls.append(1) or documented_kernel(*given)
    fused = network(*inputs).asnumpy()
    assert len(calls) == CONFIG.num_layers
    np.testing.assert_allclose(fused, composed, rtol=0, atol=2e-2)


def test_dropout_of_probabilities_in_training_is_composed(pynative) -> None:
    network = build(CONFIG)
    network.set_train(True)
    for layer in [*network.backbone.blocks, network.backbone.top_query_layer]:
        layer.attention.fused = True
        layer.attention.flash_attention.kernel = lambda *given: pytest.fail("fused in training")
    ids = Tensor(np.full((1, 12), 11, np.int32))
    positions, bias = CausalMask(9)(ids)
    logits, again, other = (
        network(ids, positions, positions, bias, Tensor(seed, ms.int32)).asnumpy() for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(logits, again)
    assert (logits != other).any()
