"""How many micro-batches of each chunk wait for their backward at the moments when a stage may be fullest.

In closed form where the schedule has one, because a search asks for thousands; for the V-shaped schedules by walking
the order.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parallel_strategy.schedule.orders import order_of, splits_backward

CHUNKED = ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory")


@dataclass(frozen=True, slots=True)
class Moments:
    """`kept` [stage, moment, chunk]: micro-batches whose activations wait; `runs` [stage, moment, chunk]: 1 for the
    chunk whose backward runs at that moment."""

    kept: np.ndarray
    runs: np.ndarray


def moments(schedule: str, pp: int, chunks: int, micro_batches: int) -> Moments:
    """Return the moments of every stage among which its fullest one is. `chunks`: of one stage."""
    if pp == 1:  # each micro-batch goes through all chunks and back
        ones = np.ones((chunks, chunks))
        return Moments(np.tril(ones)[None], np.eye(chunks)[None])
    if chunks == 1:
        kept = _of_one_chunk(schedule, pp, micro_batches)
        return Moments(kept[:, None, None], np.ones((pp, 1, 1)))
    if schedule in CHUNKED:
        # later rounds are like the third
        return _of_chunks(pp, chunks, min(micro_batches, 3 * pp), less_memory=schedule.endswith("less_memory"))
    return _walked(schedule, pp, chunks, min(micro_batches, 2 * pp + 6))


def _of_one_chunk(schedule: str, pp: int, micro_batches: int) -> np.ndarray:
    """Return [stage] the most micro-batches in flight."""
    stages = np.arange(pp)
    if schedule == "gpipe":
        most = np.full(pp, micro_batches)
    elif schedule == "zb_h2":  # the warm-up, and the weight gradients that are late
        most = np.full(pp, 2 * pp - 1)
    elif schedule == "zb_h1":
        most = np.full(pp, pp)
    else:
        most = pp - stages
    return np.minimum(most, micro_batches).astype(float)


@lru_cache(maxsize=1024)
def _of_chunks(pp: int, chunks: int, micro_batches: int, *, less_memory: bool) -> Moments:
    """Return the moments before a backward at which a chunk's count turns: rounds of pp micro-batches go forward
    through the chunks, first chunk first, and back through them, last chunk first (`orders._interleaved`)."""
    total = micro_batches * chunks
    stages = np.arange(pp)[:, None]
    warm = np.minimum(total, (pp - 1 - stages) * (1 if less_memory else 2) + (chunks - 1) * pp)
    if micro_batches == pp and not less_memory:
        warm = np.full_like(warm, total)
    # Counts go up and down in straight lines between the ends of rounds; backward `step` is the first or last of one
    edges = np.arange(0, total + pp, pp)
    turns = np.concatenate([np.broadcast_to(edges, (pp, len(edges))), edges - warm - 1, total - warm], axis=1)
    steps = np.clip(np.concatenate([turns - 1, turns, turns + 1], axis=1), 0, total - 1)
    steps = np.sort(steps, axis=1)
    started = np.minimum(warm + steps + 1, total)
    ahead = _through(started, pp, chunks) - _through(steps, pp, chunks)[..., ::-1]
    running = chunks - 1 - (steps % (pp * chunks)) // pp
    return _fewest(ahead, (running[..., None] == np.arange(chunks)).astype(float))


def _through(steps: np.ndarray, pp: int, chunks: int) -> np.ndarray:
    """Return [..., chunk] micro-batches that went through each chunk in so many steps, chunks in the order of going."""
    rounds, rest = np.divmod(steps, pp * chunks)
    return rounds[..., None] * pp + np.clip(rest[..., None] - np.arange(chunks) * pp, 0, pp)


def _fewest(kept: np.ndarray, runs: np.ndarray) -> Moments:
    """Return the moments that no other of their stage exceeds in every count, as many for each stage (the last
    repeats)."""
    chosen = []
    for counts, running in zip(kept, runs, strict=True):
        rows = np.concatenate([counts, running], axis=1)
        covered = (rows[None] >= rows[:, None]).all(axis=-1)  # [one, by another]
        equal = covered & covered.T
        earlier = np.tri(len(rows), k=-1, dtype=bool)
        chosen.append(np.flatnonzero(~(covered & (earlier | ~equal)).any(axis=1)))
    most = max(map(len, chosen))
    index = np.array([np.pad(rows, (0, most - len(rows)), mode="edge") for rows in chosen])
    stages = np.arange(len(kept))[:, None]
    return Moments(kept[stages, index].astype(float), runs[stages, index])


@lru_cache(maxsize=128)
def _walked(schedule: str, pp: int, chunks: int, micro_batches: int) -> Moments:
    """Return the same by walking each stage's list of tasks."""
    split = splits_backward(schedule)
    kept, runs = [], []
    for tasks in order_of(schedule, pp, chunks, micro_batches):
        mine = sorted({task.chunk for task in tasks})
        counts = [0.0] * chunks
        seen: dict[tuple[float, ...], None] = {}
        for kind, chunk, _ in tasks:
            place = mine.index(chunk)
            counts[place] += kind == "F"
            running = [float(kind != "F" and other == place) for other in range(chunks)]
            seen[*counts, *running] = None
            counts[place] -= kind == "W" or (kind == "B" and not split)
        rows = np.array(list(seen))
        kept.append(rows[:, :chunks])
        runs.append(rows[:, chunks:])
    most = max(map(len, kept))
    kept, runs = (
        [np.pad(rows, ((0, most - len(rows)), (0, 0)), mode="edge") for rows in part] for part in (kept, runs)
    )
    return _fewest(np.array(kept), np.array(runs))
