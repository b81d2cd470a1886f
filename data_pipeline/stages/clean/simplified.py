"""Traditional to simplified characters by OpenCC, which is called only for text that holds one of its characters.

| conversion | for |
|---|---|
| `t2s` | traditional characters in OpenCC's own standard; leaves 看著 |
| `tw2s`, `tw2sp` | Taiwan: 看著 → 看着, 著作 stays; with `p` its words too: 軟體 → 软件 |
| `hk2s` | Hong Kong: 衞 → 卫, 裏 → 里 |
| `auto` | the one that a text's forms ask for: tw2s for 著 as a particle, hk2s for forms of Hong Kong |
"""

import functools
import re
from typing import Literal

import numpy as np

Conversion = Literal["auto", "t2s", "tw2s", "tw2sp", "hk2s", "off"]

_TAIWAN = re.compile("[裡麼臺]|(?<![執顯卓名土編論原譯專合巨拙遺撰])著(?![作名述稱者錄書論有色])")
_HONG_KONG = re.compile("[裏衞綫羣嘅喺佢哋咗啲嚟冇]|(?<=[看聽想沿拿站坐隨跟向朝])着")


def simplify(text: str, conversion: Conversion = "t2s") -> tuple[str, bool]:
    """Return (simplified text, whether anything changed)."""
    if conversion == "off" or _traditional_characters(conversion).isdisjoint(text):
        return text, False
    converted = _converter(_detected(text) if conversion == "auto" else conversion).convert(text)
    return converted, converted != text


def _detected(text: str) -> str:
    """Return the conversion for the standard that a traditional text follows."""
    taiwan = len(_TAIWAN.findall(text)) if _has_one(text, "裡麼臺著") else 0
    hong_kong = len(_HONG_KONG.findall(text)) if _has_one(text, "裏衞綫羣嘅喺佢哋咗啲嚟冇着") else 0
    if taiwan > hong_kong:
        return "tw2s"
    return "hk2s" if hong_kong else "t2s"


def _has_one(text: str, characters: str) -> bool:
    """Return whether a text holds one of some characters."""
    for character in characters:  # noqa: SIM110 (a generator takes twice as long)
        if character in text:
            return True
    return False


@functools.cache
def _converter(conversion: str):
    from opencc import OpenCC

    return OpenCC(conversion)


@functools.cache
def _traditional_characters(conversion: str) -> frozenset[str]:
    """Return every character that OpenCC changes when it stands alone (about 4,100)."""
    every = [
        chr(point)
        for first, last in ((0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
        for point in range(first, last)
    ]
    # a text is traditional by the characters that t2s knows: what the others add, simplified text has too (著)
    changed = _converter("t2s" if conversion == "auto" else conversion).convert("\n".join(every)).split("\n")
    return frozenset(before for before, after in zip(every, changed, strict=True) if before != after)


@functools.cache
def traditional_points(conversion: str = "t2s") -> np.ndarray:
    """Return these characters as bool[262144]."""
    from data_pipeline.kernels.normal_form import TABLE_SIZE

    points = np.zeros(TABLE_SIZE, bool)
    if conversion != "off":
        points[[ord(character) for character in _traditional_characters(conversion)]] = True
    return points
