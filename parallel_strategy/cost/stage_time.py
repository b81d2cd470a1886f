"""Seconds of one micro-batch on every place of a pipeline, for any number of candidates at once.

Arrays are [candidate, place]: chunks that run the same blocks are one place. Host and device are compared for a whole
phase of a chunk, since a stage waits for its neighbours between chunks.
"""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.cost.kernel import smooth_maximum
from parallel_strategy.graph.stages import SLOTS, Places
from parallel_strategy.spec.framework import FrameworkSpec

FORWARD, FULL, SELECTIVE, BACKWARD_INPUT, BACKWARD_WEIGHT = range(5)  # phases of `BlockTable.times`
DEVICE, TENSOR, HOST = range(3)  # kernels, exposed collectives, what issuing costs


@dataclass(frozen=True, slots=True)
class WeightSeconds:
    """ZeRO-3: [candidate, slot] seconds of gathering a block's weights for forward, for backward, and of scattering its
    gradients."""

    gather: np.ndarray
    gather_again: np.ndarray
    scatter: np.ndarray


@dataclass(frozen=True, slots=True)
class Phases:
    """[candidate, (device, tensor, host), place] seconds of forward, of backward of activations (with what is computed
    again), of backward of weights; and of `again` alone."""

    forward: np.ndarray
    backward_input: np.ndarray
    backward_weight: np.ndarray
    again: np.ndarray


@dataclass(frozen=True, slots=True)
class ChunkSeconds:
    """[candidate, place] seconds of one chunk for one micro-batch on the slowest rank."""

    forward: np.ndarray
    backward_input: np.ndarray
    backward_weight: np.ndarray


def phases(
    times: np.ndarray,
    places: Places,
    mode: str,
    framework: FrameworkSpec,
    *,
    sharded: WeightSeconds | None = None,
    two_halves: bool = False,
    overrides: np.ndarray | None = None,
) -> Phases:
    """Return `times`: of a BlockTable, [candidate, phase, 3, slot]; `mode`: of recomputation; `two_halves`: one half's
    collectives run beside the other's computation; `overrides`: [place, slot] seconds
    that overridden operators add."""
    totals = [np.zeros((len(times), 3, len(places.counts))) for _ in range(4)]
    for slot in range(len(SLOTS)):
        here = np.flatnonzero(places.counts[:, slot])
        if not len(here):
            continue
        count, repeated = places.counts[here, slot], places.again[here, slot]
        forward, back, weight = (
            times[:, phase, :, slot, None] * count for phase in (FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT)
        )
        if mode != "none" and repeated.any():
            again = times[:, FULL if mode == "full" else SELECTIVE, :, slot, None] * repeated
            totals[3][:, :, here] += again
            back = back + again
        if sharded is not None:
            _gather(framework, sharded, slot, count, forward, back, weight)
        if overrides is not None:
            forward[:, DEVICE] += overrides[here, slot] / 3
            back[:, DEVICE] += 2 * overrides[here, slot] / 3
        if two_halves:
            forward, back = (_interleaved(cost, count, framework.interference) for cost in (forward, back))
        for total, part in zip(totals, (forward, back, weight), strict=False):
            total[:, :, here] += part
    return Phases(*totals)


def _gather(
    framework: FrameworkSpec,
    sharded: WeightSeconds,
    slot: int,
    count: np.ndarray,
    forward: np.ndarray,
    back: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Add in place what ZeRO-3 sends: beside compute up to its length; the overlapped part slows the compute down."""
    gather, again, scatter = (
        seconds[:, slot, None] * count for seconds in (sharded.gather, sharded.gather_again, sharded.scatter)
    )
    hidden = np.minimum(gather * framework.gather_overlap, forward[:, DEVICE] + forward[:, TENSOR])
    forward[:, DEVICE] += framework.interference * hidden
    forward[:, TENSOR] += gather - hidden
    # where nothing is gathered, the gradients are not scattered block by block either
    traffic = np.where(gather > 0, again + scatter, 0.0)
    hidden = np.minimum(traffic * framework.dp_overlap, back[:, DEVICE] + back[:, TENSOR] + weight[:, DEVICE])
    back[:, DEVICE] += framework.interference * hidden
    back[:, TENSOR] += traffic - hidden


def _interleaved(cost: np.ndarray, count: np.ndarray, interference: float) -> np.ndarray:
    """Hide collectives of one half beside the computation of the other, but for the first and the last of a run."""
    hidden = np.minimum(cost[:, TENSOR] * (1.0 - 0.5 / np.maximum(1.0, count)), cost[:, DEVICE])
    return np.stack([cost[:, DEVICE] + interference * hidden, cost[:, TENSOR] - hidden, cost[:, HOST]], axis=1)


def chunk_seconds(
    parts: Phases, slowest: np.ndarray, copied: np.ndarray | float = 0.0, engine: float = 0.0
) -> ChunkSeconds:
    """Return `slowest`: [candidate] time of the slowest rank over the mean; `copied`: [candidate, place] seconds of
    moving activations to the host, which runs beside; `engine`: seconds that the pipeline's engine adds to each."""
    forward = _pace(parts.forward)
    both = _pace(parts.backward_input + parts.backward_weight)
    back, weight = parts.backward_input, parts.backward_weight
    share = weight[:, DEVICE] / np.maximum(1e-30, back[:, DEVICE] + back[:, TENSOR] + weight[:, DEVICE])
    forward, both = np.maximum(forward, copied) * slowest[:, None], np.maximum(both, copied) * slowest[:, None]
    forward, both = forward + engine / 3, both + 2 * engine / 3
    return ChunkSeconds(forward, both * (1 - share), both * share)


def engine_seconds(framework: FrameworkSpec, pp: int, chunks: int) -> float:
    """Return what the pipeline's engine adds to each micro-batch of a chunk."""
    return framework.engine_ms_per_slot * 1e-3 / chunks if pp > 1 else 0.0


def _pace(cost: np.ndarray) -> np.ndarray:
    """Return the pace of device and host work beside one another: that of the slower."""
    return np.asarray(smooth_maximum(cost[:, DEVICE] + cost[:, TENSOR], cost[:, HOST]))


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """[candidate, stage] seconds of a micro-batch, all chunks of a stage; `paced`: [candidate] seconds of a micro-batch
    whose every chunk waits for its slowest stage."""

    forward: np.ndarray
    backward_input: np.ndarray
    backward_weight: np.ndarray
    paced: np.ndarray

    @property
    def backward(self) -> np.ndarray:
        return self.backward_input + self.backward_weight


def stage_seconds(seconds: ChunkSeconds, places: Places) -> StageSeconds:
    """Add up the chunks of each stage."""
    # [candidate, stage, chunk]
    forward, back, weight = (
        part[:, places.index] for part in (seconds.forward, seconds.backward_input, seconds.backward_weight)
    )
    paced = forward.max(axis=1).sum(axis=-1) + (back + weight).max(axis=1).sum(axis=-1)
    return StageSeconds(forward.sum(axis=-1), back.sum(axis=-1), weight.sum(axis=-1), paced)


def slowest_of(devices: int | np.ndarray, framework: FrameworkSpec) -> np.ndarray:
    """Return the slowest of n ranks over their mean: the expected largest of n normal deviations is about sqrt(2 ln
    n)."""
    return 1.0 + framework.jitter * np.sqrt(2.0 * np.log(np.atleast_1d(devices)))
