"""An NVIDIA GPU through PyTorch, in bf16. Collectives through NCCL where there is more than one.

Every call also runs on PyTorch's CPU (`target="cpu"`, collectives by Gloo), for machines without a GPU to check them.
"""

import functools
import os
import time

import numpy as np
import torch

from pangu.foundation.processes import free_port
from parallel_strategy.measure.numpy_cpu import available_cores, processor_name
from parallel_strategy.measure.timed_kernels import Call, Collected, host_memory_gb

SIZES = (2**20, 2**24, 2**28, 2**30)  # bytes of an all-reduce


class TorchBackend:
    kind, dtype, overhead = "gpu", "bf16", 0.0
    repeats, slices, launches = 1, 0, False

    def __init__(self, target: str = "cuda") -> None:
        self.clock, self.target = time.perf_counter, target
        self.name = f"torch {torch.__version__} on {target}"
        if target == "cuda":
            properties = torch.cuda.get_device_properties(0)
            self.device, self.cores = properties.name, properties.multi_processor_count
            self.memory_gb, self.count = properties.total_memory / 1e9, torch.cuda.device_count()
        else:
            self.device, self.cores = processor_name(), available_cores()
            self.memory_gb, self.count = host_memory_gb(), available_cores()

    def synchronize(self) -> None:
        """Wait for the device; PyTorch's CPU returns when it is done."""
        if self.target == "cuda":
            torch.cuda.synchronize()

    def _random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.target, dtype=torch.bfloat16)

    def product(self, m: int, n: int, k: int, batch: int) -> Call:
        if batch == 1:  # as a linear layer calls it: the weight is [n, k]
            return functools.partial(torch.nn.functional.linear, self._random(m, k), self._random(n, k))
        return functools.partial(torch.bmm, self._random(batch, m, k), self._random(batch, k, n))

    def vectors(self, elements: int) -> dict[str, tuple[Call, float]]:
        a, b, size = self._random(elements), self._random(elements), 2.0 * elements
        rows = a.view(-1, 2048)
        weight, out = self._random(2048), torch.empty_like(a)
        functional = torch.nn.functional
        return {
            "copy": (functools.partial(out.copy_, a), 2 * size),
            "add": (functools.partial(torch.add, a, b, out=out), 3 * size),
            "gelu": (functools.partial(functional.gelu, a, approximate="tanh"), 2 * size),
            "layer_norm": (functools.partial(functional.layer_norm, rows, (2048,), weight, weight), 2 * size),
            "softmax": (functools.partial(torch.softmax, rows, -1), 2 * size),
        }

    def attention(self, batch: int, heads: int, sequence: int, width: int) -> Call | None:
        q, k, v = (self._random(batch, heads, sequence, width) for _ in range(3))
        return functools.partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=True)

    def empty(self) -> tuple[Call, int]:
        tiny = torch.zeros(16, device=self.target)
        return functools.partial(tiny.add_, 1.0), 1

    def host_copy(self, size: int) -> Call | None:
        source = torch.empty(size, dtype=torch.uint8, pin_memory=self.target == "cuda")
        target = torch.empty(size, dtype=torch.uint8, device=self.target)
        return functools.partial(target.copy_, source, non_blocking=True)

    def collectives(self) -> list[Collected]:
        """Return all-reduces among 2, 4, ... devices of this server, one process each."""
        found: list[Collected] = []
        members = 2
        while members <= self.count:
            context = torch.multiprocessing.get_context("spawn")
            queue = context.SimpleQueue()
            arguments = (members, self.target, free_port(), queue)
            torch.multiprocessing.spawn(all_reduce, args=arguments, nprocs=members)
            found += [Collected("all_reduce", members, size, seconds) for size, seconds in queue.get()]
            members *= 2
        return found


def all_reduce(rank: int, members: int, target: str, port: int, queue) -> None:
    """Be one of `members` processes; the first puts (bytes, median seconds) into the queue."""
    import torch.distributed as distributed

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if target == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group("nccl" if target == "cuda" else "gloo", rank=rank, world_size=members)
    synchronize = torch.cuda.synchronize if target == "cuda" else (lambda: None)
    found = []
    for size in SIZES if target == "cuda" else SIZES[:2]:
        data = torch.ones(size // 4, device=target)
        times = []
        for _ in range(12):
            distributed.barrier()
            synchronize()
            start = time.perf_counter()
            distributed.all_reduce(data)
            synchronize()
            times.append(time.perf_counter() - start)
        found.append((size, float(np.median(times[2:]))))
    if rank == 0:
        queue.put(found)
    distributed.destroy_process_group()
