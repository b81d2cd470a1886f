"""Find words of a list in a text, all words in one pass (Aho and Corasick 1975; the pyahocorasick package)."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import ahocorasick

from pangu.foundation.errors import UserError


def folded(text: str) -> str:
    """Return a text in small letters, character by character: as long as before."""
    small = text.lower()
    if len(small) == len(text):
        return small
    return "".join(one if len(one.lower()) != 1 else one.lower() for one in text)


class WordList:
    """Words to look for. Letter case counts for nothing. `longest`: characters of the longest word."""

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        self.longest = 0
        for word in {folded(word.strip()) for word in words} - {""}:
            self._automaton.add_word(word, word)
            self.longest = max(self.longest, len(word))
        self._automaton.make_automaton()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return a UTF-8 file with a word a line; blank lines and lines that begin with # do not count."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}; save the list as UTF-8") from error
        return cls(line for line in lines if not line.startswith("#"))

    def __len__(self) -> int:
        return len(self._automaton)

    def hits(self, text: str) -> list[str]:
        """Return every occurrence of every word, in the order of their ends; words inside others count too."""
        if not len(self):
            return []
        return [word for _, word in self._automaton.iter(folded(text))]

    def first(self, text: str) -> int | None:
        """Return where the first word of the list begins; None where there is none."""
        if not len(self):
            return None
        return min((end + 1 - len(word) for end, word in self._automaton.iter(folded(text))), default=None)

    def unfinished(self, text: str) -> int:
        """Return the length of the longest end of a text that may yet become a word of the list."""
        small = folded(text[-max(0, self.longest - 1) :]) if self.longest > 1 else ""
        lengths = range(len(small), 0, -1)
        return next((length for length in lengths if self._automaton.longest_prefix(small[-length:]) == length), 0)
