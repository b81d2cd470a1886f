"""How good an extracted text is: F1 of character 4-grams against hand-cleaned text, and the pages that have one."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LabelledPage:
    """A real page with its main text."""

    name: str
    html: bytes
    gold: str
    kind: str = "article"  # or "forum"


def labelled_pages(folder: Path) -> list[LabelledPage]:
    """Return the pages of a folder with `index.json`, `pages/` and `gold/`."""
    return [
        LabelledPage(
            entry["id"],
            (folder / "pages" / f"{entry['id']}.html").read_bytes(),
            (folder / "gold" / f"{entry['id']}.txt").read_text(),
            entry.get("kind", "article"),
        )
        for entry in json.loads((folder / "index.json").read_text())
    ]


def scores(text: str, gold: str) -> tuple[float, float, float]:
    """Return F1, precision, recall of the character 4-grams of `text`, as multisets, white space removed."""
    found, wanted = _grams(text), _grams(gold)
    common = sum((found & wanted).values())
    precision, recall = common / max(1, sum(found.values())), common / max(1, sum(wanted.values()))
    return (2 * precision * recall / (precision + recall) if common else 0.0), precision, recall


def _grams(text: str) -> Counter[str]:
    text = re.sub(r"\s+", "", text)
    return Counter(text[i : i + 4] for i in range(max(1, len(text) - 3)))
