"""Train weights of the network itself: all, or biases and norms (BitFit, Ben Zaken et al. 2022)."""

from pangu.config import ModelConfig
from pangu.model import PanguAlpha
from pangu.tuning.methods.insertion import freeze
from pangu.tuning.methods.method import Method
from pangu.tuning.tuning_settings import Settings


class Full(Method):
    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        freeze(network, lambda name: True)


class BitFit(Method):
    def insert(self, network: PanguAlpha, config: ModelConfig, settings: Settings) -> None:
        freeze(network, lambda name: name.endswith((".bias", ".gamma", ".beta")))
