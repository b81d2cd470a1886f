"""Chinese word segmentation, equal to `jieba.cut(text)` of jieba 0.42.1 (accurate mode, HMM on), about thirty times as fast.

What is notable:

* jieba's own dictionary and emission tables are used, compiled once into a double-array trie that is kept in the
  user's cache directory (`tables.py`).
* The arithmetic is jieba's to the last bit: the same float64 sums in the same order, ties broken as its `max` over
  tuples breaks them (`kernels.py`).
* The kernels release the interpreter lock, so threads help.

jieba's global state is not looked at: words that a program adds with `jieba.add_word` change jieba, not this.
"""

import numpy as np

from pangu.segmentation.kernels import join_tokens, mark_token_ends
from pangu.segmentation.tables import load_tables

__all__ = ["code_points", "joined_tokens", "segment", "token_ends"]


def code_points(text: str) -> np.ndarray:
    """The code points of `text`, uint32[len(text)]; lone surrogates pass."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def token_ends(points: np.ndarray) -> np.ndarray:
    """uint8[n]: 1 where a token of the text with these code points (uint32[n]) ends."""
    return mark_token_ends(points, load_tables())


def segment(text: str) -> list[str]:
    """`list(jieba.cut(text))`."""
    tokens = []
    begin = 0
    for end in (np.flatnonzero(token_ends(code_points(text))) + 1).tolist():
        tokens.append(text[begin:end])
        begin = end
    return tokens


def joined_tokens(text: str) -> bytes:
    """UTF-8 of the tokens joined by spaces, a space of the text itself written ▂ and a newline ▃.

    Raises UnicodeEncodeError for a lone surrogate.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return join_tokens(points, token_ends(points)).tobytes()
