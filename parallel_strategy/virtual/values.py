"""What kernels work on: the values of one layer, on one rank, for one micro-batch.

Values are named after the operator that makes them; `d.` before a name is a gradient. What a collective made of a value
stands beside it (`Values.sent`), and readers take that where it exists.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from parallel_strategy.graph.operator import Collective
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual import arithmetic as op
from parallel_strategy.virtual.batch import Tokens


class Store(Protocol):
    """The weights of one rank, and where their gradients are added."""

    def weight(self, layer: int, name: str) -> np.ndarray: ...

    def has(self, layer: int, name: str) -> bool: ...

    def rows(self, layer: int, name: str) -> int: ...

    def add_gradient(self, layer: int, name: str, gradient: np.ndarray) -> None: ...


@dataclass(slots=True)
class Stream:
    """What flows from layer to layer of one chunk, for one micro-batch on one rank: hidden states, then gradients."""

    hidden: np.ndarray | None = None
    gradient: np.ndarray | None = None


@dataclass(slots=True)
class Values:
    """One layer on one rank for one micro-batch. `tokens`: those of this rank's context-parallel slice; `own`: those of
    the residual stream, fewer under sequence parallelism."""

    model: ModelSpec
    store: Store
    stream: Stream
    layer: int
    kind: str
    tokens: Tokens
    own: Tokens
    tensor: int  # place in the tensor group
    tensors: int
    expert_tensor: int  # place among the ranks that split each expert
    first_word: int | None  # that this rank's part of the vocabulary begins with; None: it has the whole
    vocabulary: int  # words without padding
    divisor: float
    share: float  # of the loss's gradient that begins on this rank; less than 1 where gradients are sums over ranks
    partial: bool  # gradients of activations are sums over the tensor group
    biases_sum: bool  # `Shard.biases_sum`
    made: dict[str, np.ndarray] = field(default_factory=dict)
    sent: dict[str, np.ndarray] = field(default_factory=dict)
    loss: float = 0.0

    def read(self, name: str) -> np.ndarray:
        return self.sent[name] if name in self.sent else self.made[name]

    def weight(self, name: str) -> np.ndarray:
        return self.store.weight(self.layer, name)

    def has(self, name: str) -> bool:
        return self.store.has(self.layer, name)

    def bias(self, name: str) -> np.ndarray | None:
        return self.weight(name) if self.has(name) else None

    def gradient(self, name: str, value: np.ndarray) -> None:
        self.store.add_gradient(self.layer, name, value)

    def dropped(self, site: int) -> np.ndarray | float:
        """Return what dropout multiplies tokens of the residual stream with, [B, T, h]; sites are numbered as in
        `serial`."""
        rate, own = self.model.dropout_rate, self.own
        if not rate:
            return 1.0
        channels = np.arange(self.model.hidden_size)
        return op.dropout(rate, site, own.numbers, own.places, channels, dtype=own.counted.dtype.type)

    @property
    def offset(self) -> int:
        return self.first_word or 0

    def add(self, name: str, value: np.ndarray) -> None:
        self.made[name] = self.made[name] + value if name in self.made else value

    def mine(self, x: np.ndarray) -> np.ndarray:
        """Return this rank's tokens of what the whole tensor group has."""
        rows = self.own.ids.shape[1]
        return x if x.shape[1] == rows else x[:, self.tensor * rows : (self.tensor + 1) * rows]

    def among_all(self, x: np.ndarray) -> np.ndarray:
        """Return this rank's tokens at their place among those of the tensor group, the others zero: `mine`,
        backward."""
        rows, whole = self.own.ids.shape[1], self.tokens.ids.shape[1]
        if rows == whole:
            return x
        padded = np.zeros((x.shape[0], whole, *x.shape[2:]), x.dtype)
        padded[:, self.tensor * rows : (self.tensor + 1) * rows] = x
        return padded


Kernel = Callable[[Values], None]
KERNELS: dict[str, Kernel] = {}


def kernel(name: str) -> Callable[[Kernel], Kernel]:
    """Register what the program's kernel of this name does."""

    def register(function: Kernel) -> Kernel:
        KERNELS[name] = function
        return function

    return register


@dataclass(frozen=True, slots=True)
class Exchange:
    """The values that a collective takes; its results stand beside them. `along`: the dimension that is cut or joined;
    for all_to_all see `exchange.all_to_all`."""

    values: tuple[str, ...]
    along: int = 1
    prepare: Kernel | None = None
    maximum: bool = False


EXCHANGES: dict[str, Exchange] = {}  # of collectives that are not about the value they are named after


def exchange_of(node: Collective) -> Exchange:
    """Return the values of a block's collective, by its name."""
    name = node.name.removesuffix(".again.gradient")
    if name in EXCHANGES:
        return EXCHANGES[name]
    if name.endswith(".gradient"):
        return Exchange((f"d.{name.removesuffix('.gradient')}",))
    return Exchange((name,))
