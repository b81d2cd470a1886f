"""Counts words of a list in texts, all words in one pass (Aho and Corasick 1975; the pyahocorasick package)."""

from collections.abc import Iterable
from pathlib import Path

import ahocorasick
import numpy as np
import pyarrow as pa

from pangu.foundation.errors import UserError

# What a number of hits is held against:
#   count                 all hits, overlapping ones too (PanGu-α: more than 3 of its 724 words)
#   distinct              different words
#   per_1000_characters   all hits for every 1000 characters, so that a long document is not judged by its length
#   distinct_per_line     different words for every line that is not blank (ChineseWebText: more than 0.5)
MODES = ("count", "distinct", "per_1000_characters", "distinct_per_line")


class Keywords:
    """A list of words to look for. Letter case counts for nothing."""

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for word in {word.strip().lower() for word in words} - {""}:
            self._automaton.add_word(word, word)
        self._automaton.make_automaton()

    @classmethod
    def load(cls, path: Path) -> "Keywords":
        """Return a UTF-8 file with a word a line; blank lines and lines that begin with # do not count."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the list as UTF-8") from error
        return cls(line for line in lines if not line.startswith("#"))

    def hits(self, text: str) -> list[str]:
        """Return every occurrence of every word, in the order of their ends; words inside others count too."""
        if not len(self._automaton):
            return []
        return [word for _, word in self._automaton.iter(text.lower())]

    def counts(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return float64[rows, 2]: all hits in each text, and how many different words they are."""
        found = [self.hits(text or "") for text in texts.to_pylist()]
        return np.array([(len(hits), len(set(hits))) for hits in found], np.float64).reshape(-1, 2)

    def measure(self, texts: pa.Array | pa.ChunkedArray, mode: str) -> np.ndarray:
        """Return float64[rows]: the hits in each text, counted by one of MODES: plainly what the filter makes of
        `counts`.
        """
        return np.array([self._measure(text or "", mode) for text in texts.to_pylist()], np.float64)

    def _measure(self, text: str, mode: str) -> float:
        hits = self.hits(text)
        if mode == "count" or not hits:
            return len(hits)
        if mode == "distinct":
            return len(set(hits))
        if mode == "per_1000_characters":
            return 1000 * len(hits) / sum(not character.isspace() for character in text)
        if mode == "distinct_per_line":
            return len(set(hits)) / sum(bool(line.strip()) for line in text.split("\n"))
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
