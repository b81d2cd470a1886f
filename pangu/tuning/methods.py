"""Choose what is trained, and put adapters into a network from outside: no file of `pangu.model` knows them.

* full: every weight.
* lora: low-rank matrices beside chosen linear layers (Hu et al. 2021). On the query layer's own queries they adapt
  positions only, because no token enters there; its keys and values are adapted through dense2 and dense3.
* bitfit: biases and norms (Ben Zaken et al. 2022).
"""

import math
from collections.abc import Mapping

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.model.linear import Linear
from pangu.tuning.adapter_file import LoraMatrices, layers_of


class LoraLinear(nn.Cell):
    """Stands in the place of a `Linear`: y = base(x) + scale · (x Aᵀ) Bᵀ.

    A [rank, in] is uniform in ±1/√in (what kaiming's rule with a = √5 comes to), B [out, rank] is 0: at the start the
    layer computes what its base does, bit for bit.
    """

    def __init__(self, base: Linear, first: np.ndarray, second: np.ndarray, scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.scale = base, scale
        self.lora_a, self.lora_b = Parameter(Tensor(first)), Parameter(Tensor(second))
        self.narrow, self.widen = ops.MatMul(transpose_b=True), ops.MatMul(transpose_b=True)
        self.inputs, self.outputs, self.dtype = base.inputs, base.outputs, base.dtype
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def construct(self, x: Tensor) -> Tensor:
        rows = self.reshape(self.cast(x, self.dtype), (-1, self.inputs))
        narrow = self.narrow(rows, self.cast(self.lora_a, self.dtype))
        added = self.widen(narrow, self.cast(self.lora_b, self.dtype)) * self.scale
        return self.base(x) + self.reshape(added, (*x.shape[:-1], self.outputs))


def start_matrices(inputs: int, outputs: int, rank: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A and B of the layer with this number."""
    bound = 1 / math.sqrt(inputs)
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    return random.uniform(-bound, bound, (rank, inputs)).astype(np.float32), np.zeros((outputs, rank), np.float32)


def insert_lora(
    network: PanguAlpha, config: ModelConfig, modules: tuple[str, ...], rank: int, alpha: float, seed: int
) -> dict[str, LoraLinear]:
    """Put adapters beside the layers that `modules` mean, and freeze everything else -> {layer: adapter}."""
    cells = dict(network.cells_and_names())
    adapters: dict[str, LoraLinear] = {}
    for number, layer in enumerate(layers_of(config, modules)):
        parent, _, attribute = layer.rpartition(".")
        base = cells[layer]
        names = {parameter: parameter.name for parameter in base.get_parameters()}
        first, second = start_matrices(base.inputs, base.outputs, rank, seed, number)
        adapter = LoraLinear(base, first, second, alpha / rank)
        setattr(cells[parent], attribute, adapter)
        # MindSpore names a parameter after the attribute alone, so that all adapters would have one name.
        adapter.lora_a.name, adapter.lora_b.name = f"{layer}.lora_A", f"{layer}.lora_B"
        for parameter, name in names.items():
            parameter.name = name
        adapters[layer] = adapter
    for parameter in network.get_parameters():
        parameter.requires_grad = ".lora_" in parameter.name
    return adapters


def freeze_but_biases(network: PanguAlpha) -> None:
    """Train biases and norms alone."""
    for parameter in network.get_parameters():
        parameter.requires_grad = parameter.name.endswith((".bias", ".gamma", ".beta"))


def matrices_of(adapters: Mapping[str, LoraLinear], rank: int, alpha: float) -> LoraMatrices:
    """Return copies of the adapters' matrices."""
    pairs = {layer: (one.lora_a.asnumpy().copy(), one.lora_b.asnumpy().copy()) for layer, one in adapters.items()}
    return LoraMatrices(pairs, rank, alpha)


def trained(network: PanguAlpha) -> dict[str, np.ndarray]:
    """Return copies of what is trained, by name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.trainable_params()}


def load_trained(network: PanguAlpha, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy arrays into what is trained."""
    for parameter in network.trainable_params():
        parameter.set_data(ms.Tensor(arrays[parameter.name]))
