"""Who else trains: the processes that a launcher started, and the few words they exchange outside a step."""

import os
from dataclasses import dataclass

import numpy as np

from pangu.foundation.errors import UserError

# What msrun sets in every process that it starts; a rank table names the ranks without it.
ROLE, RANK_TABLE = "MS_ROLE", "RANK_TABLE_FILE"
# What our launcher sets beside: how many of the processes are on this computer.
LOCAL_WORKERS = "PANGU_LOCAL_WORKERS"


def is_launched() -> bool:
    """Return whether this process was started as one of several."""
    return ROLE in os.environ or RANK_TABLE in os.environ


def share_cores() -> None:
    """Keep to this process's share of the cores, where several processes compute on one CPU. Before MindSpore starts
    its threads, as many as there are cores."""
    workers = int(os.environ.get(LOCAL_WORKERS, "1"))
    if workers > 1 and os.environ.get(ROLE) == "MS_WORKER":
        os.sched_setaffinity(0, cores_of(int(os.environ.get("DEVICE_ID", "0")), workers))


def cores_of(process: int, processes: int) -> list[int]:
    """Return the cores of one of several processes on this computer: its share of them, or one that it has in turns."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[process % len(cores) :: processes]


@dataclass(frozen=True)
class World:
    """This process is number `rank` of `size`. Every method but the properties is called by all of them together."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes what is written once."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Return the sum over all processes, the same in each; exact for whole numbers below 2²⁴ and for sums of
        them."""
        if self.size == 1:
            return value
        import mindspore as ms
        from mindspore import ops

        # Two parts of 24 bits each: CPU collectives are fp32.
        high = np.float32(value)
        parts = ms.Tensor(np.array([high, value - float(high)], np.float32))
        return float(ops.AllReduce()(parts).asnumpy().astype(np.float64).sum())

    def from_first(self, value: int) -> int:
        """Return the first process's number, in every process. 0 ≤ value < 2²⁴."""
        return round(self.sum(float(value) if self.is_first else 0.0))

    def wait(self) -> None:
        """Go on when all have come here."""
        self.sum(0.0)


ALONE = World(0, 1)


def join() -> World:
    """Meet the other processes that the launcher started; the device must have been chosen.

    The launcher's scheduler runs the same program: it stays in here until the others are done, and the process ends.
    """
    if not is_launched():
        return ALONE
    from mindspore.communication import get_group_size, get_rank, init

    try:
        init()
    except (RuntimeError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip("- ")), "")
        raise UserError(f"the processes of this run cannot meet: {reason}") from None
    if os.environ.get(ROLE) == "MS_SCHED":
        raise SystemExit(0)
    return World(get_rank(), get_group_size())
