"""The serial model that strategies are proved against is pangu's network: logits, loss, gradients, updates."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.model.attention_mask import CausalMask
from pangu.model.network import build, read_weights
from pangu.training.loss import Loss
from pangu.training.objectives.causal import CausalBatch
from pangu.training.optimizer import AdamW
from parallel_strategy.mindspore.pangu_network import is_turned, released_name
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.arithmetic import MASKED_SCORE
from parallel_strategy.virtual.batch import END_OF_DOCUMENT, PAD, Tokens, draw_rows, predictions, tokens_of
from parallel_strategy.virtual.serial import Serial, Weights, draw_weights, logits_of, loss_and_gradients, shapes
from tests.pangu import oracle

SIZES = {
    "num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_hidden_size": 64, "seq_length": 16, "vocab_size": 48,
    "compute_dtype": "fp32", "dropout_rate": 0.0,
}  # fmt: skip


def to_released(model: ModelSpec, weights: Weights) -> dict[str, np.ndarray]:
    query_layer = model.num_layers - 1 if model.query_layer else None
    return {
        released_name(layer, name, query_layer): weight.T if is_turned(name) else weight
        for (layer, name), weight in weights.items()
    }


@pytest.fixture(
    scope="module",
    params=[
        {"query_layer": True, "final_norm": "before_query", "activation": "gelu_tanh"},
        {"query_layer": True, "final_norm": "after_query", "activation": "fast_gelu"},
        {"query_layer": False, "activation": "gelu_erf"},
    ],
    ids=["pangu", "final_norm_after_query", "gpt"],
)
def models(request):
    model = ModelSpec(**SIZES, **request.param)
    weights = draw_weights(model, np.float32, seed=5)
    network = build(ModelConfig(**SIZES, **request.param), to_released(model, weights))
    network.set_train(True)
    rows = draw_rows(4, 16, 48, seed=2).astype(np.int32)
    assert (rows == END_OF_DOCUMENT).any() and (rows == PAD).any()
    return model, weights, network, rows


def test_logits_are_those_of_pangu(models) -> None:
    model, weights, network, rows = models
    ids = Tensor(rows[:, :-1])
    positions, penalty = CausalMask(END_OF_DOCUMENT)(ids)
    expected = network(ids, positions, positions, penalty, Tensor(0, ms.int32)).asnumpy()
    np.testing.assert_allclose(logits_of(model, weights, tokens_of(rows, np.float32)), expected, rtol=0, atol=1e-5)
    # the reference is float64's; float32 is not equal to it by chance
    exact = {name: weight.astype(np.float64) for name, weight in weights.items()}
    np.testing.assert_allclose(logits_of(model, exact, tokens_of(rows, np.float64)), expected, rtol=0, atol=1e-5)


def test_loss_gradients_and_updates_are_those_of_pangu(models) -> None:
    model, weights, network, rows = models
    adam = Adam(epsilon=1e-6)
    serial = Serial(model, weights, adam)
    optimizer = AdamW(network.trainable_params(), adam.beta1, adam.beta2)
    forward = Loss(network, CausalBatch(END_OF_DOCUMENT, PAD))
    value_and_grad = ms.jit(ms.value_and_grad(forward, None, optimizer.parameters))
    scalars = [Tensor(value, ms.float32) for value in (adam.learning_rate, adam.epsilon, adam.decay)]
    divisor = predictions(rows)
    for _ in range(2):
        summed, gradients = value_and_grad(Tensor(rows), Tensor(0, ms.int32))
        loss, ours = loss_and_gradients(model, serial.weights, tokens_of(rows, np.float32), divisor)
        assert loss == pytest.approx(float(summed.asnumpy()) / divisor, abs=1e-5)
        named = to_released(model, ours)
        for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
            expected = gradient.asnumpy() / divisor
            np.testing.assert_allclose(named[parameter.name], expected, rtol=0, atol=1e-5, err_msg=parameter.name)
        step = serial.step(rows)
        factor = adam.clip_factor(step.norm) / divisor
        optimizer(tuple(gradient * factor for gradient in gradients), *scalars)
        updated = read_weights(network)
        for name, weight in to_released(model, serial.weights).items():
            np.testing.assert_allclose(weight, updated[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("file", ["pangu_tiny_fp32_gelu", "pangu_tiny_fp32_fastgelu_pipeline2"])
def test_loss_and_logits_are_those_of_the_original_code(shared: Path, file: str) -> None:
    config, released, arrays, meta = oracle.load(shared / "oracle" / f"{file}.npz")
    model = ModelSpec(**{**config.model_dump(), "dropout_rate": 0.0})
    weights = {}
    for layer, name in shapes(model):
        weight = released[released_name(layer, name, model.num_layers - 1)].astype(np.float64)
        weights[layer, name] = weight.T if is_turned(name) else weight
    ids = arrays["packed/full_ids"]
    tokens = Tokens(
        ids[:, :-1],
        ids[:, 1:],
        arrays["packed/position_ids"],
        (ids[:, :-1] != meta["pad"]).astype(np.float64),
        (1.0 - arrays["packed/attention_mask"]) * MASKED_SCORE,
        np.arange(len(ids)),
    )
    np.testing.assert_allclose(logits_of(model, weights, tokens), arrays["packed/logits"], rtol=0, atol=2e-5)
    loss, _ = loss_and_gradients(model, weights, tokens, tokens.counted.sum() + 1e-5)
    assert loss == pytest.approx(float(arrays["packed/loss"]), abs=1e-5)
