"""Traditional to simplified characters, by OpenCC (t2s), which is called only for text that holds one of its
characters."""

import functools

import numpy as np


def simplify(text: str) -> tuple[str, bool]:
    """(simplified text, whether anything changed)."""
    if _traditional_characters().isdisjoint(text):
        return text, False
    converted = _converter().convert(text)
    return converted, converted != text


@functools.cache
def _converter():
    from opencc import OpenCC

    return OpenCC("t2s")


@functools.cache
def _traditional_characters() -> frozenset[str]:
    """Every character that OpenCC changes when it stands alone (about 4,100)."""
    every = [
        chr(point)
        for first, last in ((0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
        for point in range(first, last)
    ]
    changed = _converter().convert("\n".join(every)).split("\n")
    return frozenset(before for before, after in zip(every, changed, strict=True) if before != after)


@functools.cache
def traditional_points() -> np.ndarray:
    """bool[262144]: these characters."""
    from data_pipeline.kernels.normal_form import TABLE_SIZE

    points = np.zeros(TABLE_SIZE, bool)
    points[[ord(character) for character in _traditional_characters()]] = True
    return points
