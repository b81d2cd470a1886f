"""Seconds of device kernels, all kernels of a block at once.

A matrix product takes waves of tiles over the device's cores, each tile pays for K and for a prologue, and nothing is
faster than its bytes or a launch. Tiles and split-K are chosen as a library would: whichever is fastest.
"""

import numpy as np

from parallel_strategy.graph.operator import KernelTable, Phase
from parallel_strategy.spec.cluster import Device
from parallel_strategy.spec.framework import FrameworkSpec

SPLITS = (1, 2, 4, 8)
SAME_WAVE = 0.995  # so much of a wave is spread over all cores without another one
# Bytes of an operand's element of products in narrow types; everything between them is in 16 bits. NVFP4 has a scale of
# 8 bits for every 16 elements (NVIDIA, "Pretraining Large Language Models with NVFP4", section 2).
NARROW = {"fp8": 1.0, "fp4": 0.5 + 1 / 16}


def matmul_seconds(
    device: Device,
    dtype: str,
    m: np.ndarray,
    n: np.ndarray,
    k: np.ndarray,
    batch: np.ndarray,
    tokens: np.ndarray | None = None,
) -> np.ndarray:
    """Compute time of `batch` products m x n x k, without memory and launch limits.

    `tokens`: [m n k, product] whether the size counts tokens, else m does. Tokens lie one after another in memory, each
    a whole row, so only the lengths of rows must be aligned.
    """
    gemm = device.gemm
    free = (True, False, False) if tokens is None else tokens
    per_core = device.peak(dtype) * gemm.eff_max * device.clock / gemm.cores
    largest = gemm.tiles[0][0] * gemm.tiles[0][1]
    best = np.full(m.shape, np.inf)
    for rows, columns in gemm.tiles:
        efficiency = gemm.small_tile_eff ** np.log2(largest / (rows * columns))
        for high, wide in {(rows, columns), (columns, rows)}:
            tiles = _tiles(m, high, free[0]) * _tiles(n, wide, free[1]) * batch
            for split in SPLITS:
                waves = np.ceil(tiles * split / gemm.cores * SAME_WAVE)
                depth = np.ceil(k / split) + gemm.k_half
                best = np.minimum(best, waves * (2.0 * high * wide * depth) / (per_core * efficiency))
    efficiency = np.ones(m.shape)
    of_batch = gemm.misaligned_batch_eff or gemm.misaligned_eff
    misaligned = np.where(batch > 1, of_batch, gemm.misaligned_eff)
    for size, counts_tokens in zip((m, n, k), free, strict=True):
        steps = np.where(
            size % gemm.align != 0, misaligned, np.where(size % gemm.good_align != 0, gemm.poor_align_eff, 1.0)
        )
        efficiency = np.where(counts_tokens, efficiency, np.minimum(efficiency, steps))
    return best / efficiency


def _tiles(size: np.ndarray, tile: int, counts_tokens: np.ndarray | bool) -> np.ndarray:
    """Return how many tiles a size takes. Of tokens a started tile counts as far as it is filled: libraries have tiles
    of several heights, and hand what is left over to all cores."""
    return np.where(counts_tokens, np.maximum(1.0, size / tile), np.ceil(size / tile))


def kernel_seconds(table: KernelTable, device: Device, framework: FrameworkSpec, dtype: str) -> np.ndarray:
    """Return the device time of every kernel of the table."""
    moving = table.bytes / (device.hbm.gbps * 1e9 * device.hbm.eff * device.vector.eff)
    if table.kinds and device.vector.kinds:
        moving /= kind_speeds(table, device.vector.kinds)
    seconds = moving + device.vector.launch_us * 1e-6 * table.launches
    products = table.m > 0
    if products.any():
        m, n, k, batch = (column[products] for column in (table.m, table.n, table.k, table.batch))
        moved = table.bytes[products] - (2.0 - NARROW.get(dtype, 2.0)) * batch * (m * k + k * n)
        memory = moved / (device.hbm.gbps * 1e9 * device.hbm.eff)
        tokens = table.tokens[:, products]
        compute = matmul_seconds(device, dtype, m, n, k, batch, tokens)
        if device.gemm.grouped_eff < 1:  # products with weights count tokens in one size, attention's in two
            compute = compute / np.where((batch > 1) & (tokens.sum(axis=0) == 1), device.gemm.grouped_eff, 1.0)
        seconds[products] = np.maximum(compute, memory) + device.gemm.launch_us * 1e-6
        if dtype in NARROW:
            # forward quantizes its input and backward its gradient, each also transposed for the weight's product: 2
            # bytes read and 2 written an element, where the scale is not sought first; weights are quantized once
            paid = np.where(table.phase[products] < Phase.BACKWARD_WEIGHT, m * k * batch, 0.0)
            bandwidth = device.hbm.gbps * 1e9 * device.hbm.eff * device.vector.eff
            seconds[products] += quantize_bytes(framework, dtype) * paid / bandwidth + np.where(
                paid > 0, device.vector.launch_us * 1e-6, 0.0
            )
    if table.flash.any():
        flash = table.flash
        backward = np.where(table.phase[flash] > 0, device.flash_backward, 1.0)
        rate = device.peak("bf16" if dtype in NARROW else dtype) * device.flash_eff * framework.flash_scale * backward
        rate = rate * device.clock * np.where(table.flash_ring[flash], framework.ring_scale, 1.0)
        rate = rate * narrow_head_share(device, table.flash_head[flash])
        memory = table.bytes[flash] / (device.hbm.gbps * 1e9 * device.hbm.eff)
        seconds[flash] = (
            np.maximum(table.flops[flash] / rate, memory) + device.gemm.launch_us * 1e-6 * table.launches[flash]
        )
    return seconds


def quantize_bytes(framework: FrameworkSpec, dtype: str) -> float:
    """Return the bytes that are read and written to make an operand's element narrow. For fp4 the tensor's largest
    value is sought first, which reads all of it once more; the two copies that are written are smaller."""
    if dtype != "fp4":
        return framework.quantize_bytes
    return framework.quantize_bytes + 2.0 - 2 * (NARROW["fp8"] - NARROW["fp4"])


def narrow_head_share(device: Device, width: np.ndarray | float) -> np.ndarray | float:
    """Return what narrow heads leave of fused attention's rate."""
    full = device.flash_full_head
    return np.sqrt(np.minimum(1.0, width / full)) if full else 1.0


def kind_speeds(table: KernelTable, measured: dict[str, list[tuple[float, float]]]) -> np.ndarray:
    """Return the speed of every kernel over that of `vector.eff`: what its kind reached over as many bytes; 1 where
    unknown."""
    speeds = np.ones(len(table.bytes))
    kinds = np.array(table.kinds)
    for kind, points in measured.items():
        mine = kinds == kind
        if mine.any():
            sizes, reached = np.log(np.array(points)).T
            megabytes = np.maximum(table.bytes[mine] / np.maximum(table.launches[mine], 1e-9) / 1e6, 1e-9)
            speeds[mine] = np.exp(np.interp(np.log(megabytes), sizes, reached))
    return speeds


def smooth_maximum(first: np.ndarray | float, second: np.ndarray | float, sharpness: float = 6.0) -> np.ndarray | float:
    """Return the larger of two, rounded off where they are close: a phase is launch-bound in parts only."""
    larger = np.maximum(first, second)
    ratio = np.minimum(first, second) / np.maximum(larger, 1e-30)
    return larger * (1.0 + ratio**sharpness) ** (1.0 / sharpness)
