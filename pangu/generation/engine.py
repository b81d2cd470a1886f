"""Many sequences through one network, a token at a time; a row that has ended takes the next prompt.

The caches hold what prompt and new tokens need and not the whole context; caches that are large enough, and not twice
too large, are used again.
"""

import copy
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation.additions import NOTHING, Additions
from pangu.generation.decoding_batch import SLOTS, DecodingBatch, EngineName, Network, RowTokens
from pangu.generation.domain_mixture import MixedNetwork
from pangu.generation.options import GenerationOptions
from pangu.generation.sampling import Sampler
from pangu.generation.text_stream import TextStream
from pangu.generation.whole_characters import ByteTokens, WholeCharacters

if TYPE_CHECKING:
    from pangu.generation.speculation import Draft
    from pangu.tokenizer import Tokenizer

Finish = Literal["length", "stop_id", "stop_string", "filtered"]
# {name of a linear layer: (A [rank, in], B [out, rank])}: what an adapter adds to a network, B scaled.
LowRank = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Piece:
    """One step of one sequence. `text` is "" without a tokenizer, and while a character or a stop string is open."""

    sequence: int
    token_id: int | None  # None: a stop id, which is no part of the sequence
    text: str
    finish: Finish | None  # why the sequence ends with this piece
    logprob: float | None = None  # of the token, where `GenerationOptions.logprobs` asks for it


@dataclass
class Continuation:
    """What one prompt became. `prompt_ids` as used, that is after truncation; `ids` are the new tokens."""

    prompt_ids: list[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None


def default_engine(config: ModelConfig) -> EngineName:
    """Return the compiled one, where it can compute what the configuration asks for."""
    return "compiled" if config.softmax_dtype == "fp32" else "mindspore"


def make_network(
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    engine: EngineName,
    threads: int | None,
    adapters: Sequence[LowRank] = (),
    additions: Additions = NOTHING,
) -> Network:
    """Import what an engine needs only where it is used: MindSpore takes seconds to start."""
    if engine == "compiled":
        from pangu.generation.compiled.compiled_network import CompiledNetwork, LowRankAdapter

        network = CompiledNetwork(config, weights, [LowRankAdapter(one) for one in adapters], threads, additions)
        if config.experts and config.experts.by_domain:
            return MixedNetwork(network, len(config.experts.domains))
        return network
    if adapters:
        raise UserError("adapters beside their base are for the compiled engine; load the adapter itself, or merge it")
    from pangu.generation.mindspore_decoder import MindSporeNetwork

    return MindSporeNetwork(config, weights, additions)


class Generator:
    """Continues prompts with one set of weights (released names).

    adapters: low-rank matrices by name, kept beside the weights; `adapted` chooses one.
    threads: of the compiled engine; None: as many as there are cores.
    engine: None: the default for a CPU. "mindspore" runs compiled graphs after `use_device`, and operator by operator
    in MindSpore's PyNative mode, for looking inside.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, np.ndarray],
        tokenizer: "Tokenizer | None" = None,
        batch_size: int = 8,
        engine: EngineName | None = None,
        threads: int | None = None,
        adapters: Mapping[str, LowRank] | None = None,
        additions: Additions = NOTHING,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size = {batch_size}: must be at least 1")
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size}: they do not fit"
            )
        self.config, self.tokenizer, self.batch_size = config, tokenizer, batch_size
        self.byte_tokens = ByteTokens(tokenizer) if tokenizer else None
        self.adapters = list(adapters or {})
        self.adapter: int | None = None  # the number of the one that is chosen
        beside = list((adapters or {}).values())
        self.network = make_network(config, weights, engine or default_engine(config), threads, beside, additions)
        self.batches: dict[tuple[int, int], DecodingBatch] = {}
        self.draft: Draft | None = None

    def speculate(self, checkpoint: Path | str, count: int = 4) -> None:
        """Let a small model guess `count` tokens a step from here on; the texts stay the same. Raises UserError."""
        from pangu.checkpoint.weights import load_for_inference
        from pangu.generation.compiled.compiled_network import CompiledNetwork
        from pangu.generation.speculation import Draft

        if not isinstance(self.network, CompiledNetwork):
            raise UserError("a draft is for the compiled engine")
        config, weights, _ = load_for_inference(checkpoint, as_stored=True)
        self.draft = Draft(self.config, CompiledNetwork(config, weights, threads=self.network.team.threads), count)

    def adapted(self, name: str) -> "Generator":
        """Return one that shares the weights and answers with an adapter. Raises UserError for an unknown name."""
        if name not in self.adapters:
            raise UserError(f"adapter {name!r} is unknown; loaded are: {', '.join(self.adapters) or 'none'}")
        other = copy.copy(self)
        other.adapter = self.adapters.index(name)
        return other

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        model: Path | str | None = None,
        tokenizer: Path | str | None = None,
        dtype: str | None = None,
        batch_size: int = 8,
        engine: EngineName | None = None,
        threads: int | None = None,
        adapters: Mapping[str, Path | str] | None = None,
        domain: str | None = None,
    ) -> "Generator":
        """Load a run, a checkpoint, weights of any form (`load_for_inference`), or an adapter with its base.

        adapters: {name: directory} of LoRA adapters that are kept beside the weights, for `adapted` to choose from.
        dtype: what MindSpore computes in, or what the compiled engine stores the matrices in (None: as in the file).
        domain: of experts by domain, the one whose experts alone are used; None: a mixture (compiled engine).
        """
        from pangu.checkpoint.weights import load_for_inference
        from pangu.tokenizer import Tokenizer
        from pangu.tuning.adapted import load_adapted
        from pangu.tuning.adapter_file import is_adapter, low_rank

        if is_adapter(Path(checkpoint)):
            # --model says where the base is: the adapter says what network it has.
            adapted = load_adapted(Path(checkpoint), model, tokenizer)
            config, weights, place, additions = adapted.config, adapted.weights, adapted.tokenizer, adapted.additions
        else:
            additions = NOTHING
            as_stored = engine != "mindspore" and domain is None
            config, weights, place = load_for_inference(checkpoint, model, tokenizer, as_stored=as_stored)
            if engine is None and default_engine(config) == "mindspore":
                config, weights, place = load_for_inference(checkpoint, model, tokenizer)
        if domain is not None:
            from pangu.formats.upcycle import without_others

            config, weights = without_others(weights, config, domain, checkpoint)
        engine = engine or default_engine(config)
        beside = {name: low_rank(Path(folder), config, weights) for name, folder in (adapters or {}).items()}
        if dtype and engine == "mindspore":
            config = config.model_copy(update={"compute_dtype": dtype})
        elif dtype:
            from pangu.generation.compiled.compiled_network import stored_as

            weights = stored_as(weights, dtype)
        tokens = Tokenizer.load(place) if place else None
        return cls(config, weights, tokens, batch_size, engine, threads, beside, additions)

    def open(self, rows: int, tokens: int) -> DecodingBatch:
        """Return caches for `tokens` tokens in each of `rows` rows."""
        slots = -(-tokens // SLOTS) * SLOTS
        fitting = [size for count, size in self.batches if count == rows and slots <= size <= 2 * slots]
        key = (rows, min(fitting, default=slots))
        if key not in self.batches:
            self.batches[key] = self.network.open(*key)
        return self.batches[key]

    @property
    def nothing(self) -> list[int]:
        """Return what an empty prompt stands for: the end of the document before."""
        return [self.tokenizer.special.end_of_document] if self.tokenizer else []

    def fit(self, prompt: Sequence[int], options: GenerationOptions, place: str = "prompt") -> list[int]:
        """Return the prompt checked, and cut from the left where the options allow it. Raises UserError.

        An empty one becomes the end of a document.
        """
        prompt = [int(token) for token in prompt] or self.nothing
        context, new = self.config.seq_length, options.max_new_tokens
        if not prompt:
            raise UserError(f"{place}: is empty, and without a tokenizer nothing says how a text begins")
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

    def fit_all(self, prompts: Sequence[Sequence[int]], options: Sequence[GenerationOptions]) -> list[list[int]]:
        """Return every prompt as `fit` leaves it; errors count the prompts from 1."""
        for one in options:
            if one.stop_strings and self.tokenizer is None:
                raise UserError("stop strings need a tokenizer; stop ids do not")
            wrong = next((token for token in one.stop_ids if not 0 <= token < self.config.vocab_size), None)
            if wrong is not None:
                raise UserError(f"stop id {wrong}: ids are 0 to {self.config.vocab_size - 1}: it would never come")
        numbered = enumerate(zip(prompts, options, strict=True), 1)
        return [self.fit(prompt, one, f"prompt {number}") for number, (prompt, one) in numbered]

    def generate(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions | Sequence[GenerationOptions]
    ) -> list[Continuation]:
        """Continue every prompt; results in the order of the prompts. options: for all, or one for each."""
        each = for_each(prompts, options)
        fitted = self.fit_all(prompts, each)
        results = [Continuation(prompt) for prompt in fitted]
        for piece in self.pieces(fitted, each):
            result = results[piece.sequence]
            if piece.token_id is not None:
                result.ids.append(piece.token_id)
            if piece.logprob is not None:
                result.logprobs.append(piece.logprob)
            result.text += piece.text
            result.finish = piece.finish
        return results

    def stream(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions | Sequence[GenerationOptions]
    ) -> Iterator[Piece]:
        """Yield pieces as they come, `batch_size` prompts at a time. Every prompt is checked before anything is
        computed."""
        each = for_each(prompts, options)
        return self.pieces(self.fit_all(prompts, each), each)

    def pieces(self, prompts: list[list[int]], options: Sequence[GenerationOptions]) -> Iterator[Piece]:
        if not prompts:
            return
        longest = max(len(prompt) + one.max_new_tokens for prompt, one in zip(prompts, options, strict=True))
        tokens = min(longest - 1, self.config.seq_length)
        rows = min(self.batch_size, len(prompts))
        sequences = [
            self.begin(number, prompt, one) for number, (prompt, one) in enumerate(zip(prompts, options, strict=True))
        ]
        if self.draft:
            self.draft.open(rows, tokens)
        yield from self.run(self.open(rows, tokens), sequences)

    def begin(self, number: int, prompt: list[int], options: GenerationOptions) -> "RunningSequence":
        """Return a sequence that has not read its prompt yet; `prompt` is as `fit` leaves it."""
        sequence = RunningSequence(number, prompt, options, self.tokenizer, self.byte_tokens, self.adapter)
        if prompt == self.nothing:
            sequence.begin_document()
        return sequence

    def run(self, batch: DecodingBatch, sequences: list["RunningSequence"]) -> Iterator[Piece]:
        """Work until every sequence has ended; a free row takes the next as soon as the engine can."""
        for row in range(batch.rows):
            batch.release(row)
        waiting, running = deque(sequences), dict[int, RunningSequence]()
        while waiting or running:
            parts = self.next_parts(batch, waiting, running)
            guesses = self.guesses(parts, running)
            asked = [replace(part, ids=[*part.ids, *guess], wanted=1 + len(guess)) for part, guess in guesses]
            for (part, guess), logits in zip(guesses, batch.read(asked), strict=True):
                if not np.isfinite(logits.sum()):
                    self.batches.clear()  # their caches hold it too
                    raise UserError(
                        "the logits are not finite: the weights are damaged, or beyond fp16: give --dtype fp32"
                    )
                sequence = running[part.row]
                for number in range(1 + len(guess)):
                    yield sequence.take(logits[number])
                    if sequence.finish or sequence.ids[-1] != [*guess, None][number]:
                        break
                if sequence.finish:
                    batch.release(part.row)
                    del running[part.row]
                elif guess:
                    batch.rewind(part.row, len(sequence.ids) - 1)

    def guesses(
        self, parts: list[RowTokens], running: dict[int, "RunningSequence"]
    ) -> list[tuple[RowTokens, list[int]]]:
        """Return each part with what the draft thinks comes behind it; nothing where there is no draft."""
        if self.draft is None:
            return [(part, []) for part in parts]
        sequences = {part.row: running[part.row] for part in parts}
        context = self.config.seq_length
        found = self.draft.guess(
            {
                row: (one.ids, min(one.remaining - 1, context - len(one.ids)))
                for row, one in sequences.items()
                if not one.is_beginning
            }
        )
        return [(part, found.get(part.row, [])) for part in parts]

    def next_parts(
        self, batch: DecodingBatch, waiting: deque["RunningSequence"], running: dict[int, "RunningSequence"]
    ) -> list[RowTokens]:
        """Return what each row reads next: its newest token, a new prompt, or its newer half where the context is
        full. A text that began with nothing is read from its first token on."""
        context = self.config.seq_length
        for sequence in running.values():
            if len(sequence.ids) > context:
                sequence.ids = sequence.ids[-max(1, context // 2) :]
        # Those whose row holds something else than what stands before their newest token.
        again = [row for row, sequence in running.items() if batch.lengths[row] != len(sequence.ids) - 1]
        if again and not batch.admits_any_time:
            again = list(running)
        for row in again:
            batch.release(row)
        if batch.admits_any_time or not running:
            free = [row for row in range(batch.rows) if row not in running]
            while waiting and free:
                batch.release(free[0])
                running[free.pop(0)] = waiting.popleft()
        parts = []
        for row, sequence in running.items():
            ids = sequence.ids[-1:] if batch.lengths[row] else sequence.ids
            parts.append(RowTokens(row, ids, adapter=sequence.adapter))
        return parts


class RunningSequence:
    """A prompt on its way: its ids so far (what the context has forgotten left out), its sampler, its text."""

    def __init__(
        self,
        number: int,
        prompt: list[int],
        options: GenerationOptions,
        tokenizer: "Tokenizer | None",
        byte_tokens: ByteTokens | None = None,
        adapter: int | None = None,
    ) -> None:
        self.number, self.ids, self.options, self.adapter = number, list(prompt), options, adapter
        self.sampler = Sampler(options, prompt)
        # A model may have more rows than its tokenizer has ids; those are never drawn.
        self.vocab_size = tokenizer.vocab_size if tokenizer else None
        self.text = TextStream(tokenizer, options.stop_strings) if tokenizer else None
        self.characters = WholeCharacters(byte_tokens) if byte_tokens else None
        self.count = 0
        self.finish: Finish | None = None
        self.is_beginning = False

    def begin_document(self) -> None:
        """Draw the first token behind the end of a document, and go on from it as from a prompt of one token.

        So it is in training: that end belongs to the document before, and the text has the positions from 0 on.
        """
        self.is_beginning = True
        self.sampler = Sampler(self.options, [])  # no penalty for an end

    @property
    def remaining(self) -> int:
        """Return new tokens that may still come."""
        return self.options.max_new_tokens - self.count

    def take(self, logits: np.ndarray) -> Piece:
        """Choose the next token from logits [V]."""
        logits = logits[: self.vocab_size]
        scores = logits
        if self.characters:
            scores = self.characters.allowed(logits, self.options.max_new_tokens - self.count)
        token = self.sampler.choose(scores)
        if self.characters:
            self.characters.take(token)
        logprob = log_probability(logits, token) if self.options.logprobs else None
        if token in self.options.stop_ids:
            self.finish = "stop_id"
            return Piece(self.number, None, self.text.finish() if self.text else "", self.finish)
        if self.is_beginning:
            self.ids, self.is_beginning = [], False
        self.ids.append(token)
        self.count += 1
        text = self.text.push(token) if self.text else ""
        if self.count == self.options.max_new_tokens:
            self.finish = "length"
            text += self.text.finish() if self.text else ""
        if self.text and self.text.stopped:
            self.finish = "stop_string"
        return Piece(self.number, token, text, self.finish, logprob)


def for_each(
    prompts: Sequence[Sequence[int]], options: GenerationOptions | Sequence[GenerationOptions]
) -> Sequence[GenerationOptions]:
    """Return the options of every prompt."""
    return [options] * len(prompts) if isinstance(options, GenerationOptions) else options


def log_probability(logits: np.ndarray, token: int) -> float:
    """Return log softmax(logits)[token] in nats, in float64."""
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
