"""Bytes of activations at each stage's fullest moment, for all layouts with one number of stages and chunks: the memory
walk of `cost/memory.py`, written over arrays."""

from dataclasses import dataclass

import numpy as np

from parallel_strategy.search.shapes import KINDS, ShapeTable

LAYERS = [index for index, kind in enumerate(KINDS) if kind not in ("embedding", "head")]


@dataclass(slots=True)
class Activations:
    """`counts`: [pp, chunks, kinds] blocks; `lost`: 1 + fragmentation; `micro_batches`: [layouts]."""

    tables: list[ShapeTable]
    counts: np.ndarray
    micro_batches: np.ndarray
    lost: float

    def of_a_micro_batch(self, mode: str, again: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """([layouts, pp, chunks] bytes kept until backward, the same of what backward needs beside). `again`: [pp,
        chunks] recomputed layers."""
        saved, attention, entry, transient = (
            np.stack([getattr(table, name) for table in self.tables])
            for name in ("saved", "attention", "entry", "transient")
        )
        pp, chunks, _ = self.counts.shape
        kept = np.zeros((len(self.tables), pp, chunks))
        working = np.zeros_like(kept)
        for chunk in range(chunks):
            counts = self.counts[:, chunk, :]
            kept[:, :, chunk] = saved @ counts.T
            left = again[:, chunk].copy()
            for kind in range(len(KINDS)):
                taken = np.zeros(pp)
                if kind in LAYERS and mode != "none":
                    taken = np.minimum(counts[:, kind], left)
                    left = left - taken
                dropped = saved[:, kind] - entry[:, kind] if mode == "full" else attention[:, kind]
                kept[:, :, chunk] -= dropped[:, None] * taken[None, :]
                rerun = saved[:, kind] if mode == "full" else attention[:, kind]
                need = np.where(taken > 0, rerun[:, None], 0.0) + transient[:, kind][:, None]
                present = counts[:, kind] > 0
                working[:, :, chunk] = np.maximum(working[:, :, chunk], np.where(present, need, 0.0))
        return kept, working

    def at_the_peak(self, schedule: str, kept: np.ndarray, working: np.ndarray) -> np.ndarray:
        """[layouts, pp] bytes."""
        _, pp, chunks = kept.shape
        stages, m = np.arange(pp), self.micro_batches[:, None]
        if chunks > 1:
            ahead = (pp - stages - 1) * 2 + (chunks - 1) * pp + 1
            full = np.where(m == pp, m * chunks, np.minimum(ahead, m * chunks))
            return self.lost * (_interleaved_kept(kept, full, pp) + working.max(axis=-1))
        if schedule == "gpipe":
            flying = m + np.zeros(pp)
        elif schedule == "zb_h2":
            flying = np.minimum(m, np.full(pp, 2 * pp - 1)[None, :])
        elif schedule == "zb_h1":
            flying = np.minimum(m, np.full(pp, pp)[None, :])
        else:
            flying = np.minimum(m, (pp - stages)[None, :])
        return self.lost * (kept[:, :, 0] * flying + working[:, :, 0])


def _interleaved_kept(kept: np.ndarray, flying: np.ndarray, pp: int) -> np.ndarray:
    """Bytes of the chunks in flight: rounds of pp micro-batches through the stage's chunks, first chunk first."""
    chunks = kept.shape[-1]
    total = np.zeros(kept.shape[:2])
    rounds, rest = np.divmod(flying, pp * chunks)
    for chunk in range(chunks):
        here = rounds * pp + np.clip(rest - chunk * pp, 0, pp)
        total += here * kept[:, :, chunk]
    return total
