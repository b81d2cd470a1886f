"""Writes operators into a block: each call adds an operator's forward and backward nodes, what it keeps, its weights.

The order of calls is the order of execution; backward runs the operators from the last one back.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parallel_strategy.graph.operator import Block, Collective, Kernel, Parameter, Phase, Saved
from parallel_strategy.spec.framework import TENSORS, Composed

# a product's own m, n, k as sizes of its gradients' products: x' = y' w^T is m x k x n, w' = x^T y' is k x n x m
INPUT_GRADIENT = str.maketrans("mnk", "mkn")
WEIGHT_GRADIENT = str.maketrans("mnk", "knm")
CONJUGATE = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather", "all_to_all": "all_to_all"}


@dataclass(slots=True)
class BlockBuilder:
    """`element` is the bytes of one activation element, `dtype` its name in collectives."""

    block: Block
    element: int
    dtype: str
    gradient_bytes: float = 0.0  # of the buffer that every micro-batch adds its weight gradients to
    fused_accumulation: bool = True
    partial: bool = False  # gradients between a forward collective's conjugate and the next are sums over tp
    composed: Mapping[str, Composed] = field(default_factory=dict)

    def _add(self, forward: list[Kernel | Collective], backward: list[Kernel | Collective]) -> None:
        block = self.block
        block.forward += forward
        block.undoing.append(backward)
        for node in (*forward, *backward):
            if isinstance(node, Kernel):
                block.kernels.append(node)
            else:
                block.collectives.append(node)

    def matmul(
        self,
        name: str,
        m: int,
        n: int,
        k: int,
        *,
        batch: int = 1,
        weights: bool = True,
        bias: bool = False,
        expert: bool = False,
        split: str | None = None,
        partial_over_tp: bool = False,
        tokens: str = "m",
    ) -> None:
        """Add y[m, n] = x[m, k] w[k, n], `batch` of them. Without weights both operands are activations (scores,
        context). `split`: tensor parallelism cuts the weight's `columns` (n) or `rows` (k). `tokens`: which of m, n, k
        count tokens."""
        of_input, of_weight = tokens.translate(INPUT_GRADIENT), tokens.translate(WEIGHT_GRADIENT)
        flops = 2.0 * m * n * k * batch
        moved = float(self.element * batch) * (m * k + k * n + m * n)
        weight_phase = Phase.BACKWARD_WEIGHT if weights else Phase.BACKWARD_INPUT
        # a 32-bit buffer is read and written again, by the product itself or by a kernel of its own
        accumulated = (
            2.0 * k * n * batch * self.gradient_bytes if weights and self.gradient_bytes > self.element else 0.0
        )
        fused = accumulated if self.fused_accumulation else 0.0
        backward: list[Kernel | Collective] = [
            Kernel(f"{name}.input_gradient", Phase.BACKWARD_INPUT, moved, m, k, n, batch, flops, tokens=of_input),
            Kernel(f"{name}.weight_gradient", weight_phase, moved + fused, k, n, m, batch, flops, tokens=of_weight),
        ]
        if accumulated and not fused:
            backward.append(Kernel(f"{name}.accumulate", Phase.BACKWARD_WEIGHT, accumulated))
        forward: list[Kernel | Collective] = [Kernel(name, Phase.FORWARD, moved, m, n, k, batch, flops, tokens=tokens)]
        if bias:
            moved_bias = float(self.element) * batch * m * n
            if parts := self.composed.get("bias"):
                forward += _kernels(f"{name}.bias", Phase.FORWARD, parts.forward, moved_bias)
                backward += _kernels(f"{name}.bias_gradient", Phase.BACKWARD_WEIGHT, parts.backward, moved_bias)
            else:
                backward.append(Kernel(f"{name}.bias_gradient", Phase.BACKWARD_WEIGHT, moved_bias))
        self._add(forward, backward)
        lead = (batch,) if expert else ()
        if weights:
            cut = None if split is None else len(lead) + (split == "columns")
            self.weight(f"{name}.weight", (*lead, k, n), expert=expert, split=cut, partial_over_tp=partial_over_tp)
        if bias:
            self.weight(f"{name}.bias", (*lead, n), expert=expert, split=len(lead) if split == "columns" else None)

    def vector(
        self,
        name: str,
        forward: float,
        backward: float,
        *,
        launches: float = 1,
        backward_launches: float = 1,
        size: float = 0.0,
    ) -> None:
        """Add an element-wise or reducing operator: bytes that it reads and writes, forward and backward. `size`: of
        its main tensor, over which the kernels run that it is composed of where the framework says so."""
        if size and (parts := self.composed.get(name.rsplit(".", 1)[-1])):
            self._add(
                _kernels(name, Phase.FORWARD, parts.forward, size),
                _kernels(f"{name}.gradient", Phase.BACKWARD_INPUT, parts.backward, size),
            )
            return
        undo: list[Kernel | Collective] = []
        if backward_launches:
            undo.append(Kernel(f"{name}.gradient", Phase.BACKWARD_INPUT, backward, launches=backward_launches))
        self._add([Kernel(name, Phase.FORWARD, forward, launches=launches)] if launches else [], undo)

    def flash(self, name: str, flops: float, moved: float, *, ring: bool, head: float) -> None:
        """Add fused attention; backward computes the scores again and has 5 products for 2 (Dao et al. 2022)."""
        of_both: dict[str, Any] = {"flops": flops, "flash": True, "ring": ring, "head": head}
        self._add(
            [Kernel(name, Phase.FORWARD, moved, launches=2, **of_both)],
            [
                Kernel(
                    f"{name}.gradient", Phase.BACKWARD_INPUT, 2 * moved, launches=3, **of_both | {"flops": 2.5 * flops}
                )
            ],
        )

    def communicate(
        self, name: str, op: str, axis: str, size: float, *, backward: str | None = "conjugate", dtype: str = ""
    ) -> None:
        """Add a collective of forward and what it becomes in backward (`None`: nothing). `dtype`: absent,
        activations'."""
        undo: list[Kernel | Collective] = []
        if backward is not None:
            back = CONJUGATE[op] if backward == "conjugate" else backward
            undo.append(Collective(f"{name}.gradient", back, axis, size, Phase.BACKWARD_INPUT, dtype or self.dtype))
        self._add([Collective(name, op, axis, size, Phase.FORWARD, dtype or self.dtype)], undo)

    def communicate_backward(self, name: str, op: str, axis: str, size: float) -> None:
        self._add([], [Collective(f"{name}.gradient", op, axis, size, Phase.BACKWARD_INPUT, self.dtype)])

    def keep(self, name: str, size: float, *, attention: bool = False) -> None:
        if size:
            self.block.saved.append(Saved(name, size, attention))

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        expert: bool = False,
        split: int | None = None,
        partial_over_tp: bool = False,
    ) -> None:
        """Add a weight of this shape on this rank."""
        replicated = split is None
        self.block.parameters.append(
            Parameter(name, float(math.prod(shape)), expert, replicated, shape, split, partial_over_tp)
        )


def _kernels(name: str, phase: Phase, counts: Mapping[str, float], size: float) -> list[Kernel | Collective]:
    """Return one node for all kernels of a kind."""
    return [
        Kernel(f"{name}.{kind}", phase, count * TENSORS[kind] * size, launches=count, kind=kind)
        for kind, count in counts.items()
    ]
