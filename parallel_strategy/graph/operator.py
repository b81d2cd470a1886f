"""The nodes that everything else reads: kernels, collectives, and the operators that own them.

An operator knows what it runs forward and backward on one rank, what it keeps for backward and which parameters it
owns. Counts are exact: FLOPs are 2 x multiply-adds, bytes are those of the tensors that cross device memory or a link.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np


class Phase(IntEnum):
    """The parts of a step that a pipeline schedule moves separately."""

    FORWARD = 0
    BACKWARD_INPUT = 1  # gradients of activations
    BACKWARD_WEIGHT = 2  # gradients of weights


@dataclass(frozen=True, slots=True)
class Kernel:
    """One device kernel. A matmul has `batch` products of m x n x k; a vector kernel only moves `bytes`.

    `flash` marks an attention kernel that is priced by the framework's flash efficiency; `launches` is how many kernels
    the host issues for it; `kind` one of `spec.framework.TENSORS`, for devices on which kinds were measured.
    """

    name: str
    phase: Phase
    bytes: float
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 1
    flops: float = 0.0
    flash: bool = False
    launches: float = 1.0
    kind: str = ""
    tokens: str = "m"  # which of m, n, k count tokens: rows and what is summed over, which need no alignment
    ring: bool = False  # attention to keys that pass by in parts
    head: float = 0.0  # of attention: size of a head


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective of this rank's group along `axis`.

    `bytes`: of the whole tensor, so an all-gather of 8 shards of 1 MB has 8 MB; for all_to_all what one rank sends;
    for send the message.
    """

    name: str
    op: str  # all_reduce, all_gather, reduce_scatter, all_to_all, send, receive
    axis: str  # of `Groups`: tp, cp, ep, pp, weights, shard, ...
    bytes: float
    phase: Phase
    dtype: str = "fp16"


@dataclass(frozen=True, slots=True)
class Saved:
    """A tensor kept on this rank from forward to backward. `attention` marks what selective recompute drops."""

    name: str
    bytes: float
    attention: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """A weight as one rank holds it. `expert` weights are reduced over dp x cp / ep only.

    `shape` is this rank's; `split` the dimension that tensor parallelism cut (None: every rank holds the whole).
    `partial_over_tp`: a whole weight whose gradient is only this rank's part of a sum over the tensor group, because
    each rank saw other tokens or other heads.
    """

    name: str
    elements: float
    expert: bool = False
    replicated_over_tp: bool = False
    shape: tuple[int, ...] = ()
    split: int | None = None
    partial_over_tp: bool = False


@dataclass(slots=True)
class Block:
    """A run of operators that repeats: a layer, the embedding, the head.

    `forward` and `backward` are the nodes in execution order; `kernels` and `collectives` are the same nodes by kind.
    """

    kind: str
    kernels: list[Kernel] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    forward: list[Kernel | Collective] = field(default_factory=list)
    undoing: list[list[Kernel | Collective]] = field(default_factory=list)  # backward of each operator, as built
    saved: list[Saved] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    input_bytes: float = 0.0  # of the activation that enters, as this rank keeps it
    ring_bytes: float = 0.0  # keys, values and results of every step of ring attention, while its forward runs

    def table(self) -> "KernelTable":
        return KernelTable.of(self.kernels)

    @property
    def backward(self) -> list[Kernel | Collective]:
        """Return the operators undone from the last one back."""
        return [node for nodes in reversed(self.undoing) for node in nodes]

    @property
    def saved_bytes(self) -> float:
        return sum(tensor.bytes for tensor in self.saved)

    @property
    def attention_bytes(self) -> float:
        """Return part of `saved_bytes` that selective recompute drops."""
        return sum(tensor.bytes for tensor in self.saved if tensor.attention)

    def elements(self, expert: bool) -> float:
        return sum(parameter.elements for parameter in self.parameters if parameter.expert == expert)

    def flops(self, phase: Phase | None = None) -> float:
        return sum(kernel.flops for kernel in self.kernels if phase is None or kernel.phase == phase)


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Kernels as arrays, so that a block is priced in a handful of numpy calls."""

    phase: np.ndarray
    bytes: np.ndarray
    m: np.ndarray
    n: np.ndarray
    k: np.ndarray
    batch: np.ndarray
    flops: np.ndarray
    flash: np.ndarray
    attention: np.ndarray  # inside the part that selective recompute runs again
    launches: np.ndarray
    flash_ring: np.ndarray  # attention to keys that pass by in parts
    flash_head: np.ndarray  # of attention: size of a head
    tokens: np.ndarray  # [m n k, kernel] whether the size counts tokens
    kinds: tuple[str, ...] = ()  # empty where no kernel has a kind

    @classmethod
    def of(cls, kernels: list[Kernel]) -> "KernelTable":
        rows = np.array(
            [
                (
                    x.phase,
                    x.bytes,
                    x.m,
                    x.n,
                    x.k,
                    x.batch,
                    x.flops,
                    x.flash,
                    x.name.startswith("attention.core"),
                    x.launches,
                    x.ring,
                    x.head,
                )
                for x in kernels
            ],
            dtype=np.float64,
        ).reshape(-1, 12)
        columns: list[Any] = [rows[:, i] for i in range(12)]
        for index in (7, 8, 10):
            columns[index] = columns[index].astype(bool)
        columns.append(np.array([[size in kernel.tokens for kernel in kernels] for size in "mnk"], dtype=bool))
        kinds = tuple(kernel.kind for kernel in kernels)
        columns.append(kinds if any(kinds) else ())
        return cls(*columns)
