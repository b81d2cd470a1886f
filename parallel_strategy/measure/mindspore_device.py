"""An Ascend device, or this CPU, through MindSpore's compiled kernels."""

import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from parallel_strategy.measure.mindspore_kernels import SMALL_KERNELS, Several, Small, kinds
from parallel_strategy.measure.numpy_cpu import available_cores, processor_name
from parallel_strategy.measure.timed_kernels import Call, Collected, host_memory_gb, timed

# how often a kernel stands in a graph, and how often the small ones do
TIMES, SMALL = 4, 30
ASCEND_CORES = {"910": 32, "910A": 32, "910B1": 24, "910B2": 24, "910B3": 20, "910B4": 20}


class OneOperator(nn.Cell):
    """One primitive as a compiled graph: what a training step runs. (Called eagerly, kernels of a CPU lose a third.)"""

    def __init__(self, primitive: Any) -> None:
        super().__init__(auto_prefix=False)
        self.primitive = primitive

    def construct(self, *tensors: ms.Tensor) -> Any:
        return self.primitive(*tensors)


class MindSporeBackend:
    launches = True

    def __init__(self, target: str, clock: Callable[[], float] = time.perf_counter) -> None:
        """`target`: CPU or Ascend."""
        self.clock = clock
        if target == "CPU":
            # the default leaves nearly everything to one thread
            ms.set_context(mode=ms.GRAPH_MODE, runtime_num_threads=available_cores())
            self.kind, self.dtype, self.element = "cpu", "fp32", 4
            self.device, self.cores, self.memory_gb = processor_name(), available_cores(), host_memory_gb()
        else:
            ms.set_context(mode=ms.GRAPH_MODE)
            ms.set_device("Ascend")
            self.kind, self.dtype, self.element = "npu", "fp16", 2
            self.device = str(ms.hal.get_device_name(0))
            self.memory_gb = ms.hal.get_device_properties(0).total_memory / 1e9
            self.cores = next((n for name, n in ASCEND_CORES.items() if self.device.endswith(name)), 24)
        self.name = f"mindspore {ms.__version__} on {target}"
        self.random = np.random.default_rng(0)
        self.last: Any = ms.Tensor(0.0)
        # each of several kernels in a graph has a slice beside it
        self.repeats, self.slices = (TIMES, 1) if self.kind == "cpu" else (1, 0)
        self.overhead = 0.0
        self.overhead = self._graph_overhead()

    def synchronize(self) -> None:
        if self.kind == "cpu":  # runtime.synchronize knows no CPU
            last = self.last[0] if isinstance(self.last, tuple) else self.last
            last.asnumpy()
        else:
            ms.runtime.synchronize()

    def _call(self, primitive: Any, *tensors: ms.Tensor) -> Call:
        """Return a call that leaves its result to wait for."""
        graph = OneOperator(primitive)

        def run() -> None:
            self.last = graph(*tensors)

        return run

    def _random(self, *shape: int) -> ms.Tensor:
        data = self.random.standard_normal(shape, dtype=np.float32)
        return ms.Tensor(data if self.element == 4 else data.astype(np.float16))

    def _several(self, kernel: Any, arity: int, inputs: Callable[[], tuple[ms.Tensor, ...]]) -> Call:
        """Run the kernel `TIMES` times in one graph on a CPU, and return an element of each result."""
        if self.kind != "cpu":
            return self._call(kernel, *inputs())
        graph = Several(kernel, TIMES, arity)
        tensors = [tensor for _ in range(TIMES) for tensor in inputs()]

        def run() -> None:
            self.last = graph(*tensors)

        return run

    def product(self, m: int, n: int, k: int, batch: int) -> Call:
        """Make products as `pangu` has them: the gradient of a weight has the tokens inside, scores the width of a
        head."""
        if batch == 1:
            turned = k > max(m, n)
            shape = (k, m) if turned else (m, k)
            return self._several(ops.MatMul(transpose_a=turned), 2, lambda: (self._random(*shape), self._random(k, n)))
        of_scores = n > k
        other = (batch, n, k) if of_scores else (batch, k, n)
        product = ops.BatchMatMul(transpose_b=of_scores)
        return self._several(product, 2, lambda: (self._random(batch, m, k), self._random(*other)))

    def vectors(self, elements: int) -> dict[str, tuple[Call, float]]:
        if self.kind == "cpu":
            return {
                name: (self._several(kernel, arity, inputs), moved)
                for name, (kernel, arity, inputs, moved) in kinds(elements, self.random).items()
            }
        rows, other, weight = self._random(elements // 512, 512), self._random(elements // 512, 512), self._random(512)
        size = float(self.element) * elements
        return {
            "copy": (self._call(ops.Neg(), rows), 2 * size),  # a kernel that only copies is optimised away
            "add": (self._call(ops.Add(), rows, other), 3 * size),
            "multiply": (self._call(ops.Mul(), rows, other), 3 * size),
            "sigmoid": (self._call(ops.Sigmoid(), rows), 2 * size),
            "layer_norm": (self._call(ops.LayerNorm(1, 1), rows, weight, weight), 2 * size),
            "softmax": (self._call(ops.Softmax(-1), rows), 2 * size),
        }

    def attention(self, batch: int, heads: int, sequence: int, width: int) -> Call | None:
        if self.kind == "cpu":
            return None
        q, k, v = (self._random(batch, heads, sequence, width) for _ in range(3))
        mask = ms.Tensor(np.triu(np.ones((2048, 2048), dtype=np.uint8), 1))

        def run() -> None:
            self.last = ops.flash_attention_score(
                q, k, v, heads, attn_mask=mask, scalar_value=width**-0.5, input_layout="BNSD", sparse_mode=2
            )

        return run

    def empty(self) -> tuple[Call, int]:
        return self._small(SMALL), SMALL * SMALL_KERNELS

    def _small(self, length: int) -> Call:
        return self._call(Small(length), self._random(4, 4), self._random(4, 4), self._random(4))

    def _graph_overhead(self) -> float:
        """Return the seconds that a graph takes beside its kernels: many small kernels against few."""
        few, many = (timed(self, self._small(length), 0.3) for length in (1, SMALL))
        return max(0.0, few - (many - few) / (SMALL - 1))

    def host_copy(self, size: int) -> Call | None:
        if self.kind == "cpu":
            return None
        data = np.zeros(size // 4, dtype=np.float32)

        def run() -> None:
            self.last = ops.add(ms.Tensor(data), 0.0)

        return run

    def random_tensor(self, elements: int) -> ms.Tensor:
        return self._random(elements)

    def crowded_calls(self) -> dict[str, Call]:
        """Return what several processes of one machine compete for: its cores, and its memory."""
        kernel, arity, inputs, _ = kinds(2**22, self.random)["multiply"]
        return {"product": self.product(512, 512, 512, 1), "memory": self._several(kernel, arity, inputs)}

    def collectives(self) -> list[Collected]:
        """Measure among several processes: `workers` starts them."""
        return []
