"""The serial model that strategies are proved against is pangu's network: logits, loss, gradients, updates."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.loss import PretrainLoss
from pangu.model.visibility import Visibility
from pangu.network import build, read_weights
from pangu.optimizer import AdamW
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual.adam import Adam
from parallel_strategy.virtual.batch import END_OF_DOCUMENT, PAD, draw_rows, predictions, tokens_of
from parallel_strategy.virtual.serial import Name, Serial, Weights, draw_weights, logits_of, loss_and_gradients

SIZES = {
    "num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_hidden_size": 64, "seq_length": 16, "vocab_size": 48,
    "compute_dtype": "fp32", "dropout_rate": 0.0,
}  # fmt: skip
LINEAR = {
    "attention.query": "attention.dense1", "attention.key": "attention.dense2", "attention.value": "attention.dense3",
    "attention.output": "attention.projection", "feed_forward.up": "output.mapping",
    "feed_forward.down": "output.projection",
}  # fmt: skip
NORMS = {"attention.norm": "layernorm1", "feed_forward.norm": "layernorm2"}
TABLES = {
    "embedding.word.weight": "word_embedding", "embedding.position.weight": "position_embedding",
    "query_embedding.weight": "top_query_embedding",
}  # fmt: skip


def released_name(model: ModelSpec, name: Name) -> tuple[str, bool]:
    """(the released name, whether it is stored the other way round)."""
    layer, (part, _, kind) = name[0], name[1].rpartition(".")
    if name[1] in TABLES:
        return f"backbone.{TABLES[name[1]]}.embedding_table", False
    if part in ("final.norm", "head.norm"):
        return f"backbone.layernorm.{'gamma' if kind == 'weight' else 'beta'}", False
    query = model.query_layer and layer == model.num_layers - 1
    where = "backbone.top_query_layer" if query else f"backbone.blocks.{layer}"
    if part in NORMS:
        return f"{where}.{NORMS[part]}.{'gamma' if kind == 'weight' else 'beta'}", False
    return f"{where}.{LINEAR[part]}.{kind}", "dense" in LINEAR[part] and kind == "weight"


def to_released(model: ModelSpec, weights: Weights) -> dict[str, np.ndarray]:
    result = {}
    for name, weight in weights.items():
        released, turned = released_name(model, name)
        result[released] = weight.T if turned else weight
    return result


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
    positions, penalty = Visibility(END_OF_DOCUMENT)(ids)
    expected = network(ids, positions, penalty, Tensor(0, ms.int32)).asnumpy()
    np.testing.assert_allclose(logits_of(model, weights, tokens_of(rows, np.float32)), expected, rtol=0, atol=1e-5)
    # the reference is float64's; float32 is not equal to it by chance
    exact = {name: weight.astype(np.float64) for name, weight in weights.items()}
    np.testing.assert_allclose(logits_of(model, exact, tokens_of(rows, np.float64)), expected, rtol=0, atol=1e-5)


def test_loss_gradients_and_updates_are_those_of_pangu(models) -> None:
    model, weights, network, rows = models
    adam = Adam(epsilon=1e-6)
    serial = Serial(model, weights, adam)
    optimizer = AdamW(network.trainable_params(), adam.beta1, adam.beta2)
    forward = PretrainLoss(network, END_OF_DOCUMENT, PAD)
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
