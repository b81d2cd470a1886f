"""The objectives beside `causal`: each changes the steps of one document. All take their randomness as an argument."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pangu.training.objectives.row_steps import RowDocument, read_in_order

# BERT (Devlin et al. 2019): how many tokens are predicted, and what they are replaced by.
PREDICTED, MASKED, RANDOM = 0.15, 0.8, 0.1
# BART (Lewis et al. 2020): how much of the text the gaps take, and their mean length.
INFILLED, GAP = 0.3, 3.0
# At each token, so that the gaps take that share.
GAP_BEGINS = INFILLED / (GAP * (1 - INFILLED) + INFILLED)

Steps = dict[str, np.ndarray]


@dataclass(frozen=True)
class ObjectiveIds:
    """What the objectives must know of ids. sentence_ends: those after which a sentence is over."""

    size: int
    mask: int
    sentence_ends: tuple[int, ...] = ()


def permuted(
    steps: Steps, row: np.ndarray, document: RowDocument, random: np.random.Generator, *, gaps: bool = False
) -> None:
    """Read the document in a random order (XLNet, Yang et al. 2019; here the query layer is told what is asked).

    gaps: only some places, of any number, are read last and in a random order; what is before them in its own order.
    So filling reads a text, and a network that has only seen texts whose every place is random is not used to it.
    """
    order = np.arange(document.length + 1)
    inner = random.permutation(order[1:-1])
    if gaps and len(inner):
        known = len(inner) - int(random.integers(1, len(inner) + 1))
        inner[:known].sort()
    order[1:-1] = inner
    read_in_order(steps, row, document, order)


def prefix(steps: Steps, row: np.ndarray, document: RowDocument, random: np.random.Generator) -> None:
    """Let the tokens of a first part all see each other; what comes after it is predicted (UniLM, Dong et al. 2019)."""
    if document.length < 2:
        return
    length = int(random.integers(1, document.length))
    see_each_other(steps, document.first, length)


def see_each_other(steps: Steps, first: int, length: int) -> None:
    """Let `length` steps see each other. All but the last have seen what they would predict, and count for nothing."""
    here = slice(first, first + length)
    steps["last"][here] = np.maximum(steps["last"][here], first + length - 1)
    steps["weights"][first : first + length - 1] = 0


def bidirectional(
    steps: Steps, row: np.ndarray, document: RowDocument, random: np.random.Generator, vocabulary: ObjectiveIds
) -> None:
    """Predict masked tokens from both sides. The first token is never one: no query row asks for position 0."""
    if document.length < 2:
        return
    here = slice(document.first, document.stop)
    chosen = random.random(document.length) < PREDICTED
    chosen[int(random.integers(1, document.length))] = True  # one at least
    chosen[0] = False
    ids = row[here].copy()
    fate = random.random(document.length)
    drawn = random.integers(0, vocabulary.size, document.length)
    ids[chosen & (fate < MASKED)] = vocabulary.mask
    changed = chosen & (fate >= MASKED) & (fate < MASKED + RANDOM)
    ids[changed] = drawn[changed]
    steps["ids"][here], steps["labels"][here], steps["weights"][here] = ids, row[here], chosen
    steps["query_positions"][here] = np.maximum(steps["positions"][here] - 1, 0)
    steps["last"][here] = document.stop - 1


def infilled(source: np.ndarray, random: np.random.Generator, vocabulary: ObjectiveIds) -> np.ndarray:
    """Replace gaps, Poisson(3) tokens long, by one mask each until they take three tenths of the text."""
    left, result, place = round(INFILLED * len(source)), [], 0
    while place < len(source):
        length = min(left, max(1, int(random.poisson(GAP))), len(source) - place)
        if length and random.random() < GAP_BEGINS:
            result.append(vocabulary.mask)
            place, left = place + length, left - length
        else:
            result.append(int(source[place]))
            place += 1
    return np.array(result, np.int32)


def shuffled(source: np.ndarray, random: np.random.Generator, vocabulary: ObjectiveIds) -> np.ndarray:
    """Permute the sentences of a text."""
    ends = np.flatnonzero(np.isin(source[:-1], vocabulary.sentence_ends)) + 1
    sentences = np.split(source, ends)
    return np.concatenate([sentences[index] for index in random.permutation(len(sentences))])


Corruption = Callable[[np.ndarray, np.random.Generator, ObjectiveIds], np.ndarray]


def restored(
    steps: Steps,
    row: np.ndarray,
    document: RowDocument,
    random: np.random.Generator,
    vocabulary: ObjectiveIds,
    corruption: Corruption,
) -> None:
    """Let a corrupted text be the prefix, and the text itself what is predicted (BART, PALM).

    Both must fit into the document's steps, so it is the document's first half that is restored.
    """
    length = (document.length + 1) // 2
    text = row[document.first : document.first + length]
    source = corruption(text, random, vocabulary)
    whole = np.concatenate([source, text])
    here = slice(document.first, document.first + len(whole) - 1)
    steps["ids"][here], steps["labels"][here] = whole[:-1], whole[1:]
    steps["weights"][here], steps["weights"][here.stop : document.end] = 1, 0
    see_each_other(steps, document.first, len(source))
