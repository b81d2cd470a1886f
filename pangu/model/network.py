"""From a configuration and arrays to a network on a device."""

from collections.abc import Iterable, Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from pangu.config import ModelConfig
from pangu.device import check_dtype
from pangu.model import PanguAlpha
from pangu.parameters import EXPERT_TABLE, TARGET_TABLE, check_weights


def build(config: ModelConfig, weights: dict[str, np.ndarray] | None = None, seed: int = 1) -> PanguAlpha:
    """Return the network with the given weights (released names), or with random ones that the seed decides."""
    check_dtype(config)
    ms.set_seed(seed)
    network = PanguAlpha(config)
    if weights is not None:
        load_weights(network, weights)
    return network


def weights_of(network: PanguAlpha) -> list[Parameter]:
    """Return the parameters that a checkpoint holds: what is trained, and the table of experts."""
    fixed = [one for one in network.get_parameters() if one.name == EXPERT_TABLE and not one.requires_grad]
    return [*network.trainable_params(), *fixed]


def load_weights(network: PanguAlpha, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights in, after `check_weights`. A table of targets that they lack stays as it is: zero at first."""
    config = network.config
    if TARGET_TABLE not in weights:
        config = config.model_copy(update={"target_in_trunk": False})
    check_weights(config, weights)
    for parameter in weights_of(network):
        if parameter.name == TARGET_TABLE and TARGET_TABLE not in weights:
            continue
        parameter.set_data(Tensor(np.asarray(weights[parameter.name], np.float32)))


def read_weights(network: PanguAlpha) -> dict[str, np.ndarray]:
    """Return copies of the weights, fp32, by released name."""
    return {name: value.copy() for name, value in values_of(weights_of(network)).items()}


def values_of(parameters: Iterable[Parameter]) -> dict[str, np.ndarray]:
    """Return the values by name, to be used before the next step: on a CPU they are the memory that it writes into."""
    return {parameter.name: parameter.asnumpy() for parameter in parameters}
