"""What every method of fine-tuning can do."""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from mindspore import nn

from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.training.compiled.forward_backward import LowRank
from pangu.tuning import adapter_file
from pangu.tuning.methods.insertion import arrays_of
from pangu.tuning.tuning_settings import Settings


class Method(ABC):
    """What is trained of a network, and what stands in it."""

    def __init__(
        self, network: PanguAlpha, config: ModelConfig, settings: Settings, start: np.ndarray | None = None
    ) -> None:
        """start: what virtual tokens begin with (`pangu.tuning.soft_prompt`); the other methods need none."""
        self.network, self.config, self.settings, self.start = network, config, settings, start
        self.insert(network, config, settings)

    @abstractmethod
    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        """Put in what is trained, and freeze the rest."""

    def batch(self, objective: nn.Cell) -> nn.Cell:
        """Return what makes a batch for the changed network; objective: what makes one for the network as it was."""
        return objective

    def low_rank(self) -> dict[str, LowRank]:
        """Return what compiled steps must know of matrices that are trained as a low-rank product."""
        return {}

    def write(self, folder: Path, base: str) -> None:
        """Write what was trained, as PEFT does where it has the method."""
        adapter_file.save_tensors(folder / adapter_file.TRAINED, arrays_of(self.network.trainable_params()), {})


def start_matrix(inputs: int, outputs: int, seed: int, number: int) -> np.ndarray:
    """Return the first matrix [outputs, inputs] of the adapter with this number, uniform in ±1/√inputs."""
    bound = 1 / math.sqrt(inputs)
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    return random.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
