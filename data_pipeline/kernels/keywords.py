"""Count words of a list in texts."""

import numpy as np
import pyarrow as pa

from pangu.foundation.word_list import WordList

# What a number of hits is held against:
#   count                 all hits, overlapping ones too (PanGu-α: more than 3 of its 724 words)
#   distinct              different words
#   per_1000_characters   all hits for every 1000 characters, so that a long document is not judged by its length
#   distinct_per_line     different words for every line that is not blank (ChineseWebText: more than 0.5)
MODES = ("count", "distinct", "per_1000_characters", "distinct_per_line")


class Keywords(WordList):
    """A list of words whose occurrences are counted."""

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
