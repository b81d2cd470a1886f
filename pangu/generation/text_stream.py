"""Tokens to text that may be shown at once, and the end at a stop string."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer


class TextStream:
    """Push token ids, get text. Text that may turn out to begin a stop string is held back; `stopped` says it was one.

    Neither the stop string nor anything after it is ever given out, wherever it begins and ends inside tokens.
    """

    def __init__(self, tokenizer: "Tokenizer", stop_strings: Sequence[str] = ()) -> None:
        self.decoder = tokenizer.stream_decoder()
        self.stop_strings = tuple(stop_strings)
        self.held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Return the text that this token makes certain."""
        return self.advance(self.decoder.push(token_id))

    def finish(self) -> str:
        """Return what is left when no token follows."""
        if self.stopped:
            return ""
        text = self.advance(self.decoder.finish()) + self.held
        self.held = ""
        return text

    def advance(self, text: str) -> str:
        if self.stopped:
            return ""
        self.held += text
        found = [place for place in map(self.held.find, self.stop_strings) if place >= 0]
        if found:
            self.stopped = True
            certain, self.held = self.held[: min(found)], ""
            return certain
        length = len(self.held) - self.beginning_of_stop()
        certain, self.held = self.held[:length], self.held[length:]
        return certain

    def beginning_of_stop(self) -> int:
        """Return length of the longest end of the held text that a stop string begins with."""
        return max(
            (
                length
                for stop in self.stop_strings
                for length in range(1, min(len(stop), len(self.held) + 1))
                if self.held.endswith(stop[:length])
            ),
            default=0,
        )
