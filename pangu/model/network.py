"""From a configuration and arrays to a network on a device."""

from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.device import check_dtype
from pangu.foundation.errors import UserError
from pangu.model import PanguAlpha


def build(config: ModelConfig, weights: dict[str, np.ndarray] | None = None, seed: int = 1) -> PanguAlpha:
    """The network with the given weights (released names), or with random ones that the seed decides."""
    check_dtype(config)
    ms.set_seed(seed)
    network = PanguAlpha(config)
    if weights is not None:
        load_weights(network, weights)
    return network


def check_weights(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]) -> None:
    """Raises UserError that names a weight which is missing, left over, or of another shape than the model's."""
    missing, foreign = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
    if missing:
        raise UserError(f"the weights lack {min(missing)!r} ({len(missing)} missing): do they fit the model.yaml?")
    if foreign:
        raise UserError(f"the model has no {min(foreign)!r} ({len(foreign)} such): do the weights fit the model.yaml?")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise UserError(f"{name}: the weights have shape {list(weights[name].shape)}, the model {list(shape)}")


def load_weights(network: PanguAlpha, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights in, after `check_weights`."""
    parameters = network.trainable_params()
    check_weights({parameter.name: parameter.shape for parameter in parameters}, weights)
    for parameter in parameters:
        parameter.set_data(Tensor(np.asarray(weights[parameter.name], np.float32)))


def read_weights(network: PanguAlpha) -> dict[str, np.ndarray]:
    """Copies of the weights, fp32, by released name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.trainable_params()}
