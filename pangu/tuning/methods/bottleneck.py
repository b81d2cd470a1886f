"""Adapters behind attention and behind feed-forward, before the residual (Houlsby et al. 2019, arXiv 1902.00751).

y + up · gelu(down · y + down_bias) + up_bias. `up` and its bias are 0 at the start: the network computes what it did.
PEFT has no such method; the weights are written under the released names.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from pangu.config import ModelConfig
from pangu.generation.additions import Bottleneck
from pangu.model import PanguAlpha
from pangu.model.activation import ACTIVATIONS
from pangu.model.linear import Affine, Linear
from pangu.tuning.adapter_file import BOTTLENECK, bottleneck_places
from pangu.tuning.methods.insertion import freeze, stand_in, weight
from pangu.tuning.methods.method import Method, start_matrix
from pangu.tuning.tuning_settings import Settings


class BottleneckLinear(nn.Cell):
    """Stands in the place of a `Linear`, for training and for decoding."""

    def __init__(self, base: Linear, one: Bottleneck) -> None:
        super().__init__(auto_prefix=False)
        self.base, self.outputs, self.dtype = base, base.outputs, base.dtype
        self.down, self.down_bias, self.up, self.up_bias = map(weight, (one.down, one.down_bias, one.up, one.up_bias))
        self.added = tuple((f"{BOTTLENECK}.{name}", getattr(self, name)) for name in Bottleneck.__dataclass_fields__)
        self.into, self.out_of = Affine(transposed=True), Affine(transposed=True)
        self.activation = ACTIVATIONS["gelu_tanh"]()
        self.add = ops.Add()
        self.cast, self.reshape = ops.Cast(), ops.Reshape()

    def to(self, parameter: ms.Parameter) -> Tensor:
        return self.cast(parameter, self.dtype)

    def construct(self, x: Tensor) -> Tensor:
        y = self.base(x)
        rows = self.reshape(y, (-1, self.outputs))
        narrow = self.activation(self.into(rows, self.to(self.down), self.to(self.down_bias)))
        added = self.out_of(narrow, self.to(self.up), self.to(self.up_bias))
        return self.add(y, self.reshape(added, y.shape))


def start_bottleneck(outputs: int, width: int, seed: int, number: int) -> Bottleneck:
    """Return what the adapter with this number begins with."""
    zeros = [np.zeros(shape, np.float32) for shape in ((width,), (outputs, width), (outputs,))]
    return Bottleneck(start_matrix(outputs, width, seed, number), *zeros)


class Adapter(Method):
    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        for number, place in enumerate(bottleneck_places(config)):

            def behind(base: Linear, number: int = number) -> BottleneckLinear:
                return BottleneckLinear(
                    base, start_bottleneck(base.outputs, settings.bottleneck, settings.seed, number)
                )

            stand_in(network, place, behind)
        freeze(network, lambda name: f".{BOTTLENECK}." in name)
