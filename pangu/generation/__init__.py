"""Continuing text: `Generator` (engine) and what may be asked of it (`GenerationOptions`).

Read in this order: `options`, `engine` (batches, prompts, the loop), `pangu.model.inference` (the network with
its caches), `sampling` (logits to a token), `text_stream` (tokens to text, stop strings).
"""

from pangu.generation.engine import Continuation, Generator, Piece
from pangu.generation.options import GenerationOptions

__all__ = ["Continuation", "GenerationOptions", "Generator", "Piece"]
