"""Log-probabilities of given continuations, through the same caches that text is generated with.

Requests that share a context read it once. A row's cache is cut back to the context after each continuation, which the
compiled engine allows; with MindSpore's engine every request is a full forward of its own.

A text with nothing in front of it begins a document. Its first token is predicted from an end of a document that stands
alone at position 0; then the text is read from position 0 on, and sees no end. So it is where a model learns: an end
belongs to the document before it, and documents of a row do not see each other. `Generator` begins such a text, and
`pangu.tuning.record_rows` trains on it, in the same way.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pangu.foundation.errors import UserError
from pangu.generation.decoding_batch import DecodingBatch, RowTokens

if TYPE_CHECKING:
    from pangu.generation.engine import Generator


Ids = tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """log p of each token of a continuation, in nats; whether each was the most likely one at its place."""

    log_probabilities: np.ndarray
    is_greedy: bool

    @property
    def total(self) -> float:
        """Return the sum over the tokens, in nats."""
        return float(self.log_probabilities.sum())


@dataclass
class _Context:
    """A context and the continuations that are asked of it: (number of the request, ids)."""

    ids: tuple[int, ...]
    rests: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)


def score(
    generator: "Generator",
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    done: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Score (context ids, continuation ids), in their order. done: told of each request.

    An empty context, or an end of a document alone, begins a document. The result of a request does not depend on the
    others. Raises UserError for an empty continuation, for ids outside the vocabulary and for a request that is longer
    than the context.
    """
    contexts: dict[tuple[int, ...], _Context] = {}
    owners: list[int] = []
    for number, (context, rest) in enumerate(requests):
        check(generator, context, rest, f"request {number + 1}")
        for before, behind in steps(context, rest, generator.nothing):
            contexts.setdefault(before, _Context(before)).rests.append((len(owners), behind))
            owners.append(number)
    results: list[Scored | None] = [None] * len(owners)
    left = Counter(owners)
    if requests:
        # Long ones together, so that the caches of a batch fit all of them.
        waiting = deque(sorted(contexts.values(), key=lambda one: -_longest(one)))
        rows = min(generator.batch_size, len(contexts))
        batch = generator.open(rows, _longest(waiting[0]))
        walk = _cut_back if batch.admits_any_time else _one_by_one
        for step, scored in walk(batch, waiting, generator.adapter):
            results[step] = scored
            left[owners[step]] -= 1
            if done and not left[owners[step]]:
                done(owners[step])
    of_requests: list[list[Scored]] = [[] for _ in requests]
    for owner, result in zip(owners, results, strict=True):
        assert result is not None
        of_requests[owner].append(result)
    return [joined(parts) for parts in of_requests]


def steps(context: Sequence[int], rest: Sequence[int], nothing: Sequence[int]) -> list[tuple[Ids, Ids]]:
    """Return what is read one after the other for a request, each as (context, continuation).

    nothing: the end of a document, which an empty context stands for.
    """
    before, behind = tuple(map(int, context)), tuple(map(int, rest))
    if before and before != tuple(nothing):
        return [(before, behind)]
    first = (tuple(nothing), behind[:1])
    return [first, (behind[:1], behind[1:])] if len(behind) > 1 else [first]


def joined(parts: Sequence[Scored]) -> Scored:
    """Return the scores of a request's steps as one."""
    if len(parts) == 1:
        return parts[0]
    return Scored(np.concatenate([one.log_probabilities for one in parts]), all(one.is_greedy for one in parts))


def check(generator: "Generator", context: Sequence[int], rest: Sequence[int], place: str) -> None:
    """Raise UserError for a request that cannot be scored."""
    vocabulary, most = generator.config.vocab_size, generator.config.seq_length + 1
    if not len(rest) or not (len(context) or generator.nothing):
        raise UserError(f"{place}: a context and a continuation of at least one token each are needed")
    for token in (min(context, default=0), max(context, default=0), min(rest), max(rest)):
        if not 0 <= token < vocabulary:
            raise UserError(f"{place}: id {token} is outside 0..{vocabulary - 1}")
    if len(context) + len(rest) > most:
        raise UserError(f"{place}: has {len(context) + len(rest)} tokens; context and continuation may have {most}")


def _longest(context: _Context) -> int:
    """Return tokens that are read for a context's longest continuation; its last one is only predicted."""
    return len(context.ids) + max(len(rest) for _, rest in context.rests) - 1


def _cut_back(batch: DecodingBatch, waiting: deque[_Context], adapter: int | None) -> Iterator[tuple[int, Scored]]:
    """Yield every row reads a context and then its continuations, each from the context's end."""
    rows: list[_Context | None] = [None] * batch.rows
    first_logits: dict[int, np.ndarray] = {}
    while waiting or any(rows):
        parts: list[RowTokens] = []
        for row, context in enumerate(rows):
            if context is None and waiting:
                rows[row] = waiting.popleft()
                batch.release(row)
                parts.append(RowTokens(row, rows[row].ids, adapter=adapter))  # type: ignore[union-attr]
            elif context is not None:
                number, rest = context.rests[-1]
                if len(rest) == 1:
                    yield number, scored(first_logits[row], rest)
                    context.rests.pop()
                    if not context.rests:
                        rows[row] = None
                    continue
                parts.append(RowTokens(row, rest[:-1], len(rest) - 1, adapter=adapter))
        for part, logits in zip(parts, batch.read(parts) if parts else [], strict=True):
            context = rows[part.row]
            assert context is not None
            if batch.lengths[part.row] == len(context.ids):  # it has read its context
                first_logits[part.row] = logits[-1:]
                continue
            number, rest = context.rests.pop()
            yield number, scored(np.concatenate([first_logits[part.row], logits]), rest)
            batch.lengths[part.row] = len(context.ids)
            if not context.rests:
                rows[part.row] = None


def _one_by_one(batch: DecodingBatch, waiting: deque[_Context], adapter: int | None) -> Iterator[tuple[int, Scored]]:
    """Yield one continuation at a time, a token a step: what every engine can do. adapter: always None."""
    for context in waiting:
        for number, rest in context.rests:
            batch.release(0)
            parts = [RowTokens(0, context.ids), *(RowTokens(0, [token]) for token in rest[:-1])]
            yield number, scored(np.concatenate([batch.read([part])[0] for part in parts]), rest)


def scored(logits: np.ndarray, ids: Sequence[int]) -> Scored:
    """Return what logits fp32 [n, V] say of the n ids that came next. Raises UserError where they are not finite."""
    if not np.isfinite(logits.sum()):
        raise UserError("the logits are not finite: the weights are damaged, or beyond fp16: give --dtype fp32")
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=-1))
    chosen = np.asarray(ids)
    return Scored(shifted[np.arange(len(chosen)), chosen] - log_sum, bool((logits.argmax(axis=-1) == chosen).all()))


def windows(ids: Sequence[int], most: int) -> list[tuple[list[int], list[int]]]:
    """Return requests that score each of `ids` once: disjoint windows, each with the token before it as its context.

    The first begins a document. most: ids that a window scores, at most the context's length. As
    `loglikelihood_rolling` of lm-evaluation-harness does with its default context of one token.
    """
    return [
        (list(ids[max(0, start - 1) : start]), list(ids[start : start + most])) for start in range(0, len(ids), most)
    ]
