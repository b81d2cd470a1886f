"""The end of a step: gradients are summed, optimizer states updated, weights gathered. Arrays are [candidate, stage].

A stage's gradients follow its last backward, and part of them hides behind it. Their norm joins the stages, so the
update begins when the last stage has its gradients.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec


@dataclass(frozen=True, slots=True)
class StepTraffic:
    """Seconds of a step's collectives of weights and gradients. `last_bucket`: part of `reduce` that nothing hides."""

    reduce: np.ndarray
    apart: np.ndarray
    gather: np.ndarray
    last_bucket: np.ndarray | float = 0.0


@dataclass(frozen=True, slots=True)
class StepTail:
    """What a stage does besides its micro-batches, in seconds: numbers, or arrays [candidate, stage]."""

    gradient_reduce: float = 0.0  # exposed part
    gradient_hidden: float = 0.0  # part that runs beside the last backward
    weight_gather: float = 0.0
    embedding_reduce: float = 0.0
    optimizer: float = 0.0
    fixed: float = 0.0

    @property
    def exposed(self) -> float:
        return self.gradient_reduce + self.weight_gather + self.embedding_reduce + self.optimizer + self.fixed


def gradients_exposed(
    framework: FrameworkSpec,
    traffic: StepTraffic,
    backward: np.ndarray,
    micro_batches: np.ndarray,
    *,
    zero: int,
    chunks: int = 1,
    weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds that each stage adds to its own finish for its gradients, and how many of them hide behind
    `backward`, the seconds of one micro-batch. `chunks`: of a stage, whose last micro-batches end one after another;
    `weight`: the part of `backward` that makes gradients of weights, where the schedule runs that by itself."""
    wanted = framework.dp_overlap * (traffic.reduce - traffic.last_bucket)
    if zero == 2:
        hidden = np.minimum(wanted, backward * micro_batches[:, None])
    elif chunks > 1:
        hidden = wanted - _left_after_chunks(wanted, backward, micro_batches, chunks)
    else:
        hidden = np.minimum(wanted, backward if weight is None else weight)
    return traffic.reduce - hidden + framework.interference * hidden, hidden


def _left_after_chunks(wanted: np.ndarray, backward: np.ndarray, micro_batches: np.ndarray, chunks: int) -> np.ndarray:
    """Return what is left to send when an interleaved stage has finished.

    The last round goes back through the chunks, last chunk first: as many micro-batches as there are stages. A chunk's
    gradients are sent from its last backward on, beside those of the chunks before it.
    """
    pp = backward.shape[-1]
    piece, one = wanted / chunks, backward / chunks
    a_round = np.minimum(micro_batches, pp)[:, None] * one
    sent = np.full_like(wanted, -np.inf)  # when the network is free, counted from the stage's finish
    for before in reversed(range(chunks)):  # chunks that still run after this one
        sent = np.maximum(sent, -before * a_round - one) + piece
    return np.maximum(0.0, sent)


def weights_exposed(framework: FrameworkSpec, traffic: StepTraffic) -> np.ndarray:
    """Return the seconds of gathering updated weights that do not hide behind the next forward."""
    hidden = framework.gather_overlap * traffic.gather
    return traffic.gather - hidden + framework.interference * hidden


def update_seconds(
    framework: FrameworkSpec,
    cluster: ClusterSpec,
    owned: np.ndarray,
    weights: np.ndarray,
    *,
    devices: int,
    host_optimizer: bool,
) -> np.ndarray:
    """Return bytes. `owned`: elements that a rank updates; `weights`: how many tensors a stage has."""
    hbm, host = cluster.device.hbm, cluster.host
    if host_optimizer:
        copied = owned * (framework.gradient_bytes_sent + framework.weight_bytes_sent)
        per_server = min(cluster.devices_per_server, devices)
        return copied / (host.h2d_gbps * 1e9) + owned * 28 * per_server / (host.adam_gbps * 1e9)
    update = owned * framework.optimizer_bytes_per_parameter / (hbm.gbps * 1e9 * hbm.eff)
    return update + weights * framework.launches_per_weight * cluster.device.vector.launch_us * 1e-6


def flattening_seconds(
    framework: FrameworkSpec, cluster: ClusterSpec, elements: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the seconds of copying gradients into the buffer that is reduced, and out of it."""
    device = cluster.device
    copied = elements * framework.flatten_bytes_per_parameter / (device.hbm.gbps * 1e9)
    return copied + weights * framework.flatten_launches_per_weight * device.vector.launch_us * 1e-6


def fixed_seconds(framework: FrameworkSpec, cluster: ClusterSpec) -> float:
    return framework.step_overhead_ms * 1e-3 * cluster.host.launch_scale


def gradients_end(finish: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Return [candidate] seconds until the last stage has its gradients. `finish`: when each stage's last task is done;
    `gradients`: seconds from there to its gradients, all that is exposed of them."""
    return (finish + gradients).max(axis=-1)


def update_end(tail: StepTail) -> np.ndarray:
    """Return [candidate] seconds from then to the end of the step."""
    return np.asarray(tail.optimizer + tail.weight_gather).max(axis=-1) + tail.fixed
