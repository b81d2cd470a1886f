"""Bytes that a rank of a stage holds at its fullest moment, for any number of candidates at once.

Weights, gradients and optimizer states by dtype and shard group; activations by how many micro-batches wait for their
backward (`schedule.in_flight`), and recomputation needs one layer's worth beside. Arrays have leading axes [candidate,
stage]; one strategy is an array of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.block_table import BlockTable
from parallel_strategy.graph.stages import SLOTS, Places
from parallel_strategy.schedule.in_flight import moments
from parallel_strategy.schedule.orders import Task
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec

GIB = 1024.0**3


@dataclass(frozen=True, slots=True)
class StageMemory:
    """GiB of one rank of a stage at its peak: numbers, or arrays [candidate, stage]."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    recompute: float
    buffers: float
    context: float

    @property
    def resident(self) -> float:
        """Return all but activations."""
        return self.weights + self.gradients + self.optimizer + self.buffers + self.context

    @property
    def total(self) -> float:
        return self.resident + (self.activations + self.recompute)


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes that do not change during a step, [candidate, stage]."""

    weights: np.ndarray
    gradients: np.ndarray
    optimizer: np.ndarray
    buffers: np.ndarray
    on_host: np.ndarray  # of one rank, in its server's memory

    def with_activations(self, framework: FrameworkSpec, kept: np.ndarray, working: np.ndarray) -> StageMemory:
        """Return all of the memory. `kept`, `working`: bytes at the fullest moment, [candidate, stage]."""
        arrays = (self.weights / GIB, self.gradients / GIB, self.optimizer / GIB)
        moving = activation_gib(framework, kept, working)
        return StageMemory(*arrays, *moving, self.buffers / GIB, framework.context_gib)  # type: ignore[arg-type]


def activation_gib(framework: FrameworkSpec, kept: np.ndarray, working: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return GiB with what the allocator loses."""
    lost = (1.0 + framework.fragmentation) / GIB
    return kept * lost, working * lost


def resident_bytes(
    framework: FrameworkSpec,
    dtype: str,
    table: BlockTable,
    held: np.ndarray,
    shards: tuple[np.ndarray, np.ndarray],
    owned: np.ndarray,
    *,
    zero: int,
    host_optimizer: bool,
) -> Resident:
    """Return bytes. `held`: [stage, slot] blocks; `shards`: [candidate] ranks that share dense weights and experts;
    `owned`: [candidate, stage] elements that a rank updates; `zero`: level of optimizer sharding."""
    gradient, states = gradient_and_state_bytes(framework, dtype)
    weights, gradients = np.zeros_like(owned), np.zeros_like(owned)
    is_whole = framework.keeps_gathered and zero >= 3 and held.shape[0] > 1
    for elements, size in zip((table.dense @ held.T, table.expert @ held.T), shards, strict=True):
        weights = weights + elements / (size[:, None] if zero >= 3 else 1) * framework.weight_bytes
        gradients = gradients + elements / (size[:, None] if zero >= 2 else 1) * gradient
        if is_whole:  # beside the shards, where they are any
            alone = size[:, None] > 1
            weights = weights + alone * elements * framework.weight_bytes_sent
            gradients = gradients + alone * elements * gradient
    buffers = np.full((len(owned), 1), framework.workspace_mib * 2**20)
    if zero >= 3:  # the layer that runs and the one that is fetched
        largest = (table.dense + table.expert).max(axis=-1)
        buffers = buffers + 2 * largest[:, None] * framework.weight_bytes
    if held.shape[0] > 1:
        buffers = buffers + 2 * table.boundary[:, None]
    optimizer, nowhere = owned * states, np.zeros_like(owned)
    if host_optimizer:
        return Resident(weights, gradients, nowhere, buffers, optimizer)
    return Resident(weights, gradients, optimizer, buffers, nowhere)


def gradient_and_state_bytes(framework: FrameworkSpec, dtype: str) -> tuple[float, float]:
    """Return the bytes of a parameter's gradient, and of its optimizer states where they are held."""
    states = framework.master_bytes + framework.moment_bytes
    if framework.bf16_accumulated and dtype == "bf16":
        return framework.gradient_bytes + 4.0, states - 4.0
    return framework.gradient_bytes, states


def kept_bytes(saved: np.ndarray, table: BlockTable, places: Places, mode: str) -> np.ndarray:
    """Return [candidate, place] bytes that one micro-batch leaves behind until its backward. `saved`: [candidate, slot]
    of a block that is not computed again, `table.kept` or, without the allocator's granules, `table.saved`."""
    kept = saved @ places.counts.T
    if mode == "none":
        return kept
    dropped = saved - table.entry if mode == "full" else table.attention
    return kept - dropped @ places.again.T


def working_bytes(table: BlockTable, places: Places, mode: str) -> np.ndarray:
    """Return [candidate, place] bytes that backward needs beside what was kept: a recomputed layer, and gradients of
    activations."""
    working = np.zeros((len(table.transient), len(places.counts)))
    again = table.saved if mode == "full" else table.attention
    for slot in np.flatnonzero(places.counts.any(axis=0)):
        runs, reruns = places.counts[:, slot] > 0, places.again[:, slot] > 0
        need = table.transient[:, slot, None] + again[:, slot, None] * (reruns if mode != "none" else 0.0)
        working = np.maximum(working, need * runs)
    return working


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of one micro-batch: what one layer keeps, what of it recomputation drops, what a recomputed layer needs in
    backward; what the ends of the model keep."""

    kept: float
    dropped: float
    rerun: float
    embedding: float
    head: float


def layer_bytes(table: BlockTable, mode: str) -> LayerBytes:
    """Return the terms of `kept_bytes` and `working_bytes` by themselves, of a table of one candidate."""
    layer, ends = SLOTS.index("layer"), (SLOTS.index("embedding"), SLOTS.index("head"))
    kept = table.kept[0]
    dropped = kept[layer] - table.entry[0, layer] if mode == "full" else table.attention[0, layer]
    again = table.saved[0, layer] if mode == "full" else table.attention[0, layer]
    numbers = (kept[layer], dropped, again + table.transient[0, layer], *(kept[end] for end in ends))
    return LayerBytes(*map(float, numbers))


def at_the_fullest(
    schedule: str, places: Places, kept: np.ndarray, working: np.ndarray, micro_batches: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return [candidate, stage] bytes kept and working at the fullest moment of each stage. `kept`, `working`:
    [candidate, place]; `micro_batches`: [candidate]."""
    pp, chunks = places.index.shape
    kept, working = kept[:, places.index], working[:, places.index]
    counts = np.asarray(micro_batches)
    if chunks == 1:
        flying = {int(m): moments(schedule, pp, 1, int(m)).kept[:, 0, 0] for m in np.unique(counts)}
        return kept[..., 0] * np.array([flying[int(m)] for m in counts]), working[..., 0]
    held, beside = np.zeros(kept.shape[:2]), np.zeros(kept.shape[:2])
    for m in np.unique(counts):
        rows = np.flatnonzero(counts == m)
        of_stage = moments(schedule, pp, chunks, int(m))
        # [candidate, stage, moment]
        level = (of_stage.kept[None] @ kept[rows, ..., None])[..., 0]
        runs = (of_stage.runs[None] @ working[rows, ..., None])[..., 0]
        fullest = np.argmax(level + runs, axis=-1)[..., None]
        held[rows] = np.take_along_axis(level, fullest, axis=-1)[..., 0]
        beside[rows] = np.take_along_axis(runs, fullest, axis=-1)[..., 0]
    return held, beside


def walk(tasks: list[Task], chunks: dict[int, tuple[float, float]], *, split: bool) -> list[tuple[Task, float, float]]:
    """Return the activation bytes after each task of a stage, and at its peak. `chunks`: (kept, working) bytes by
    chunk."""
    level, rows = 0.0, []
    for task in tasks:
        kept, working = chunks[task.chunk]
        if task.kind == "F":
            level += kept
            rows.append((task, level, level))
        else:
            peak = level + working
            if task.kind == "W" or not split:
                level -= kept
            rows.append((task, level, peak))
    return rows


def host_gib(cluster: ClusterSpec, devices: int, resident: Resident, moved: np.ndarray) -> np.ndarray:
    """Return [candidate] GiB that the fullest server's own memory holds for its devices. `moved`: [candidate, stage]
    bytes of activations that one rank has there."""
    ranks = min(cluster.devices_per_server, devices)
    return (resident.on_host + moved).max(axis=-1) * ranks / GIB


def usable_gib(cluster: ClusterSpec) -> float:
    """Return what a training process can have of a device."""
    hbm = cluster.device.hbm
    return hbm.usable_gb if hbm.usable_gb is not None else hbm.gb
