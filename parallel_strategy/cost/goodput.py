"""How much of the time a job that fails now and then makes progress, and how often it should save a checkpoint.

Failures come at random, at a constant rate. Daly 2006 ("A higher order estimate of the optimum checkpoint interval"):
a part of T useful seconds and a checkpoint of C, with restarts of R at a mean time between failures of M, takes
M e^(R/M) (e^((T+C)/M) - 1). The best T solves e^((T+C)/M) (T/M - 1) + 1 = 0; Young's sqrt(2 C M) is its first order.
A checkpoint that is written beside the training stops it for the copy to the host only, but is worth nothing before it
is written: a failure costs its writing time too.
"""

from dataclasses import dataclass
from math import exp, expm1, inf, sqrt

SLOWEST = 1e-6  # share of useful time below which a job gets nowhere
LARGEST = 600.0  # exponents beyond which the expected time is without end


@dataclass(frozen=True)
class Reliability:
    """What a cluster and its storage are like. mtbf_hours: of one device. storage_gbps: GB/s of all devices together.

    copy_gbps: GB/s of one device to its host, None where training waits until the checkpoint is written.
    """

    mtbf_hours: float
    storage_gbps: float
    restart_seconds: float
    copy_gbps: float | None = None


@dataclass(frozen=True)
class Goodput:
    """One job. seconds: stall is what a checkpoint stops it for, interval the useful time between two."""

    devices: int
    mtbf_seconds: float
    checkpoint_gb: float
    stall_seconds: float
    write_seconds: float
    young_seconds: float
    daly_seconds: float
    interval_seconds: float
    interval_steps: int
    useful_share: float

    @property
    def failures_a_day(self) -> float:
        return 86_400 / self.mtbf_seconds


def goodput(devices: int, step_seconds: float, checkpoint_gb: float, reliability: Reliability) -> Goodput:
    """Return the best interval in whole steps, and the share of time that is useful with it."""
    mtbf = reliability.mtbf_hours * 3600 / devices
    write = checkpoint_gb / reliability.storage_gbps
    copies = reliability.copy_gbps is not None
    stall = checkpoint_gb / devices / reliability.copy_gbps if reliability.copy_gbps else write
    restart = reliability.restart_seconds + (write if copies else 0.0)
    best = best_interval(stall, mtbf)
    least = write if copies else 0.0  # one is written at a time
    near = max(1, int(max(best, least) / step_seconds))
    steps = max((near, near + 1), key=lambda count: useful_share(count * step_seconds, stall, restart, mtbf))
    return Goodput(
        devices=devices,
        mtbf_seconds=mtbf,
        checkpoint_gb=checkpoint_gb,
        stall_seconds=stall,
        write_seconds=write,
        young_seconds=young(stall, mtbf),
        daly_seconds=daly(stall, mtbf),
        interval_seconds=steps * step_seconds,
        interval_steps=steps,
        useful_share=useful_share(steps * step_seconds, stall, restart, mtbf),
    )


def useful_share(interval: float, stall: float, restart: float, mtbf: float) -> float:
    """Return the useful time over the expected time."""
    if restart / mtbf > LARGEST or (interval + stall) / mtbf > LARGEST:
        return 0.0
    expected = mtbf * exp(restart / mtbf) * expm1((interval + stall) / mtbf)
    return interval / expected if expected < inf else 0.0


def best_interval(stall: float, mtbf: float) -> float:
    """Return the useful seconds between two checkpoints with the least expected time, by bisection."""
    cost = min(stall / mtbf, LARGEST)
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if exp(middle + cost) * (middle - 1) + 1 < 0:
            low = middle
        else:
            high = middle
    return mtbf * high


def young(stall: float, mtbf: float) -> float:
    """Return Young's interval (1974)."""
    return sqrt(2 * stall * mtbf)


def daly(stall: float, mtbf: float) -> float:
    """Return Daly's interval of higher order (2006, equation 37)."""
    if stall >= 2 * mtbf:
        return mtbf
    ratio = stall / (2 * mtbf)
    return sqrt(2 * stall * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - stall
