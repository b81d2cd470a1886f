"""Documents with known duplicates among them, to measure what a deduplicator finds and what it takes wrongly.

The kinds follow what happens to a page on its way through the web: copied whole; copied with punctuation, width and
case changed; copied under another site's header and footer; edited here and there at several rates; cut short. A last
kind is no duplicate: forms filled in with different contents, which share a frame but not what they say.
"""

import random
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data_pipeline.dedup_check import chinese_grammar
from data_pipeline.kernels import minhash
from data_pipeline.kernels.normal_form import CodePoints, normal_form_table, normalise
from data_pipeline.stages.dedup.signatures import FuzzySettings, deduplicate

# Share of characters substituted, deleted or doubled. An edit spoils the five 5-grams around it, so that a rate r
# leaves a similarity of about s / (2 - s) with s = (1 - r)^5: 0.95, 0.91, 0.83, 0.79, 0.63 and 0.42.
EDIT_RATES = (0.005, 0.01, 0.02, 0.025, 0.05, 0.1)
# Below this a header and a footer, or an edit, are most of the document.
MINIMUM_CHARACTERS = 60


@dataclass(frozen=True)
class Planted:
    """One planted document. `origin` is the index of the document it was made of; None for a filled-in form."""

    text: str
    origin: int | None
    kind: str


def _exact(text: str, randomness: random.Random) -> str:
    return text


def _typography(text: str, randomness: random.Random) -> str:
    """Change widths of characters, line breaks and spaces: the normal form does not change."""
    changed = []
    for character in text:
        if character in "，；：！？":
            changed.append(unicodedata.normalize("NFKC", character) + " ")
        elif character == "\n":
            changed.append("\r\n\r\n")
        elif character.isascii() and character.isalnum():
            changed.append(chr(ord(character.upper()) + 0xFEE0))
        else:
            changed.append(character)
    return "　　" + "".join(changed)


def _header_footer(text: str, randomness: random.Random) -> str:
    """Add about a twentieth of the text before and after it, as a site's frame does."""
    size = max(4, len(text) // 40)
    header = chinese_grammar.document(randomness, size)[:size]
    footer = chinese_grammar.document(randomness, size)[:size]
    return f"{header}\n{text}\n{footer}"


def _edited(rate: float) -> Callable[[str, random.Random], str]:
    def edit(text: str, randomness: random.Random) -> str:
        characters = []
        for character in text:
            if randomness.random() >= rate:
                characters.append(character)
                continue
            kind = randomness.randrange(3)
            if kind == 0:
                characters.append(randomness.choice(text))
            elif kind == 1:
                characters += [character, randomness.choice(text)]
        return "".join(characters)

    return edit


def _cut(text: str, randomness: random.Random) -> str:
    """Cut the last tenth off, as a feed does."""
    return text[: len(text) * 9 // 10]


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "exact": _exact,
    "typography": _typography,
    "header+footer": _header_footer,
    "cut": _cut,
    **{f"edits {rate:.1%}": _edited(rate) for rate in EDIT_RATES},
}
FORM = "form"


def plant(texts: Sequence[str], per_kind: int, seed: int) -> list[Planted]:
    """Return `per_kind` planted documents of each kind, made of distinct documents of `texts` as far as there are
    enough.
    """
    randomness = random.Random(seed)
    usable = [index for index, text in enumerate(texts) if len(text) >= MINIMUM_CHARACTERS]
    if not usable:
        return []
    randomness.shuffle(usable)
    planted = []
    for number, (kind, change) in enumerate(KINDS.items()):
        for i in range(per_kind):
            origin = usable[(number * per_kind + i) % len(usable)]
            planted.append(Planted(change(texts[origin], randomness), origin, kind))
    planted += [Planted(_filled_form(randomness), None, FORM) for _ in range(per_kind)]
    return planted


def _filled_form(randomness: random.Random) -> str:
    """Return a notice of about 250 characters, half of it the frame of all: two have a similarity of 0.3 to 0.5."""
    contents = [chinese_grammar.sentence(randomness) for _ in range(4)]
    return (
        f"关于第{randomness.randrange(1000, 10000)}号申请的公示\n"
        f"根据有关管理办法的规定，现将下列申请予以公示，公示期为七个工作日。\n申请事项：{contents[0]}\n"
        f"基本情况：{contents[1]}{contents[2]}\n处理意见：{contents[3]}\n"
        "公示期间如有异议，请以书面形式向受理窗口反映，并留下真实姓名和联系方式，以便核实情况。"
    )


@dataclass(frozen=True)
class Recall:
    """How many planted duplicates were put into one cluster with what they were made of."""

    name: str  # a kind, or a range of similarity
    planted: int
    similarity: float  # mean exact Jaccard similarity of the pairs
    found: int

    @property
    def recall(self) -> float:
        return self.found / self.planted


@dataclass(frozen=True)
class Measured:
    """What a deduplicator did with planted duplicates. Similarities are exact, of the sets of character n-grams."""

    documents: int
    megabytes: float
    seconds: float
    kinds: list[Recall]
    bins: list[Recall]
    dropped: int
    dropped_exact: int
    dropped_precision: float  # share of dropped documents that have 0.5 or more in common with the one kept for them
    edges: int
    edge_precision: float  # share of edges with a similarity of 0.5 or more
    forms_dropped: int


def measure(texts: Sequence[str], per_kind: int, settings: FuzzySettings, seed: int, threads: int = 1) -> Measured:
    """Plant duplicates in `texts`, deduplicate, and compare with what was planted."""
    planted = plant(texts, per_kind, seed)
    column = pa.array([*texts, *(item.text for item in planted)], pa.large_string())
    # Ids in a random order, or representatives of equal length would always be the originals.
    ids = np.random.default_rng(seed).permutation(len(column))
    deduplicate(column[:2], ids[:2], settings)  # loads the compiled kernels
    started = time.perf_counter()
    clusters = deduplicate(column, ids, settings, threads=threads)
    seconds = time.perf_counter() - started

    codes = normalise(column, normal_form_table(settings.fold_traditional))
    made = [(len(texts) + i, item.origin, item.kind) for i, item in enumerate(planted) if item.origin is not None]
    copies = np.array([copy for copy, _, _ in made], np.int64)
    origins = np.array([origin for _, origin, _ in made], np.int64)
    similarity = _similarity(codes, origins, copies, settings.gram)
    found = clusters.representative[copies] == clusters.representative[origins]
    kind = np.array([name for _, _, name in made])
    lower = np.minimum(np.floor(similarity * 10), 9).astype(int)
    dropped = np.flatnonzero(~clusters.kept)
    kept_for = _similarity(codes, clusters.representative[dropped], dropped, settings.gram)
    edges = _similarity(codes, clusters.edges.left, clusters.edges.right, settings.gram)
    forms = [len(texts) + i for i, item in enumerate(planted) if item.kind == FORM]
    return Measured(
        documents=len(column),
        megabytes=column.nbytes / 1e6,
        seconds=seconds,
        kinds=[_recall(name, kind == name, similarity, found) for name in KINDS if (kind == name).any()],
        bins=[
            _recall(f"{i / 10:.1f} to {(i + 1) / 10:.1f}", lower == i, similarity, found)
            for i in sorted(set(lower.tolist()), reverse=True)
        ],
        dropped=dropped.size,
        dropped_exact=int(clusters.exact.sum()),
        dropped_precision=_share(kept_for >= 0.5),
        edges=edges.size,
        edge_precision=_share(edges >= 0.5),
        forms_dropped=int((~clusters.kept[forms]).sum()),
    )


def _similarity(codes: CodePoints, left: np.ndarray, right: np.ndarray, gram: int) -> np.ndarray:
    """Return float32[pairs]: exact Jaccard similarity of rows of `codes`."""
    order = np.argsort(left, kind="stable")
    similarity = np.empty(left.size, np.float32)
    out = np.empty(left.size, np.float32)
    minhash.jaccard(codes.values, codes.offsets, left[order], right[order], gram, out)
    similarity[order] = out
    return similarity


def _recall(name: str, chosen: np.ndarray, similarity: np.ndarray, found: np.ndarray) -> Recall:
    return Recall(name, int(chosen.sum()), float(similarity[chosen].mean()), int(found[chosen].sum()))


def _share(right: np.ndarray) -> float:
    """Return the share of true values; of nothing, all are right."""
    return float(right.mean()) if right.size else 1.0
