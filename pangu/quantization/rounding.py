"""Round to nearest: matrices [out, in] to codes and scales, and back.

int8: s = max|W| / 127 of each row, q = round(W / s) in -127..127.
int4: s = max|W| / 7 of each group of 32 neighbours in a row, kept in fp16, q in -7..7. Two codes share a byte, each
plus 8: the lower halves of a group's 16 bytes are its first 16 weights, the upper halves the other 16.
Where all weights of a scale are zero, s = 1. So |W - s q| ≤ s/2 everywhere.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pangu.foundation.errors import UserError

Bits = Literal[8, 4]
GROUP = 32
LARGEST = {8: 127, 4: 7}


@dataclass(frozen=True)
class Quantized:
    """codes: int8 [out, in], or uint8 [out, in/2]. scales: fp32 [out], or fp16 [out, in/32]."""

    codes: np.ndarray
    scales: np.ndarray


def check_finite(weight: np.ndarray, name: str) -> None:
    """Raise UserError that names a weight with a NaN or an infinity."""
    if not np.isfinite(weight).all():
        place = tuple(int(index) for index in np.argwhere(~np.isfinite(weight))[0])
        raise UserError(f"{name}: holds {weight[place]} at {list(place)}; such weights cannot be quantised")


def row_scales(weight: np.ndarray) -> np.ndarray:
    """Return fp32 [out] for int8."""
    scales = np.abs(weight).max(axis=1).astype(np.float32) / np.float32(LARGEST[8])
    scales[scales < np.finfo(np.float32).tiny] = 1
    return scales


def group_scales(groups: np.ndarray) -> np.ndarray:
    """Return largest numbers along the last axis -> fp16 scales for int4, never so small that half a step is
    exceeded."""
    largest = np.abs(groups).max(axis=-1).astype(np.float32)
    with np.errstate(over="ignore"):
        scales = (largest / np.float32(LARGEST[4])).astype(np.float16)
    if np.isinf(scales).any():
        raise UserError(f"a weight of {float(largest.max()):g} is too large for int4 with fp16 scales; take int8")
    short = scales.astype(np.float32) * np.float32(LARGEST[4] + 0.5) < largest
    scales[short] = np.nextafter(scales[short], np.float16(np.inf))
    scales[largest == 0] = 1
    return scales


def codes_of(weight: np.ndarray, scales: np.ndarray, bits: Bits) -> np.ndarray:
    """Return int8 codes of weights over scales that broadcast."""
    largest = LARGEST[bits]
    return np.clip(np.rint(weight / scales.astype(np.float32)), -largest, largest).astype(np.int8)


def pack(codes: np.ndarray) -> np.ndarray:
    """Return int8 codes [out, in] in -8..7 -> uint8 [out, in/2]."""
    groups = (codes.reshape(len(codes), -1, 2, GROUP // 2) + np.int8(8)).astype(np.uint8)
    return (groups[:, :, 0] | (groups[:, :, 1] << 4)).reshape(len(codes), -1)


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return uint8 [out, in/2] -> int8 codes [out, in]."""
    halves = packed.reshape(len(packed), -1, 1, GROUP // 2)
    both = np.concatenate([halves & 15, halves >> 4], axis=2)
    return (both.astype(np.int8) - np.int8(8)).reshape(len(packed), -1)


def round_to_nearest(weight: np.ndarray, bits: Bits, name: str) -> Quantized:
    """Quantise a matrix [out, in]. Raises UserError that names a weight which cannot be."""
    check_finite(weight, name)
    if bits == 8:
        scales = row_scales(weight)
        return Quantized(codes_of(weight, scales[:, None], 8), scales)
    check_groups(weight.shape[1], name)
    groups = weight.reshape(len(weight), -1, GROUP)
    scales = group_scales(groups)
    return Quantized(pack(codes_of(groups, scales[..., None], 4).reshape(weight.shape)), scales)


def check_groups(inputs: int, name: str) -> None:
    """Raise UserError where a row is not whole groups."""
    if inputs % GROUP:
        raise UserError(f"{name}: has {inputs} inputs, int4 needs a multiple of {GROUP}; take int8")


def dequantize(quantized: Quantized) -> np.ndarray:
    """Return fp32 [out, in]."""
    if quantized.codes.dtype == np.int8:
        return quantized.codes.astype(np.float32) * quantized.scales[:, None]
    codes = unpack(quantized.codes)
    groups = codes.reshape(len(codes), -1, GROUP).astype(np.float32)
    return (groups * quantized.scales.astype(np.float32)[..., None]).reshape(codes.shape)
