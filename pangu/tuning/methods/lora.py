"""Low-rank matrices beside chosen linear layers (Hu et al. 2021, arXiv 2106.09685).

On the query layer's own queries they adapt positions only, because no token enters there; its keys and values are
adapted through dense2 and dense3.
"""

from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.model.linear import Linear
from pangu.training.compiled.forward_backward import LowRank
from pangu.tuning.adapter_file import LoraMatrices, layers_of, write_lora
from pangu.tuning.methods.insertion import freeze, stand_in, weight
from pangu.tuning.methods.method import Method, start_matrix
from pangu.tuning.tuning_settings import Settings


class LoraLinear(nn.Cell):
    """Stands in the place of a `Linear`: y = base(x) + scale · (x Aᵀ) Bᵀ.

    A [rank, in] is uniform in ±1/√in (what kaiming's rule with a = √5 comes to), B [out, rank] is 0: at the start the
    layer computes what its base does, bit for bit.
    """

    def __init__(self, base: Linear, first: np.ndarray, second: np.ndarray, scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.scale = base, scale
        self.lora_a, self.lora_b = weight(first), weight(second)
        self.added = (("lora_A", self.lora_a), ("lora_B", self.lora_b))
        self.narrow, self.widen = ops.MatMul(transpose_b=True), ops.MatMul(transpose_b=True)
        self.inputs, self.outputs, self.dtype = base.inputs, base.outputs, base.dtype
        self.scale_added, self.add = ops.Mul(), ops.Add()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def construct(self, x: Tensor) -> Tensor:
        rows = self.reshape(self.cast(x, self.dtype), (-1, self.inputs))
        narrow = self.narrow(rows, self.cast(self.lora_a, self.dtype))
        added = self.scale_added(self.widen(narrow, self.cast(self.lora_b, self.dtype)), self.scale)
        return self.add(self.base(x), self.reshape(added, (*x.shape[:-1], self.outputs)))


class Lora(Method):
    """The method. `adapters`: {layer: cell}."""

    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        self.adapters: dict[str, LoraLinear] = {}
        for number, layer in enumerate(layers_of(config, settings.modules)):

            def beside(base: Linear, number: int = number) -> LoraLinear:
                first = start_matrix(base.inputs, settings.rank, settings.seed, number)
                second = np.zeros((base.outputs, settings.rank), np.float32)
                return LoraLinear(base, first, second, settings.alpha / settings.rank)

            self.adapters[layer] = stand_in(network, layer, beside)
        freeze(network, lambda name: ".lora_" in name)

    def low_rank(self) -> dict[str, LowRank]:
        return {
            f"{layer}.weight": LowRank(one.lora_a.name, one.lora_b.name, one.scale)
            for layer, one in self.adapters.items()
        }

    def matrices(self) -> LoraMatrices:
        """Return copies of the adapters' matrices."""
        pairs = {
            layer: (one.lora_a.asnumpy().copy(), one.lora_b.asnumpy().copy()) for layer, one in self.adapters.items()
        }
        return LoraMatrices(pairs, self.settings.rank, self.settings.alpha)

    def write(self, folder: Path, base: str) -> None:
        write_lora(folder, self.config, self.matrices(), base, self.settings.modules)
