"""Continuing text: `Generator` (engine) and what may be asked of it (`GenerationOptions`).

Read in this order: `options`, `engine` (prompts, rows, the loop), `decoding_batch` (what an engine must be able to do),
`sampling` (logits to a token), `text_stream` (tokens to text, stop strings). The two engines:
`compiled`, and `mindspore_decoder`, which batches `pangu.model.inference`.
"""

from pangu.generation.engine import Continuation, Generator, Piece
from pangu.generation.options import GenerationOptions

__all__ = ["Continuation", "GenerationOptions", "Generator", "Piece"]
