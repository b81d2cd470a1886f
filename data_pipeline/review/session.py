"""A review: a seeded sample of documents, a verdict for each, and the file that holds them.

The file is JSONL, a line a document, the ones not yet judged with a null verdict: so it is the state of the review and
its result at once. It is written whole after each verdict (temporary name, fsync, rename), and `quality train` takes it
as examples.

The kinds of junk are those that the paper's reviewers counted (advertisements, repeated short sentences, spam; PanGu-α,
section 3.1), with what else the open web has.
"""

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from data_pipeline.engine.run_files import write_whole
from data_pipeline.quality.documents import VERDICT_SIDES, SourcedDocument
from pangu.foundation.best_effort import reason_of
from pangu.foundation.errors import UserError

Verdict = Literal["keep", "junk", "unsure"]
# kind -> what the page says; the order is that of the keys 1 to 9
KINDS = {
    "advertisement": "advertisement",
    "spam": "spam, keyword soup",
    "repetition": "repeated short sentences",
    "navigation": "navigation, lists of links",
    "not_fluent": "not fluent: machine-made or badly translated",
    "garbled": "broken characters",
    "adult_gambling": "pornography, gambling",
    "fragment": "fragment, cut off",
    "other": "other junk",
}
# longer documents are judged by their beginning
SHOWN_CHARACTERS = 20_000


@dataclass
class ReviewItem:
    """A document to be judged, and what it was judged to be."""

    doc_id: int
    id: str | None
    source: str
    url: str | None
    title: str | None
    text: str
    drop_reason: str | None
    verdict: Verdict | None = None
    kind: str | None = None

    def line(self) -> str:
        """Return the item as a line of the file."""
        return json.dumps(vars(self), ensure_ascii=False) + "\n"


@dataclass
class Session:
    """The review of one sample. Not safe for two threads at once: the server takes turns."""

    path: Path
    items: list[ReviewItem]
    lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.lines = [item.line() for item in self.items]

    def judge(self, number: int, verdict: str | None, kind: str | None) -> None:
        """Set (or with None take back) a verdict and save. ValueError where it is none."""
        if not 0 <= number < len(self.items):
            raise ValueError(f"no item {number}; there are {len(self.items)}")
        if verdict is not None and verdict not in VERDICT_SIDES:
            raise ValueError(f"no verdict {verdict!r}; there are {', '.join(VERDICT_SIDES)}")
        if kind is not None and (kind not in KINDS or verdict != "junk"):
            raise ValueError(f"no kind {kind!r} of {verdict}; junk has {', '.join(KINDS)}")
        item = self.items[number]
        before = item.verdict, item.kind
        item.verdict, item.kind = verdict, kind  # type: ignore[assignment]
        self.lines[number] = item.line()
        try:
            self.save()
        except UserError:
            item.verdict, item.kind = before
            self.lines[number] = item.line()
            raise

    def save(self) -> None:
        """Write the file, whole or not at all."""
        write_whole(self.path, "".join(self.lines))

    @property
    def first_open(self) -> int:
        """Return the first item without a verdict; the number of items when all are judged."""
        return next((number for number, item in enumerate(self.items) if item.verdict is None), len(self.items))

    def summary(self) -> dict[str, Any]:
        """Return counts, and the share of junk with its 95 % interval, over all and by source."""
        judged = [item for item in self.items if item.verdict in ("keep", "junk")]
        sources = sorted({item.source for item in judged})
        return {
            "items": len(self.items),
            "judged": sum(item.verdict is not None for item in self.items),
            "verdicts": dict(Counter(item.verdict for item in self.items if item.verdict)),
            "kinds": dict(Counter(item.kind or "other" for item in judged if item.verdict == "junk").most_common()),
            "junk": _share(judged),
            "junk_by_source": {name: _share([item for item in judged if item.source == name]) for name in sources},
        }


def _share(judged: list[ReviewItem]) -> dict[str, Any]:
    junk = sum(item.verdict == "junk" for item in judged)
    low, high = wilson(junk, len(judged))
    return {"junk": junk, "of": len(judged), "share": junk / len(judged) if judged else None, "from": low, "to": high}


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), good for small counts and for 0 or all."""
    if not count:
        return 0.0, 1.0
    z = 1.959963984540054
    share = hits / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, min(share, center - reach)), min(1.0, max(share, center + reach))


def draw(documents: Iterable[SourcedDocument], count: int, seed: int) -> list[ReviewItem]:
    """Return a sample of `count` documents with text, each with the same chance: those of smallest hash of `doc_id`
    with the seed, in the order of that hash. Neither the order of the documents nor the number of files matters.
    """
    # A heap whose first entry is the one of greatest hash. Two files of one name can give two documents one number:
    # then the place decides.
    kept: list[tuple[int, int, int, ReviewItem]] = []
    for place, document in enumerate(documents):
        if not document.text.strip():
            continue
        number = xxhash.xxh3_64_intdigest(document.doc_id.to_bytes(8, "little"), seed)
        if len(kept) < count or -number >= kept[0][0]:
            item = ReviewItem(
                document.doc_id,
                document.id,
                document.source,
                document.url,
                document.title,
                document.text[:SHOWN_CHARACTERS],
                document.drop_reason,
            )
            entry = (-number, -document.doc_id, -place, item)
            if len(kept) < count:
                heapq.heappush(kept, entry)
            elif entry > kept[0]:
                heapq.heappushpop(kept, entry)
    return [item for *_, item in sorted(kept, reverse=True)]


def load(path: Path) -> Session:
    """Go on with a review. UserError where the file is none."""
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {reason_of(error)}") from error
    for number, line in enumerate(lines, 1):
        try:
            items.append(ReviewItem(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} line {number}: no line of a review ({error}); give --out another name") from error
    if not items:
        raise UserError(f"{path}: is empty; remove it to begin the review again")
    return Session(path, items)
