"""The gradients that are written out for the CPU are those that the framework derives."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from pangu.config import ModelConfig
from pangu.model import cpu
from pangu.model.layer_norm import EPSILON, Normalisation
from pangu.model.linear import Affine
from pangu.model.network import build
from pangu.training.loss import Loss
from pangu.training.objectives.causal import CausalBatch


@pytest.fixture(params=[ms.jit, lambda function: function], ids=["graph", "pynative"])
def compiled(request):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield request.param
    ms.set_context(mode=ms.GRAPH_MODE)


def random(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def weighted_sum(cell: nn.Cell, weights: Tensor):
    """A scalar of the cell's (first) output in which every element counts differently."""

    def function(*inputs: Tensor) -> Tensor:
        out = cell(*inputs)
        return ((out[0] if isinstance(out, tuple) else out) * weights).sum()

    return function


def assert_same_gradients(compiled, ours: nn.Cell, framework: nn.Cell, inputs: list[Tensor], weights: Tensor) -> None:
    cells = (ours, framework)
    gradients = [compiled(ms.grad(weighted_sum(cell, weights), (0, 1, 2)))(*inputs) for cell in cells]
    for actual, expected in zip(*gradients, strict=True):
        scale = np.abs(expected.asnumpy()).max()
        np.testing.assert_allclose(actual.asnumpy(), expected.asnumpy(), rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("transposed", [True, False])
def test_the_gradient_of_a_linear_layer(compiled, transposed: bool) -> None:
    weight = random(7, 5) if transposed else random(5, 7)
    assert_same_gradients(
        compiled, cpu.Affine(transposed), Affine(transposed), [random(11, 5), weight, random(7)], random(11, 7)
    )


@pytest.mark.parametrize("shape", [(11, 16), (2, 3, 16)])
def test_the_gradient_of_layer_normalisation(compiled, shape: tuple[int, ...]) -> None:
    inputs = [random(*shape) * 3 + 1, random(16), random(16)]
    assert_same_gradients(compiled, cpu.Normalisation(EPSILON), Normalisation(EPSILON), inputs, random(*shape) + 0.5)


def test_recomputation_changes_no_gradient() -> None:
    config = ModelConfig(
        num_layers=3, hidden_size=16, num_heads=2, ffn_hidden_size=32, seq_length=8, vocab_size=40, compute_dtype="fp32"
    )
    rows = Tensor(np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32))
    results = []
    for recompute in (False, True):
        network = build(config, seed=3)
        network.set_train(True)
        if recompute:
            for block in network.backbone.blocks:
                block.recompute()
        loss = Loss(network, CausalBatch(end_of_document=9, pad=6))
        gradients = ms.grad(loss, None, network.trainable_params())(rows, Tensor(5, ms.int32))
        results.append([gradient.asnumpy() for gradient in gradients])
    for kept, recomputed in zip(*results, strict=True):
        np.testing.assert_allclose(recomputed, kept, rtol=0, atol=1e-6 + 1e-5 * np.abs(kept).max())
