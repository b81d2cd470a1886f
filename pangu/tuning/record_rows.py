"""Turn records into rows of ids with a loss weight for each, several records a row.

The loss is on answers and on the end of the document behind the last one. What has no prompt, such as a plain text,
begins a document as `pangu.generation.likelihood` has it: an end stands before it, so that its first token is learnt
too, and is a document of its own. A record that is too long is cut from the left of what is not an
answer, never from an answer; one whose answers alone do not fit is a reject.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pangu.tuning.records import Pair, Record, Reject, Turn
from pangu.tuning.template import Template

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedDocument:
    """ids and, for each, whether the model is to learn it."""

    ids: list[int]
    learnt: list[bool]


@dataclass(frozen=True)
class Samples:
    """rows int32 [N, 2 (S+1)]: S+1 ids, then S+1 weights of 0 and 1; of pairs [N, 2 W + 1], see `pairs_of`."""

    rows: np.ndarray
    documents: int
    cut: int

    @property
    def learnt(self) -> int:
        """Return the number of predictions that count."""
        half = self.rows.shape[1] // 2
        return int(self.rows[:, half + 1 :].sum())


def encode(record: Record, template: Template, tokenizer: "Tokenizer") -> EncodedDocument:
    """Return a record's ids; its parts are encoded apart, as they are when the model is asked."""
    ids: list[int] = []
    learnt: list[bool] = []
    for text, is_answer in template.pieces(record):
        own = [int(token) for token in tokenizer.encode_batch([text])[0]] if text else []
        ids += own
        learnt += [is_answer] * len(own)
    end = tokenizer.special.end_of_document
    if not learnt or learnt[0]:
        ids, learnt = [end, *ids], [False, *learnt]
    return EncodedDocument([*ids, end], [*learnt, True])


def fitted(document: EncodedDocument, length: int) -> EncodedDocument | None:
    """Return a document of at most `length` ids, cut from its left before the first answer; None where none is left."""
    extra = len(document.ids) - length
    if extra <= 0:
        return document
    before = next((place for place, learnt in enumerate(document.learnt) if learnt), len(document.ids))
    if extra > before:
        return None
    return EncodedDocument(document.ids[extra:], document.learnt[extra:])


def samples_of(
    records: Iterable[Record], template: Template, tokenizer: "Tokenizer", length: int, pad: int
) -> tuple[Samples, list[Reject]]:
    """Pack records into rows of length + 1 ids, in their order. Returns what did not fit, too."""
    rejects: list[Reject] = []
    kept: list[EncodedDocument] = []
    cut = 0
    for number, record in enumerate(records, 1):
        whole = encode(record, template, tokenizer)
        document = fitted(whole, length + 1)
        if document is None or not any(document.learnt[1:]):
            rejects.append(Reject(f"record {number}", f"its answers do not fit a context of {length} tokens"))
            continue
        cut += document is not whole
        kept.append(document)
    return Samples(packed(kept, length + 1, pad), len(kept), cut), rejects


def packed(documents: Sequence[EncodedDocument], width: int, pad: int) -> np.ndarray:
    """Return rows int32 [N, 2 width]: documents one after the other, a new row where the next does not fit."""
    rows: list[np.ndarray] = []
    ids: list[int] = []
    weights: list[int] = []

    def end_row() -> None:
        filler = width - len(ids)
        rows.append(np.array([*ids, *[pad] * filler, *weights, *[0] * filler], np.int32))
        ids.clear()
        weights.clear()

    for document in documents:
        if ids and len(ids) + len(document.ids) > width:
            end_row()
        ids += document.ids
        # Nothing before its first token tells what a document begins with.
        weights += [0, *map(int, document.learnt[1:])]
    if ids:
        end_row()
    return np.stack(rows) if rows else np.zeros((0, 2 * width), np.int32)


def pairs_of(
    pairs: Iterable[Pair], template: Template, tokenizer: "Tokenizer", length: int, pad: int
) -> tuple[Samples, list[Reject]]:
    """Put each pair into a row of W = 2 (length + 1) ids, W weights, and a place for the reference's number.

    The two answers are documents of the row with the same prompt, the chosen one first. Weights are 1 where the chosen
    answer is learnt and -1 where the rejected one is, so that a row's sum of weight · log p is their difference.
    """
    rejects: list[Reject] = []
    rows: list[np.ndarray] = []
    cut = 0
    width = 2 * (length + 1)
    for number, pair in enumerate(pairs, 1):
        both = [
            encode(Record((Turn("user", pair.prompt), Turn("assistant", answer))), template, tokenizer)
            for answer in (pair.chosen, pair.rejected)
        ]
        # As much of the prompt for one as for the other.
        extra = max(0, max(len(document.ids) for document in both) - length - 1)
        if extra >= both[0].learnt.index(True):
            rejects.append(Reject(f"record {number}", f"its answers do not fit a context of {length} tokens"))
            continue
        cut += extra > 0
        ids = [token for document in both for token in document.ids[extra:]]
        signs = [*map(int, both[0].learnt[extra:]), *(-int(learnt) for learnt in both[1].learnt[extra:])]
        filler = width - len(ids)
        rows.append(np.array([*ids, *[pad] * filler, *signs, *[0] * filler, 0], np.int32))
    return Samples(np.stack(rows) if rows else np.zeros((0, 2 * width + 1), np.int32), len(rows), cut), rejects
