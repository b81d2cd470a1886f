"""Continuous batching: one thread owns the engine, rows are admitted and released at any step.

In each call of the engine every running row takes its next token while new prompts are read, at most CHUNK tokens of
them in a call, so that a long prompt does not hold up the others. An answer depends on its prompt, options and seed
alone: sampling is keyed by them, and the engine's rows are independent bit for bit.

A sequence with a suffix is filled in: its row reads prompt and suffix, each token at its own place, and then asks for
the gap between them from left to right, as `generation.fill` does.
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
from pangu.generation.engine import RunningSequence
from pangu.generation.options import GenerationOptions
from pangu.generation.speculation import common
from pangu.serving.events import Event, TokenScore, score_token
from pangu.serving.prefix_cache import LEAST, PrefixCache
from pangu.serving.statistics import Statistics
from pangu.serving.word_filter import Screen

if TYPE_CHECKING:
    from pangu.generation.engine import Generator

LATE = "the deadline has passed"
CHUNK = 64  # tokens of prompts that are read in a call, beside the running rows' tokens


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass
class Answering:
    """A sequence that waits or runs. tell: called on the engine's thread with every event.

    logprobs: how many alternatives to score, None: no scores. scores_prompt: score the prompt's tokens as well.
    priority: lower goes first. deadline: of the monotonic clock; None: none. bias: {token: what its logit gains}.
    adapter: the number of one of the network's. suffix: what stands behind the gap that is filled. screen: holds words
    of the operator's list back.
    """

    prompt: list[int]
    options: GenerationOptions
    tell: Callable[[Event], None]
    logprobs: int | None = None
    scores_prompt: bool = False
    priority: int = 0
    deadline: float | None = None
    bias: dict[int, float] = field(default_factory=dict)
    adapter: int | None = None
    suffix: list[int] = field(default_factory=list)
    screen: Screen | None = None
    is_cancelled: bool = False
    running: RunningSequence | None = None
    read: int = 0  # tokens of the prompt that the row has read
    prompt_scores: list[TokenScore] = field(default_factory=list)
    before: np.ndarray | None = None  # the last logits, for the score of the token behind a chunk
    asked_at: float = field(default_factory=time.monotonic)
    told_at: float | None = None

    @property
    def known(self) -> list[int]:
        """Return the ids that the row reads before it writes."""
        return [*self.prompt, *self.suffix]

    @property
    def shareable(self) -> list[int]:
        """Return the ids that may be copied from another row: what is scored is read, and the last one of all."""
        return [] if self.scores_prompt else self.prompt[: len(self.prompt) - (not self.suffix)]

    def is_over(self, now: float) -> bool:
        """Return whether nobody waits for the answer, or nobody may any more."""
        return self.is_cancelled or (self.deadline is not None and now > self.deadline)

    def places(self, first: int, last: int) -> tuple[list[int], list[int]] | None:
        """Return where the known ids first..last stand, and the query position of each; None: where they are read."""
        if not self.suffix:
            return None
        gap, behind = len(self.prompt), len(self.prompt) + self.options.max_new_tokens
        places = [*range(gap), *range(behind, behind + len(self.suffix))]
        asks = [*(place - 1 for place in places[1:]), gap - 1]  # each for the next, the last for the gap
        return places[first:last], asks[first:last]


class Scheduler:
    """Runs sequences. rows: how many at once. most_waiting: how many may wait for a row.

    prefix_rows: rows of caches beside those, which keep what was read; None: nothing that was read is used again.
    """

    def __init__(
        self,
        generator: "Generator",
        rows: int,
        most_waiting: int,
        statistics: Statistics,
        prefix_rows: int | None = 0,
    ) -> None:
        self.generator, self.rows, self.most_waiting, self.statistics = generator, rows, most_waiting, statistics
        self.prefixes, self.spare = PrefixCache(prefix_rows is not None), prefix_rows or 0
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
        batch = self.generator.open(self.rows + self.spare, self.generator.config.seq_length)
        if not batch.admits_any_time:
            raise UserError("the server needs the compiled engine, which is for a CPU: leave out --engine mindspore")
        self.batch: DecodingBatch = batch
        batch.read([RowTokens(0, [0])])  # compiles on first use
        for row in range(batch.rows):
            batch.release(row)
        self.thread.start()

    def submit(self, sequences: Sequence[Answering]) -> None:
        """Queue sequences, all or none. Raises QueueFull, and UserError for a prompt that does not fit."""
        most = self.rows + self.most_waiting
        if len(sequences) > most:
            raise UserError(f"asks for {len(sequences)} answers at once; this server takes at most {most}")
        for sequence in sequences:
            self._check(sequence)
        with self.lock:
            free = self.rows - len(self.running)
            if self.is_draining or self.promised + len(sequences) > self.most_waiting + free:
                self.statistics.rejected += 1
                raise QueueFull
            self.promised += len(sequences)
        for sequence in sequences:
            self.inbox.put(sequence)

    def _check(self, sequence: Answering) -> None:
        """Raise UserError for a prompt that does not fit."""
        sequence.prompt = self.generator.fit(sequence.prompt, sequence.options)
        if not sequence.suffix:
            return
        config = self.generator.config
        if not config.query_layer:
            raise UserError("suffix: this model writes from left to right only: it has no query layer")
        self.generator.fit(sequence.suffix, sequence.options, "suffix")
        length = len(sequence.known) + sequence.options.max_new_tokens
        if length > config.seq_length:
            raise UserError(f"prompt, gap and suffix have {length} tokens, the context {config.seq_length}")

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
                    self.prefixes.forget(row)
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
            if sequence.is_over(now):
                self._end(row, Event(error=LATE))
        over = [item for item in self.waiting if item[2].is_over(now)]
        if over:
            self.waiting = [item for item in self.waiting if not item[2].is_over(now)]
            heapq.heapify(self.waiting)
            with self.lock:
                self.promised -= len(over)
            for _, _, sequence in over:
                self._tell(sequence, Event(error=LATE))

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.rows:
            _, _, sequence = heapq.heappop(self.waiting)
            with self.lock:
                self.promised -= 1
            row = self._take_row(sequence)
            sequence.running = self.generator.begin(0, sequence.known, sequence.options)
            if sequence.suffix:
                sequence.running.characters = None  # every gap is filled with a token of any kind
            self.running[row] = sequence

    def _take_row(self, sequence: Answering) -> int:
        """Return the row that a sequence gets, with as much of its prompt as some row holds already."""
        source, length = self.prefixes.find(sequence.shareable, sequence.adapter)
        free = [row for row in range(self.batch.rows) if row not in self.running]
        row = self.prefixes.oldest(free, source)
        self.batch.release(row)
        self._share(source, row, sequence, length)
        return row

    def _share(self, source: int, row: int, sequence: Answering, length: int) -> None:
        """Copy what another row, or this one, holds of a prompt."""
        if length:
            self.batch.share(source, row, sequence.read, length)
            self.statistics.tokens_shared += length - sequence.read
            sequence.read = length
        self._note(row, sequence)

    def _waits_for(self, row: int, sequence: Answering, reading: Sequence[Answering]) -> bool:
        """Copy what other rows have read by now; return whether one of them reads now what this one needs next."""
        wanted, adapter = sequence.shareable, sequence.adapter
        source, length = self.prefixes.find(wanted, adapter, sequence.read)
        if length:
            self._share(source, row, sequence, length)
        same = [one for one in reading if one.adapter == adapter and one.read >= sequence.read]
        return self.prefixes.is_on and any(common(one.prompt, wanted) >= one.read + LEAST for one in same)

    def _parts(self) -> list[RowTokens]:
        """Choose what each row reads: its newest token, or more of its prompt while the call has room."""
        parts, room, reading = [], CHUNK, list[Answering]()
        for row, sequence in self.running.items():
            known, adapter = sequence.known, sequence.adapter
            if sequence.read == len(known):
                assert sequence.running is not None
                if self.batch.lengths[row] != len(sequence.running.ids) - 1:  # a text that began with nothing
                    self.batch.release(row)
                    self.prefixes.forget(row)
                place = None
                if sequence.suffix:
                    place = [len(sequence.prompt) + sequence.running.count - 1]
                parts.append(RowTokens(row, sequence.running.ids[-1:], 1, place, place, adapter))
                continue
            if room and not self._waits_for(row, sequence, reading):
                reading.append(sequence)
                ids = known[sequence.read : sequence.read + room]
                room -= len(ids)
                end = sequence.read + len(ids)
                wanted = len(ids) if sequence.scores_prompt else int(end == len(known))
                places, asks = sequence.places(sequence.read, end) or (None, None)
                parts.append(RowTokens(row, ids, wanted, places, asks, adapter))
        return parts

    def _take(self, part: RowTokens, logits: np.ndarray) -> None:
        """Pass on what a row has read."""
        sequence = self.running[part.row]
        assert sequence.running is not None
        length = len(sequence.known)
        if sequence.read < length:
            if sequence.scores_prompt:
                self._score_prompt(sequence, part.ids, logits)
            sequence.read += len(part.ids)
            self.statistics.tokens_in += len(part.ids)
            self._note(part.row, sequence)
            if sequence.read < length:
                return
            if sequence.scores_prompt:
                self._tell(sequence, Event(prompt=tuple(sequence.prompt_scores)))
        if not np.isfinite(logits[-1].sum()):
            self._end(part.row, Event(error="the logits are not finite: the weights are damaged"))
            self.prefixes.forget(part.row)
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
        event = Event(piece, score)
        for one in sequence.screen.push(event) if sequence.screen else [event]:
            if one.is_last:
                self._end(part.row, one)
            else:
                self._tell(sequence, one)

    def _note(self, row: int, sequence: Answering) -> None:
        """Remember what of a prompt a row holds at its natural places."""
        self.prefixes.note(row, sequence.prompt[: sequence.read], sequence.adapter)

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
        if sequence.running and sequence.read == len(sequence.prompt) and not sequence.suffix:
            # The next turn of a conversation begins with what was answered.
            self.prefixes.note(row, sequence.running.ids[: int(self.batch.lengths[row])], sequence.adapter)
        self.batch.release(row)
        self.statistics.ended += 1
        if event is not None:
            self._tell(sequence, event)

    def _tell(self, sequence: Answering, event: Event) -> None:
        if not sequence.is_cancelled:
            sequence.tell(event)
