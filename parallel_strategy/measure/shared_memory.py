"""Collectives among processes of one server over shared memory: what data parallelism on CPUs can have at best.

An all-reduce is a reduce-scatter (every process sums its slice of all buffers) and an all-gather (every process copies
the slices of the others), with a barrier between.
"""

import multiprocessing
import time
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from parallel_strategy.measure.timed_kernels import Collected

SIZES = (2**14, 2**18, 2**22, 2**24)  # bytes of one process's buffer
REPEATS = 7


def all_reduces(members: int) -> list[Collected]:
    """Return medians of all-reduces among `members` processes; none where there is only one."""
    if members < 2:
        return []
    context = multiprocessing.get_context("spawn")
    block = SharedMemory(create=True, size=(members + 1) * SIZES[-1])
    try:
        barrier, results = context.Barrier(members), context.Queue()
        arguments = [(block.name, rank, members, barrier, results) for rank in range(members)]
        workers = [context.Process(target=_work, args=each) for each in arguments]
        for worker in workers:
            worker.start()
        try:
            seconds = results.get(timeout=60)
        finally:
            for worker in workers:
                worker.join(timeout=10)
                if worker.is_alive():
                    worker.terminate()
        return [Collected("all_reduce", members, size, value) for size, value in seconds]
    finally:
        block.close()
        block.unlink()


def _work(name: str, rank: int, members: int, barrier, results) -> None:
    block = SharedMemory(name=name)
    found = []
    for size in SIZES:
        count = size // 4
        buffers: list[np.ndarray] = [
            np.ndarray(count, dtype=np.float32, buffer=block.buf, offset=index * SIZES[-1])
            for index in range(members + 1)
        ]
        mine, total, private = buffers[rank], buffers[-1], np.empty(count, dtype=np.float32)
        mine[:] = 1.0
        part = slice(rank * count // members, (rank + 1) * count // members)
        times = []
        for _ in range(REPEATS):
            barrier.wait()
            start = time.perf_counter()
            np.copyto(total[part], buffers[0][part])
            for other in buffers[1:-1]:
                np.add(total[part], other[part], out=total[part])
            barrier.wait()
            np.copyto(private, total)
            barrier.wait()
            times.append(time.perf_counter() - start)
        found.append((size, float(np.median(times))))
        del mine, total, buffers
    if rank == 0:
        results.put(found)
    block.close()
