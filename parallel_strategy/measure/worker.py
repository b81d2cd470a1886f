"""One of several processes that measure together what training on this machine shares: collectives through MindSpore,
and what kernels lose when all compute at once. `workers` starts them with msrun; the first writes the figures.

    python -m parallel_strategy.measure.worker OUT.json CPU|Ascend SECONDS wall|processor
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from parallel_strategy.measure.timed_kernels import Collected, Crowded, fewest, undisturbed
from parallel_strategy.measure.workers import cores_of
from parallel_strategy.report.output import write_whole

SIZES = {"CPU": (2**12, 2**17, 2**21, 2**24, 2**26), "Ascend": (2**16, 2**20, 2**24, 2**28)}
TURNS = 4  # of kernels alone and together
COLLECTIVES = ("all_reduce", "all_gather", "broadcast")


def keep_to_share_of_cores() -> float:
    """Keep to the cores that a process of training has on a CPU. Returns how many share a core."""
    rank, workers = int(os.environ.get("DEVICE_ID", "0")), int(os.environ["MS_WORKER_NUM"])
    cores = len(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores_of(rank, workers))
    return max(1.0, workers / cores)


def main(out: str, target: str, seconds: float, clock: str) -> None:
    is_scheduler, turns = os.environ.get("MS_ROLE") == "MS_SCHED", 1.0
    if target == "CPU" and not is_scheduler:
        turns = keep_to_share_of_cores()
    import mindspore as ms
    from mindspore.communication import get_group_size, get_rank, init

    from parallel_strategy.measure.mindspore_device import MindSporeBackend

    if is_scheduler:
        ms.set_device(target)
        init()
        return
    backend = MindSporeBackend(target)
    init()
    rank, members = get_rank(), get_group_size()
    together = Together(backend, members, turns if clock == "processor" else None)
    collected = [
        Collected(op, members, size, together.collective(op, size, seconds / 2 / len(COLLECTIVES) / len(SIZES[target])))
        for op in COLLECTIVES
        for size in SIZES[target]
    ]
    crowded = together.crowded(rank, seconds / 2) if target == "CPU" else []
    together.wait()
    if rank == 0:
        found = {"collectives": [asdict(one) for one in collected], "crowded": [asdict(one) for one in crowded]}
        write_whole(Path(out), json.dumps(found))
    together.wait()


class Together:
    """What all processes do at the same time."""

    def __init__(self, backend, members: int, turns: float | None) -> None:
        """turns: None for wall time. Where others use the machine too, processor time: of the processes that share a
        core, so many, each waits for the others' too."""
        self.backend, self.members = backend, members
        self.clock, self.turns = (time.perf_counter, 1.0) if turns is None else (time.process_time, turns)

    def sum(self, value: float) -> float:
        import mindspore as ms
        from mindspore import ops

        return float(ops.AllReduce()(ms.Tensor([value], ms.float32)).asnumpy()[0])

    def wait(self) -> None:
        self.sum(0.0)

    def collective(self, op: str, size: int, budget: float) -> float:
        """Return the seconds of a collective over `size` bytes of the whole tensor."""
        from mindspore import ops

        from parallel_strategy.measure.mindspore_kernels import Broadcasted, Several

        kernels = {"all_reduce": ops.AllReduce, "all_gather": ops.AllGather, "broadcast": Broadcasted}
        mine = size // self.members if op == "all_gather" else size
        graph, data = Several(kernels[op](), 1, 1), self.backend.random_tensor(max(1, mine // self.backend.element))
        times: list[float] = []
        graph(data)[0].asnumpy()
        start = time.perf_counter()
        graph(data)[0].asnumpy()
        # all must agree on how often
        repeats = fewest(budget, self.sum(time.perf_counter() - start) / self.members)
        for _ in range(repeats):
            self.wait()
            start = self.clock()
            graph(data)[0].asnumpy()
            times.append(self.clock() - start)
        return self.turns * self.sum(undisturbed(times)) / self.members

    def crowded(self, rank: int, seconds: float) -> list[Crowded]:
        """Return time kernels on one process while the others sleep, and on all of them at once; the fastest of
        several turns."""
        found = []
        calls = self.backend.crowded_calls()
        for call in calls.values():
            call()
        budget = seconds / 2 / len(calls) / TURNS
        for name, call in calls.items():
            alone, busy = [], []
            for _ in range(TURNS):
                self.wait()
                mine = 0.0
                if rank == 0:
                    mine = rate(call, self.backend.synchronize, budget, self.clock)
                else:
                    time.sleep(budget)
                alone.append(self.sum(mine))
                busy.append(self.sum(rate(call, self.backend.synchronize, budget, self.clock)) / self.members)
            found.append(Crowded(name, self.members, self.turns * max(alone) / max(busy)))
        return found


def rate(
    call: Callable[[], object], synchronize: Callable[[], None], seconds: float, clock: Callable[[], float]
) -> float:
    """Return calls a second over a span of time: on the wall's clock a process that shares its core is counted with its
    waits."""
    count, end, start = 0, time.perf_counter() + seconds, clock()
    while time.perf_counter() < end or count < 3:
        call()
        synchronize()
        count += 1
    return count / (clock() - start)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
