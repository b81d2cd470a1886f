"""What fine-tuning may add to a network beside its weights; both engines compute with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Bottleneck:
    """y + up · gelu_tanh(down · y + down_bias) + up_bias in the place of y (Houlsby et al. 2019, arXiv 1902.00751).

    down fp32 [m, d], down_bias [m], up [d, m], up_bias [d].
    """

    down: np.ndarray
    down_bias: np.ndarray
    up: np.ndarray
    up_bias: np.ndarray


@dataclass(frozen=True)
class Additions:
    """bottlenecks: behind the two projections of every layer, by the name of the linear layer, or none at all.

    prefix: fp32 [layers, 2, n, d]: unscaled keys and values that every token of every row sees, or None.
    """

    bottlenecks: Mapping[str, Bottleneck] = field(default_factory=dict)
    prefix: np.ndarray | None = None

    @property
    def prefix_length(self) -> int:
        """Return the tokens of the prefix."""
        return 0 if self.prefix is None else self.prefix.shape[2]


NOTHING = Additions()
