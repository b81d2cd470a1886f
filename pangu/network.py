"""From a configuration and arrays to a network on a device."""

import os
from collections.abc import Mapping

import numpy as np

os.environ.setdefault("GLOG_v", "3")  # this process only: errors of the framework, not its advice

import mindspore as ms
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.errors import UserError
from pangu.model import PanguAlpha


def use_device(target: str = "CPU") -> None:
    """Compiled graphs on this device. Raises UserError where MindSpore cannot use it."""
    try:
        # MindSpore's default on a CPU leaves nearly everything to one thread. (Its advertised replacement,
        # runtime.dispatch_threads_num, does something else: it made the step twice as slow.)
        ms.set_context(mode=ms.GRAPH_MODE, runtime_num_threads=len(os.sched_getaffinity(0)))
        if ms.get_context("device_target") != target:
            ms.set_device(target)
    except (RuntimeError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip("- ")), "")
        raise UserError(f"device {target!r} cannot be used here: {reason}") from None


def check_dtype(config: ModelConfig) -> None:
    """Raises UserError where the device in use cannot compute in the model's type."""
    if config.compute_dtype == "bf16" and ms.get_context("device_target") == "CPU":
        raise UserError("compute_dtype bf16: MindSpore has no bf16 kernels for a CPU; use fp32 (or fp16, slow)")


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
