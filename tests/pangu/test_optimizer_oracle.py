"""Gradients, learning rates and updates are the original's; the textbook's Adam is the textbook's."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from pangu.formats.names import canonical_names
from pangu.model.network import build
from pangu.training.loss import Loss
from pangu.training.objectives.causal import Causal
from pangu.training.optimizer import AdamW, adam_scalars
from pangu.training.schedule import WarmupCosine
from pangu.training.step import TrainStep
from tests.pangu import oracle

# Its true gradient is 0: a constant added to all scores of a row changes nothing. Adam amplifies the noise.
NOISE = "attention.dense2.bias"


def fp32(value: float) -> Tensor:
    return Tensor(value, ms.float32)


def by_released_name(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    names = [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]
    return {ours: arrays[prefix + name] for name, ours in canonical_names(names).items()}


@pytest.fixture(scope="module")
def step(shared: Path):
    config, weights, arrays, meta = oracle.load(shared / "oracle" / "pangu_tiny_fp32_fastgelu.npz")
    network = build(config.model_copy(update={"dropout_rate": 0.0}), weights)
    network.set_train(True)
    optimizer = AdamW(network.trainable_params(), 0.9, 0.95)
    rows = arrays["packed/full_ids"].astype(np.int32)
    objective = Causal(meta["eod"], meta["pad"])
    return TrainStep(Loss(network, objective.in_graph()), optimizer, 1.0, 1), rows, objective.predictions(rows)


def test_gradients_equal_the_oracle(shared: Path, step) -> None:
    train_step, rows, predictions = step
    expected = by_released_name(dict(np.load(shared / "oracle" / "pangu_tiny_train.npz")), "grad/")
    parameters = train_step.optimizer.parameters
    assert {parameter.name for parameter in parameters} == expected.keys()
    value_and_grad = ms.jit(ms.value_and_grad(train_step.loss, None, parameters))
    _, gradients = value_and_grad(Tensor(rows), fp32(1 / predictions), Tensor(0, ms.int32))
    for parameter, gradient in zip(parameters, gradients):
        scale = np.abs(expected[parameter.name]).max()
        error = np.abs(gradient.asnumpy() - expected[parameter.name]).max()
        assert error <= (1e-5 if NOISE in parameter.name else 1e-4 * scale), parameter.name


def test_three_updates_equal_the_oracle(shared: Path, step) -> None:
    train_step, rows, predictions = step
    arrays = dict(np.load(shared / "oracle" / "pangu_tiny_train.npz"))
    schedule = WarmupCosine(1e-2, 1e-4, 2, 100)
    for index in range(3):
        scalars = adam_scalars(index, schedule(index), 0.9, 0.95, 1e-8, 0.1, bias_correction=False)
        loss, norm, updated = train_step(
            Tensor(rows),
            fp32(predictions),
            fp32(1.0),
            Tensor(0, ms.int32),
            fp32(scalars.learning_rate),
            fp32(scalars.epsilon),
            fp32(scalars.decay),
        )
        assert updated.asnumpy()
        np.testing.assert_allclose(loss.asnumpy(), arrays[f"step{index + 1}/loss"], atol=2e-5)
        np.testing.assert_allclose(norm.asnumpy(), arrays[f"step{index + 1}/global_norm"], rtol=1e-5)
        expected = by_released_name(arrays, f"step{index + 1}/param/")
        for parameter in train_step.optimizer.parameters:
            if NOISE not in parameter.name:
                np.testing.assert_allclose(parameter.asnumpy(), expected[parameter.name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "peak", "end"), [("2_6B", 1e-4, 1e-6), ("13B", 5e-5, 1e-6), ("200B", 6e-5, 6e-6)])
def test_learning_rates_equal_the_oracle(shared: Path, size: str, peak: float, end: float) -> None:
    arrays = np.load(shared / "oracle" / "pangu_tiny_train.npz")
    schedule = WarmupCosine(peak, end, 2000, 200_000)
    rates = [schedule(int(step)) for step in arrays["lr/steps"]]
    np.testing.assert_allclose(rates, arrays[f"lr/values_m{size}"], rtol=1e-6)  # those were computed in fp32


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_equals_a_plain_one(fused: bool, bias_correction: bool) -> None:
    random = np.random.default_rng(1)
    names = ["layer.weight", "layer.bias", "backbone.layernorm.gamma"]
    parameters = [Parameter(Tensor(random.normal(size=(5, 3)).astype(np.float32)), name=name) for name in names]
    weights = [parameter.asnumpy().astype(np.float64) for parameter in parameters]
    first, second = [np.zeros((5, 3)) for _ in names], [np.zeros((5, 3)) for _ in names]
    optimizer = AdamW(parameters, 0.9, 0.95)
    optimizer.fused = fused
    for step in range(4):
        gradients = [random.normal(size=(5, 3)).astype(np.float32) for _ in names]
        scalars = adam_scalars(step, 0.01, 0.9, 0.95, 1e-6, 0.1, bias_correction)
        values = [fp32(scalars.learning_rate), fp32(scalars.epsilon), fp32(scalars.decay)]
        optimizer(tuple(Tensor(gradient) for gradient in gradients), *values)
        for index, gradient in enumerate(gradients):
            first[index] = 0.9 * first[index] + 0.1 * gradient
            second[index] = 0.95 * second[index] + 0.05 * gradient.astype(np.float64) ** 2
            mean, square = first[index], second[index]
            if bias_correction:
                mean, square = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.95 ** (step + 1))
            decay = 0.1 if index == 0 else 0.0
            weights[index] -= 0.01 * (mean / (np.sqrt(square) + 1e-6) + decay * weights[index])
            np.testing.assert_allclose(parameters[index].asnumpy(), weights[index], rtol=0, atol=2e-6)
