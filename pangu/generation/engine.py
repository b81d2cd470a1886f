"""Batches of sequences through the cached decoder, a token at a time.

Graphs have fixed shapes, so a batch compiles two: one that takes CHUNK tokens of every prompt a call, whatever the
prompts' lengths, and one that takes a token. The caches hold a multiple of SLOTS tokens, what prompt and new tokens
need and not the whole context; caches that are large enough, and not twice too large, are used again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.device import check_dtype
from pangu.foundation.errors import UserError
from pangu.generation.options import GenerationOptions
from pangu.generation.sampling import Sampler
from pangu.generation.text_stream import TextStream
from pangu.model.inference import CachedDecoder, DecodingWeights, Weights

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer

# Tokens of each prompt a call: long enough for fast matrix products, short enough that a short prompt wastes little.
CHUNK = 64
SLOTS = 128  # a multiple of CHUNK, so that padding of the last chunk has slots too

Finish = Literal["length", "stop_id", "stop_string"]


@dataclass(frozen=True)
class Piece:
    """One step of one sequence. `text` is "" without a tokenizer, and while a character or a stop string is open."""

    sequence: int
    token_id: int | None  # None: a stop id, which is no part of the sequence
    text: str
    finish: Finish | None  # why the sequence ends with this piece


@dataclass
class Continuation:
    """What one prompt became. `prompt_ids` as used, that is after truncation; `ids` are the new tokens."""

    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None


class CachedBatch:
    """Rows of one decoder and how many steps each has in its cache. Rows beyond the sequences in use are idle.

    A step's token stands at the position of that number and asks for the next one, unless positions and query
    positions are given (`pangu.generation.order`).
    """

    def __init__(self, decoder: CachedDecoder, batch: int, positions: int) -> None:
        """positions: that a row may reach, at most the decoder's slots and the context."""
        self.decoder, self.batch, self.positions = decoder, batch, positions
        self.lengths = np.zeros(batch, np.int32)

    def call(
        self,
        phase: Literal["prefill", "increment"],
        ids: np.ndarray,
        start: np.ndarray,
        last: np.ndarray,
        positions: np.ndarray | None = None,
        query_positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """Each of the two shapes has a phase of its own.

        MindSpore runs a Cell that it has compiled under one of these two names without asking again whether it must be
        compiled: that would take longer than the smaller networks themselves.
        """
        steps = start[:, None] + np.arange(ids.shape[1], dtype=np.int32)
        own = np.minimum(steps, self.positions - 1) if positions is None else positions
        asked = own if query_positions is None else query_positions
        self.decoder.phase = phase
        return self.decoder(*map(Tensor, (ids, start, last, own, asked))).asnumpy()

    def prefill(
        self,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]] | None = None,
        query_positions: Sequence[Sequence[int]] | None = None,
    ) -> np.ndarray:
        """Forget all, read up to `batch` sequences of 1..positions ids -> logits [sequences, V] at their ends."""
        self.lengths[:] = 1
        self.lengths[: len(sequences)] = [len(sequence) for sequence in sequences]
        longest = int(self.lengths.max())
        given = [None if rows is None else self.in_chunks(rows) for rows in (positions, query_positions)]
        ids = self.in_chunks(sequences)
        logits = []
        for start in range(0, longest, CHUNK):
            last = np.clip(self.lengths - 1 - start, 0, CHUNK - 1)
            starts = np.full(self.batch, start, np.int32)
            chunks = [
                None if rows is None else np.ascontiguousarray(rows[:, start : start + CHUNK]) for rows in (ids, *given)
            ]
            logits.append(self.call("prefill", chunks[0], starts, last, *chunks[1:]))
        return np.stack([logits[(len(sequence) - 1) // CHUNK][row] for row, sequence in enumerate(sequences)])

    def in_chunks(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """int32 [batch, a multiple of CHUNK], filled up with zeros."""
        whole = np.zeros((self.batch, -(-max(map(len, rows)) // CHUNK) * CHUNK), np.int32)
        for row, sequence in enumerate(rows):
            whole[row, : len(sequence)] = sequence
        return whole

    def step(
        self, ids: np.ndarray, positions: np.ndarray | None = None, query_positions: np.ndarray | None = None
    ) -> np.ndarray:
        """The next token of every row, int32 [batch] -> logits [batch, V]. positions, query_positions: [batch]."""
        # A sequence that has ended goes on here unheeded, at the last position when it reaches it.
        starts = np.minimum(self.lengths, self.positions - 1)
        given = [None if rows is None else rows.reshape(-1, 1) for rows in (positions, query_positions)]
        logits = self.call("increment", ids.reshape(-1, 1), starts, np.zeros_like(starts), *given)
        self.lengths = starts + 1
        return logits


class Generator:
    """Continues prompts with one set of weights (released names), in compiled graphs after `pangu.device.use_device`.

    In MindSpore's PyNative mode it runs operator by operator, for looking inside.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        tokenizer: "Tokenizer | None" = None,
        batch_size: int = 8,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size = {batch_size}: must be at least 1")
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size}: they do not fit"
            )
        check_dtype(config)
        self.config, self.tokenizer, self.batch_size = config, tokenizer, batch_size
        self.layers = DecodingWeights(config, weights)
        self.batches: dict[tuple[int, int], CachedBatch] = {}

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        model: Path | str | None = None,
        tokenizer: Path | str | None = None,
        dtype: str | None = None,
        batch_size: int = 8,
    ) -> "Generator":
        """From a run directory, a checkpoint directory or a .safetensors file (see `load_for_inference`)."""
        from pangu.checkpoint.open import load_for_inference
        from pangu.tokenizer import Tokenizer

        config, weights, place = load_for_inference(checkpoint, model, tokenizer)
        if dtype:
            config = config.model_copy(update={"compute_dtype": dtype})
        return cls(config, weights, Tokenizer.load(place) if place else None, batch_size)

    def open(self, batch: int, tokens: int) -> CachedBatch:
        """Caches for `tokens` tokens in each of `batch` rows; compiled on first use."""
        slots = -(-tokens // SLOTS) * SLOTS
        fitting = [size for rows, size in self.batches if rows == batch and slots <= size <= 2 * slots]
        key = (batch, min(fitting, default=slots))
        if key not in self.batches:
            decoder = CachedDecoder(self.config, self.layers, *key)
            self.batches[key] = CachedBatch(decoder, batch, min(key[1], self.config.seq_length))
        return self.batches[key]

    def fit(self, prompt: Sequence[int], options: GenerationOptions, place: str = "prompt") -> list[int]:
        """The prompt checked, and cut from the left where the options allow it. Raises UserError."""
        prompt = [int(token) for token in prompt]
        context, new = self.config.seq_length, options.max_new_tokens
        if not prompt:
            raise UserError(f"{place}: is empty; give at least one token")
        wrong = next((token for token in prompt if not 0 <= token < self.config.vocab_size), None)
        if wrong is not None:
            raise UserError(f"{place}: id {wrong} is outside 0..{self.config.vocab_size - 1}")
        # The last new token is never read, so it needs no position.
        room = context + 1 - new
        if len(prompt) <= room:
            return prompt
        if options.overflow == "slide":
            return prompt[-context:]
        if len(prompt) > context and options.overflow == "refuse":
            raise UserError(f"{place}: has {len(prompt)} tokens, the context {context}: shorten it, truncate or slide")
        if options.overflow == "refuse":
            raise UserError(
                f"{place}: its {len(prompt)} tokens and {new} new ones exceed the context of {context}: "
                f"ask for at most {context + 1 - len(prompt)} new tokens, truncate the prompt, or slide"
            )
        if room < 1:
            raise UserError(f"{new} new tokens leave no room for a prompt in the context of {context}: ask for fewer")
        return prompt[-room:]

    def fit_all(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> list[list[int]]:
        """Every prompt as `fit` leaves it; errors count the prompts from 1."""
        if options.stop_strings and self.tokenizer is None:
            raise UserError("stop strings need a tokenizer; stop ids do not")
        return [self.fit(prompt, options, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]

    def generate(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> list[Continuation]:
        """Continue every prompt; results in the order of the prompts."""
        fitted = self.fit_all(prompts, options)
        results = [Continuation(prompt) for prompt in fitted]
        for piece in self.pieces(fitted, options):
            result = results[piece.sequence]
            if piece.token_id is not None:
                result.ids.append(piece.token_id)
            result.text += piece.text
            result.finish = piece.finish
        return results

    def stream(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> Iterator[Piece]:
        """Pieces as they come, `batch_size` prompts at a time. Every prompt is checked before anything is computed."""
        return self.pieces(self.fit_all(prompts, options), options)

    def pieces(self, prompts: list[list[int]], options: GenerationOptions) -> Iterator[Piece]:
        if not prompts:
            return
        longest = max(map(len, prompts))
        tokens = min(longest + options.max_new_tokens - 1, self.config.seq_length)
        rows = min(self.batch_size, len(prompts))
        sequences = [RunningSequence(number, prompt, options, self.tokenizer) for number, prompt in enumerate(prompts)]
        for start in range(0, len(prompts), rows):
            yield from self.run(self.open(rows, tokens), sequences[start : start + rows])

    def run(self, batch: CachedBatch, sequences: list["RunningSequence"]) -> Iterator[Piece]:
        """Until every sequence of the batch has ended."""
        context = self.config.seq_length
        logits = batch.prefill([sequence.ids for sequence in sequences])
        while True:
            if not np.isfinite(logits.sum()):
                self.batches.clear()  # their caches hold it too
                raise UserError(
                    f"the logits are not finite in {self.config.compute_dtype}: the weights are damaged, "
                    "or need fp32 or bf16"
                )
            for row, sequence in enumerate(sequences):
                if not sequence.finish:
                    yield sequence.take(logits[row])
            running = [sequence for sequence in sequences if not sequence.finish]
            if not running:
                return
            if any(len(sequence.ids) > context for sequence in running):
                for sequence in sequences:
                    if sequence.finish or len(sequence.ids) > context:
                        sequence.ids = sequence.ids[-max(1, context // 2) :]
                logits = batch.prefill([sequence.ids for sequence in sequences])
            else:
                newest = np.zeros(batch.batch, np.int32)
                newest[: len(sequences)] = [sequence.ids[-1] for sequence in sequences]
                logits = batch.step(newest)


class RunningSequence:
    """A prompt on its way: its ids so far (what the context has forgotten left out), its sampler, its text."""

    def __init__(
        self, number: int, prompt: list[int], options: GenerationOptions, tokenizer: "Tokenizer | None"
    ) -> None:
        self.number, self.ids, self.options = number, list(prompt), options
        self.sampler = Sampler(options, prompt)
        # A model may have more rows than its tokenizer has ids; those are never drawn.
        self.vocab_size = tokenizer.vocab_size if tokenizer else None
        self.text = TextStream(tokenizer, options.stop_strings) if tokenizer else None
        self.count = 0
        self.finish: Finish | None = None

    def take(self, logits: np.ndarray) -> Piece:
        """Choose the next token from logits [V]."""
        token = self.sampler.choose(logits[: self.vocab_size])
        if token in self.options.stop_ids:
            self.finish = "stop_id"
            return Piece(self.number, None, self.text.finish() if self.text else "", self.finish)
        self.ids.append(token)
        self.count += 1
        text = self.text.push(token) if self.text else ""
        if self.count == self.options.max_new_tokens:
            self.finish = "length"
            text += self.text.finish() if self.text else ""
        if self.text and self.text.stopped:
            self.finish = "stop_string"
        return Piece(self.number, token, text, self.finish)
