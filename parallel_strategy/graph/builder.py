"""Writes operators into a block: each call adds an operator's forward and backward kernels, what it keeps and its
weights."""

from dataclasses import dataclass

from parallel_strategy.graph.operator import Block, Collective, Kernel, Parameter, Phase, Saved

CONJUGATE = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather", "all_to_all": "all_to_all"}


@dataclass(slots=True)
class BlockBuilder:
    """`element` is the bytes of one activation element, `dtype` its name in collectives."""

    block: Block
    element: int
    dtype: str
    gradient_bytes: float = 0.0  # of the buffer that every micro-batch adds its weight gradients to
    fused_accumulation: bool = True

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
        replicated: bool = False,
    ) -> None:
        """y[m, n] = x[m, k] w[k, n], `batch` of them. Without weights both operands are activations (scores,
        context)."""
        flops = 2.0 * m * n * k * batch
        moved = float(self.element * batch) * (m * k + k * n + m * n)
        weight_phase = Phase.BACKWARD_WEIGHT if weights else Phase.BACKWARD_INPUT
        kernels = self.block.kernels
        kernels.append(Kernel(name, Phase.FORWARD, moved, m, n, k, batch, flops))
        kernels.append(Kernel(f"{name}.input_gradient", Phase.BACKWARD_INPUT, moved, m, k, n, batch, flops))
        # a 32-bit buffer is read and written again, by the product itself or by a kernel of its own
        accumulated = (
            2.0 * k * n * batch * self.gradient_bytes if weights and self.gradient_bytes > self.element else 0.0
        )
        fused = accumulated if self.fused_accumulation else 0.0
        kernels.append(Kernel(f"{name}.weight_gradient", weight_phase, moved + fused, k, n, m, batch, flops))
        if accumulated and not fused:
            kernels.append(Kernel(f"{name}.accumulate", Phase.BACKWARD_WEIGHT, accumulated))
        if weights:
            self.block.parameters.append(Parameter(f"{name}.weight", float(k) * n * batch, expert, replicated))
        if bias:
            self.block.parameters.append(Parameter(f"{name}.bias", float(n) * batch, expert, replicated))
            kernels.append(Kernel(f"{name}.bias_gradient", Phase.BACKWARD_WEIGHT, float(self.element) * batch * m * n))

    def vector(
        self, name: str, forward: float, backward: float, *, launches: float = 1, backward_launches: float = 1
    ) -> None:
        """An element-wise or reducing operator: bytes that it reads and writes, forward and backward."""
        kernels = self.block.kernels
        if launches:
            kernels.append(Kernel(name, Phase.FORWARD, forward, launches=launches))
        if backward_launches:
            kernels.append(Kernel(f"{name}.gradient", Phase.BACKWARD_INPUT, backward, launches=backward_launches))

    def flash(self, name: str, flops: float, moved: float) -> None:
        """Fused attention; backward computes the scores again and has 5 products for 2 (Dao et al. 2022)."""
        kernels = self.block.kernels
        kernels.append(Kernel(name, Phase.FORWARD, moved, flops=flops, flash=True, launches=2))
        kernels.append(
            Kernel(f"{name}.gradient", Phase.BACKWARD_INPUT, 2 * moved, flops=2.5 * flops, flash=True, launches=3)
        )

    def communicate(self, name: str, op: str, axis: str, size: float, *, backward: str | None = "conjugate") -> None:
        """A collective of forward and what it becomes in backward (`None`: nothing)."""
        collectives = self.block.collectives
        collectives.append(Collective(name, op, axis, size, Phase.FORWARD, self.dtype))
        if backward is not None:
            op = CONJUGATE[op] if backward == "conjugate" else backward
            collectives.append(Collective(f"{name}.gradient", op, axis, size, Phase.BACKWARD_INPUT, self.dtype))

    def communicate_backward(self, name: str, op: str, axis: str, size: float) -> None:
        self.block.collectives.append(Collective(f"{name}.gradient", op, axis, size, Phase.BACKWARD_INPUT, self.dtype))

    def keep(self, name: str, size: float, *, attention: bool = False) -> None:
        if size:
            self.block.saved.append(Saved(name, size, attention))

    def parameter(self, name: str, elements: float) -> None:
        self.block.parameters.append(Parameter(name, elements, replicated_over_tp=True))
