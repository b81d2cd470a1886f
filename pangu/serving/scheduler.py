"""Continuous batching: one thread owns the engine, rows are admitted and released at any step.

In each call of the engine every running row takes its next token while new prompts are read, at most CHUNK tokens of
them in a call, so that a long prompt does not hold up the others. An answer depends on its prompt, options and seed
alone: sampling is keyed by them, and the engine's rows are independent bit for bit.
"""

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pangu.foundation.errors import UserError
from pangu.generation.decoding_batch import DecodingBatch, RowTokens
from pangu.generation.engine import Piece, RunningSequence
from pangu.generation.options import GenerationOptions
from pangu.serving.statistics import Statistics

if TYPE_CHECKING:
    from pangu.generation.engine import Generator

CHUNK = 64  # tokens of prompts that are read in a call, beside the running rows' tokens
MOST_ALTERNATIVES = 20


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass(frozen=True)
class TokenScore:
    """log p of a token in nats, and the most likely tokens at its place with theirs, best first."""

    token_id: int
    log_probability: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened to a sequence. `prompt`: scores of the prompt's tokens, once, before any piece."""

    piece: Piece | None = None
    score: TokenScore | None = None
    prompt: tuple[TokenScore, ...] | None = None
    error: str | None = None

    @property
    def is_last(self) -> bool:
        """Return whether nothing follows."""
        return self.error is not None or (self.piece is not None and self.piece.finish is not None)


@dataclass
class Answering:
    """A sequence that waits or runs. tell: called on the engine's thread with every event.

    logprobs: how many alternatives to score, None: no scores. scores_prompt: score the prompt's tokens as well.
    priority: lower goes first. deadline: of the monotonic clock; None: none. bias: {token: what its logit gains}.
    """

    prompt: list[int]
    options: GenerationOptions
    tell: Callable[[Event], None]
    logprobs: int | None = None
    scores_prompt: bool = False
    priority: int = 0
    deadline: float | None = None
    bias: dict[int, float] = field(default_factory=dict)
    is_cancelled: bool = False
    running: RunningSequence | None = None
    read: int = 0  # tokens of the prompt that the row has read
    prompt_scores: list[TokenScore] = field(default_factory=list)
    before: np.ndarray | None = None  # the last logits, for the score of the token behind a chunk
    asked_at: float = field(default_factory=time.monotonic)
    told_at: float | None = None


class Scheduler:
    """Runs sequences. rows: how many at once. most_waiting: how many may wait for a row."""

    def __init__(self, generator: "Generator", rows: int, most_waiting: int, statistics: Statistics) -> None:
        self.generator, self.rows, self.most_waiting, self.statistics = generator, rows, most_waiting, statistics
        self.inbox: queue.SimpleQueue[Answering | None] = queue.SimpleQueue()
        self.waiting: list[tuple[int, int, Answering]] = []
        self.running: dict[int, Answering] = {}
        self.order = itertools.count()
        self.lock = threading.Lock()
        self.promised = 0  # submitted and not yet in a row
        self.is_draining = False
        self.thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Open the caches and begin. Raises UserError where the engine cannot admit rows at any time."""
        batch = self.generator.open(self.rows, self.generator.config.seq_length)
        if not batch.admits_any_time:
            raise UserError("the server needs the compiled engine, which is for a CPU: leave out --engine mindspore")
        self.batch: DecodingBatch = batch
        batch.read([RowTokens(0, [0])])  # compiles on first use
        for row in range(batch.rows):
            batch.release(row)
        self.thread.start()

    def submit(self, sequences: Sequence[Answering]) -> None:
        """Queue sequences, all or none. Raises QueueFull, and UserError for a prompt that does not fit."""
        for sequence in sequences:
            sequence.prompt = self.generator.fit(sequence.prompt, sequence.options)
        with self.lock:
            free = self.rows - len(self.running)
            if self.is_draining or self.promised + len(sequences) > self.most_waiting + free:
                self.statistics.rejected += 1
                raise QueueFull
            self.promised += len(sequences)
        for sequence in sequences:
            self.inbox.put(sequence)

    def cancel(self, sequence: Answering) -> None:
        """Release a sequence's row before the next step."""
        sequence.is_cancelled = True

    def stop(self, drain_seconds: float) -> None:
        """Take no more, finish what runs within so many seconds, and end the thread."""
        self.is_draining = True
        end = time.monotonic() + drain_seconds
        while time.monotonic() < end and (self.running or self.promised):
            time.sleep(0.05)
        self.inbox.put(None)
        if self.thread.is_alive():
            self.thread.join(timeout=5)

    # -- the engine's thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._collect():
            self._release_ended()
            self._admit()
            parts = self._parts()
            if not parts:
                continue
            try:
                results = self.batch.read(parts)
            except Exception as error:  # a request must never end the server
                for row in [part.row for part in parts]:
                    self._end(row, Event(error=f"the engine failed: {error}"))
                continue
            self.statistics.calls += 1
            for part, logits in zip(parts, results, strict=True):
                self._take(part, logits)
        for row in list(self.running):
            self._end(row, Event(error="the server stops"))

    def _collect(self) -> bool:
        """Take what was submitted; wait where there is nothing to do. Return False to end."""
        while True:
            try:
                sequence = self.inbox.get(block=not (self.running or self.waiting))
            except queue.Empty:
                break
            if sequence is None:
                return False
            heapq.heappush(self.waiting, (sequence.priority, next(self.order), sequence))
        return True

    def _release_ended(self) -> None:
        now = time.monotonic()
        for row, sequence in list(self.running.items()):
            if sequence.is_cancelled:
                self._end(row, None)
            elif sequence.deadline is not None and now > sequence.deadline:
                self._end(row, Event(error="the deadline has passed"))

    def _admit(self) -> None:
        now = time.monotonic()
        free = [row for row in range(self.rows) if row not in self.running]
        while self.waiting and free:
            _, _, sequence = heapq.heappop(self.waiting)
            with self.lock:
                self.promised -= 1
            if sequence.is_cancelled:
                continue
            if sequence.deadline is not None and now > sequence.deadline:
                self._tell(sequence, Event(error="the deadline has passed"))
                continue
            row = free.pop(0)
            self.batch.release(row)
            sequence.running = self.generator.begin(0, sequence.prompt, sequence.options)
            self.running[row] = sequence

    def _parts(self) -> list[RowTokens]:
        """Choose what each row reads: its newest token, or more of its prompt while the call has room."""
        parts, room = [], CHUNK
        for row, sequence in self.running.items():
            if sequence.read == len(sequence.prompt):
                assert sequence.running is not None
                parts.append(RowTokens(row, sequence.running.ids[-1:]))
                continue
            if room:
                ids = sequence.prompt[sequence.read : sequence.read + room]
                room -= len(ids)
                is_end = sequence.read + len(ids) == len(sequence.prompt)
                parts.append(RowTokens(row, ids, len(ids) if sequence.scores_prompt else int(is_end)))
        return parts

    def _take(self, part: RowTokens, logits: np.ndarray) -> None:
        """Pass on what a row has read."""
        sequence = self.running[part.row]
        assert sequence.running is not None
        if sequence.read < len(sequence.prompt):
            if sequence.scores_prompt:
                self._score_prompt(sequence, part.ids, logits)
            sequence.read += len(part.ids)
            self.statistics.tokens_in += len(part.ids)
            if sequence.read < len(sequence.prompt):
                return
            if sequence.scores_prompt:
                self._tell(sequence, Event(prompt=tuple(sequence.prompt_scores)))
        if not np.isfinite(logits[-1].sum()):
            self._end(part.row, Event(error="the logits are not finite: the weights are damaged"))
            return
        own = logits[-1]
        if sequence.bias:
            own = own.copy()
            for token, value in sequence.bias.items():
                own[token] += value
        piece = sequence.running.take(own)
        score = None
        if sequence.logprobs is not None and piece.token_id is not None:
            score = score_token(logits[-1], piece.token_id, sequence.logprobs)
        now = time.monotonic()
        if sequence.told_at is None:
            self.statistics.first_token.observe(now - sequence.asked_at)
        else:
            self.statistics.next_token.observe(now - sequence.told_at)
        sequence.told_at = now
        self.statistics.tokens_out += piece.token_id is not None
        if piece.finish:
            self._end(part.row, Event(piece, score))
        else:
            self._tell(sequence, Event(piece, score))

    def _score_prompt(self, sequence: Answering, ids: Sequence[int], logits: np.ndarray) -> None:
        """Score a chunk's tokens; the first token of a prompt has nothing before it."""
        count = sequence.logprobs or 0
        for place, token in enumerate(ids):
            before = logits[place - 1] if place else sequence.before
            scored = TokenScore(token, None) if before is None else score_token(before, token, count)
            sequence.prompt_scores.append(scored)
        sequence.before = logits[-1]

    def _end(self, row: int, event: Event | None) -> None:
        """Free a row, and pass on why."""
        sequence = self.running.pop(row)
        self.batch.release(row)
        self.statistics.ended += 1
        if event is not None:
            self._tell(sequence, event)

    def _tell(self, sequence: Answering, event: Event) -> None:
        if not sequence.is_cancelled:
            sequence.tell(event)


def score_token(logits: np.ndarray, token: int, count: int) -> TokenScore:
    """Score a token by logits [V], before penalties and temperature, with `count` alternatives."""
    wide = logits.astype(np.float64)
    logs = wide - wide.max()
    logs -= np.log(np.exp(logs).sum())
    count = min(count, MOST_ALTERNATIVES, len(logs))
    best = np.argsort(-logs, kind="stable")[:count] if count else np.zeros(0, int)
    return TokenScore(token, float(logs[token]), tuple((int(one), float(logs[one])) for one in best))
