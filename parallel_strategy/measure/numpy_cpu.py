"""This CPU through numpy: its BLAS with the threads it is given, vectors and copies."""

import functools
import os
import platform
import time
from collections.abc import Callable

import numpy as np

from parallel_strategy.measure.shared_memory import all_reduces
from parallel_strategy.measure.timed_kernels import Call, Collected, host_memory_gb


class NumpyBackend:
    kind, dtype, overhead = "cpu", "fp32", 0.0
    repeats, slices, launches = 1, 0, False

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.name, self.device = f"numpy {np.__version__}", processor_name()
        self.cores, self.memory_gb = available_cores(), host_memory_gb()
        self.random = np.random.default_rng(0)

    def synchronize(self) -> None:
        """Do nothing: numpy returns when it is done."""

    def product(self, m: int, n: int, k: int, batch: int) -> Call:
        shape = () if batch == 1 else (batch,)
        a, b = (self.random.standard_normal((*shape, *size), dtype=np.float32) for size in ((m, k), (k, n)))
        return functools.partial(np.matmul, a, b, out=np.empty((*shape, m, n), dtype=np.float32))

    def vectors(self, elements: int) -> dict[str, tuple[Call, float]]:
        a, b = (self.random.standard_normal(elements, dtype=np.float32) for _ in range(2))
        out, size = np.empty_like(a), 4.0 * elements
        return {
            "copy": (functools.partial(np.copyto, out, a), 2 * size),
            "add": (functools.partial(np.add, a, b, out=out), 3 * size),
        }

    def attention(self, batch: int, heads: int, sequence: int, width: int) -> Call | None:
        return None

    def empty(self) -> tuple[Call, int]:
        tiny = np.zeros(16, dtype=np.float32)
        return functools.partial(np.add, tiny, tiny, out=tiny), 1

    def host_copy(self, size: int) -> Call | None:
        return None

    def collectives(self) -> list[Collected]:
        return all_reduces(min(4, self.cores))


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return what the kernel calls this processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"
