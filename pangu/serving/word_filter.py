"""Hold an answer back where it may become a word of the operator's list, and end it where it has become one.

What is passed on are whole events of the engine, so that neither the text nor the names of scored tokens show a part
of such a word.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pangu.foundation.word_list import WordList
from pangu.generation.engine import Piece
from pangu.serving.events import Event


@dataclass(frozen=True)
class Filter:
    """The list, and how a token is read: `text_of` returns a token's text."""

    words: WordList
    text_of: Callable[[int], str]

    def screen(self, before: str, after: str) -> "Screen":
        """Return what watches one answer that stands between two texts."""
        return Screen(self, before, after)


class Screen:
    """Watches one answer. before, after: what the client will read beside it; they hold no word of the list."""

    def __init__(self, screened_by: Filter, before: str, after: str) -> None:
        self.filter = screened_by
        reach = max(0, screened_by.words.longest - 1)
        self.text, self.after = before[len(before) - reach :] if reach < len(before) else before, after[:reach]
        self.waiting: list[tuple[Event, int]] = []  # with the place in `text` where each ends
        self.told = len(self.text)

    def push(self, event: Event) -> list[Event]:
        """Return the events that may be passed on; the last of them ends the answer where a word was found."""
        piece, words = event.piece, self.filter.words
        if piece is None:
            return [event]
        self.text += piece.text
        self.waiting.append((self.without_words(event), len(self.text)))
        whole = self.text + (self.after if piece.finish else "")
        place = words.first(whole)
        if place is not None and place < len(self.text):
            return [*self.release(place), self.end(max(place, self.told))]
        ready = self.release(len(self.text) - (0 if piece.finish else words.unfinished(self.text)))
        self.trim()
        return ready

    def release(self, certain: int) -> list[Event]:
        """Take out the events that end before a place; those without text wait for the next that has some."""
        count = 0
        for number, (event, end) in enumerate(self.waiting, 1):
            assert event.piece is not None
            if end > certain:
                break
            if event.piece.text or event.piece.finish:
                count = number
        ready, self.waiting = self.waiting[:count], self.waiting[count:]
        if ready:
            self.told = ready[-1][1]
        return [event for event, _ in ready]

    def trim(self) -> None:
        """Forget the text that is too far back to be part of a word."""
        far = self.told - self.filter.words.longest
        if far > 0:
            self.text, self.told = self.text[far:], self.told - far
            self.waiting = [(event, end - far) for event, end in self.waiting]

    def end(self, place: int) -> Event:
        """Return the event that ends an answer before a word."""
        first = self.waiting[0][0].piece if self.waiting else None
        return Event(Piece(first.sequence if first else 0, None, self.text[self.told : place], "filtered"))

    def without_words(self, event: Event) -> Event:
        """Return an event without alternatives that are words of the list."""
        score = event.score
        if score is None or not score.alternatives:
            return event
        kept = tuple(one for one in score.alternatives if not self.filter.words.hits(self.filter.text_of(one[0])))
        return replace(event, score=replace(score, alternatives=kept))
