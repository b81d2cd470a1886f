"""Text to token ids and back: equal to jieba and SentencePiece, in compiled loops.

`tokenizer` is what callers use. Below it: `segmentation` (jieba's cut), `unigram` (SentencePiece's Unigram encoder),
`vocabulary` (a model file as arrays), and what those stand on: `double_array` (tries), `lazily_compiled` (numba when it
pays), `array_cache` (tables kept between processes). `parallel_map` and `line_blocks` serve the commands on large
files.
"""

from pangu.tokenizer.tokenizer import SpecialIds, StreamDecoder, Tokenizer, joined_tokens
from pangu.tokenizer.vocabulary import NEWLINE_PIECE, RELEASED_LAYOUT, SPACE_MARK, read_model

__all__ = [
    "NEWLINE_PIECE",
    "RELEASED_LAYOUT",
    "SPACE_MARK",
    "SpecialIds",
    "StreamDecoder",
    "Tokenizer",
    "joined_tokens",
    "read_model",
]
