"""Fill gaps of a text, given what stands on both sides of them.

The query layer is asked for any position: known tokens are read first, in their order, each standing at its own place;
then one gap after the other is asked for by the query row of the place before it, and read once it is filled. A model
that has been trained with `objectives: {permuted: …}` has learnt to answer (`docs/training.md`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from pangu.foundation.errors import UserError
from pangu.generation.decoding_batch import DecodingBatch, RowTokens
from pangu.generation.likelihood import Scored, scored
from pangu.generation.options import GenerationOptions
from pangu.generation.sampling import Sampler

if TYPE_CHECKING:
    from pangu.generation.engine import Generator

GAP = "_"
BEGINS_WITH_GAP = "the text begins with a gap: no query row asks for the first position; write a token before it"
# Which gap comes first: the leftmost, or the one of which the model is surest.
GapOrder = Literal["entropy", "left"]


@dataclass(frozen=True)
class Filled:
    """A text without gaps. places: of the gaps, in the order in which they were filled."""

    ids: list[int]
    places: list[int]
    text: str = ""


def ids_with_gaps(generator: "Generator", text: str) -> list[int | None]:
    """Return the ids of a text, None for each token that a `_` stands for."""
    assert generator.tokenizer
    ids: list[int | None] = []
    known = ""
    for character in [*text, GAP]:
        if character != GAP:
            known += character
            continue
        if known:
            ids += [int(token) for token in generator.tokenizer.encode(known)]
        ids.append(None)
        known = ""
    return ids[:-1]


def fill_text(generator: "Generator", text: str, options: GenerationOptions, gap_order: GapOrder = "entropy") -> Filled:
    """Fill every `_` of a text with one token. Raises UserError."""
    if generator.tokenizer is None:
        raise UserError("a text with gaps needs a tokenizer")
    filled = fill(generator, ids_with_gaps(generator, text), options, gap_order)
    return Filled(filled.ids, filled.places, generator.tokenizer.decode(filled.ids))


def fill(
    generator: "Generator", known: Sequence[int | None], options: GenerationOptions, gap_order: GapOrder = "entropy"
) -> Filled:
    """Fill every None of some ids. Stop ids of the options are never filled in. Raises UserError."""
    check_gaps(generator, known)
    if gap_order not in get_args(GapOrder):
        raise UserError(f"gap_order = {gap_order!r}: must be one of {', '.join(get_args(GapOrder))}")
    ids = list(known)
    left = [place for place, token in enumerate(known) if token is None]
    sampler = Sampler(options, [token for token in known if token is not None])
    row = GapRow(generator.open(1, len(known)), known, left[0], generator.adapter)
    places: list[int] = []
    while left:
        place, logits = (left[0], row.ask(left[0])) if gap_order == "left" else row.surest(left)
        scores = logits[: generator.tokenizer.vocab_size if generator.tokenizer else None].copy()
        scores[[token for token in options.stop_ids if token < len(scores)]] = -np.inf
        token = sampler.choose(scores)
        ids[place] = token
        left.remove(place)
        places.append(place)
        if left:
            row.read(token, place, left[0])
    return Filled([token for token in ids if token is not None], places)


@dataclass(frozen=True)
class Between:
    """Ids that are known on both sides, and those that are scored in between. No part but `right` may be empty."""

    left: Sequence[int]
    middle: Sequence[int]
    right: Sequence[int]

    @property
    def places(self) -> list[int]:
        """Return where each token that is read stands: the left, the right, then the middle but for its last one."""
        first, end = len(self.left), len(self.left) + len(self.middle)
        return [*range(first), *range(end, end + len(self.right)), *range(first, end - 1)]

    @property
    def query_rows(self) -> list[int]:
        """Return which row of the query table each token asks with: the place before the one that is read next."""
        end = len(self.left) + len(self.middle) - 1
        return [place - 1 for place in [*self.places[1:], end]]


def score_between(generator: "Generator", requests: Sequence[Between]) -> list[Scored]:
    """Score the middle of each request given both its sides: log p of its tokens from the left, in nats.

    The result of a request does not depend on the others. Raises UserError for what cannot be asked.
    """
    for number, one in enumerate(requests, 1):
        if not one.left or not one.middle:
            raise UserError(f"request {number}: a left side and a middle of at least one token each are needed")
        check_gaps(generator, [*one.left, *(None for _ in one.middle), *one.right])
        check_ids(generator, one.middle)
    if not requests:
        return []
    batch = generator.open(min(generator.batch_size, len(requests)), max(len(one.places) for one in requests))
    return list(_read_between(batch, requests, generator.adapter))


def _read_between(batch: DecodingBatch, requests: Sequence[Between], adapter: int | None) -> Iterator[Scored]:
    """Yield scores: as many rows in one call as the batch has, or a token a step with MindSpore's engine."""
    if not batch.admits_any_time:
        for one in requests:
            known = len(one.left) + len(one.right)
            ids, places, asks = [*one.left, *one.right, *one.middle], one.places, one.query_rows
            batch.release(0)
            steps = [slice(known), *(slice(at, at + 1) for at in range(known, len(places)))]
            read = [batch.read([RowTokens(0, ids[own], 1, places[own], asks[own], adapter)])[0][-1] for own in steps]
            yield scored(np.stack(read), one.middle)
        return
    for start in range(0, len(requests), batch.rows):
        block = requests[start : start + batch.rows]
        for row in range(len(block)):
            batch.release(row)
        parts = [
            RowTokens(
                row, [*one.left, *one.right, *one.middle[:-1]], len(one.middle), one.places, one.query_rows, adapter
            )
            for row, one in enumerate(block)
        ]
        for one, logits in zip(block, batch.read(parts), strict=True):
            yield scored(logits, one.middle)


def check_gaps(generator: "Generator", known: Sequence[int | None]) -> None:
    """Raise UserError for what cannot be filled."""
    config = generator.config
    if not config.query_layer:
        raise UserError("gaps are asked for by the query layer, which this model has not (query_layer: false)")
    if config.attention.pattern != "full":
        raise UserError(f"gaps need attention.pattern full; this model has {config.attention.pattern}")
    if None not in known:
        raise UserError(f"there is no gap: write {GAP!r} for each token to fill in")
    if known[0] is None:
        raise UserError(BEGINS_WITH_GAP)
    if len(known) > config.seq_length:
        raise UserError(f"the text has {len(known)} tokens with its gaps, the context {config.seq_length}: shorten it")
    check_ids(generator, [token for token in known if token is not None])


def check_ids(generator: "Generator", ids: Sequence[int]) -> None:
    """Raise UserError for an id that the vocabulary has not."""
    size = generator.config.vocab_size
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise UserError(f"id {wrong} is outside 0..{size - 1}")


class GapRow:
    """A row of caches whose last token may ask for one gap after the other."""

    def __init__(
        self, batch: DecodingBatch, known: Sequence[int | None], first_gap: int, adapter: int | None = None
    ) -> None:
        """Read the known tokens; the last of them asks for `first_gap`."""
        self.batch, self.adapter = batch, adapter
        batch.release(0)
        places = [place for place, token in enumerate(known) if token is not None]
        ids = [token for token in known if token is not None]
        self.last, self.asked = (ids[-1], places[-1]), first_gap
        asks = [*(place - 1 for place in places[1:]), first_gap - 1]
        (logits,) = batch.read([RowTokens(0, ids, 1, places, asks, adapter)])
        self.logits = check_finite(logits[-1])

    def ask(self, gap: int) -> np.ndarray:
        """Return the logits [V] of a gap; the last token is read once more where it has asked for another one."""
        if gap != self.asked:
            self.batch.lengths[0] -= 1
            self.read(*self.last, gap)
        return self.logits

    def read(self, token: int, place: int, gap: int) -> None:
        """Read a token that stands at `place` and asks for `gap`."""
        (logits,) = self.batch.read([RowTokens(0, [token], 1, [place], [gap - 1], self.adapter)])
        self.last, self.asked, self.logits = (token, place), gap, check_finite(logits[-1])

    def surest(self, gaps: Sequence[int]) -> tuple[int, np.ndarray]:
        """Return the gap with the lowest entropy, and its logits; of equals the leftmost."""
        entropies = {gap: entropy(self.ask(gap)) for gap in gaps}
        gap = min(gaps, key=lambda one: (entropies[one], one))
        return gap, self.ask(gap)


def entropy(logits: np.ndarray) -> float:
    """Return the entropy in nats of softmax(logits [V])."""
    shifted = logits.astype(np.float64) - logits.max()
    weights = np.exp(shifted)
    return float(np.log(weights.sum()) - (weights * shifted).sum() / weights.sum())


def check_finite(logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits.sum()):
        raise UserError("the logits are not finite: the weights are damaged, or beyond fp16: give --dtype fp32")
    return logits
