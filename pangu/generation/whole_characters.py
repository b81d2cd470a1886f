"""Which tokens keep a text whole: bytes that cannot become a character are never drawn.

A tokenizer with byte fallback spells a rare character in up to four byte tokens. A model may begin one and not finish
it, which a reader sees as U+FFFD. The rules are those of UTF-8 (RFC 3629, section 4).
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pangu.tokenizer import Tokenizer

LOW, HIGH = 0x80, 0xBF
# First byte -> (bytes that follow, the lowest and the highest that the next one may be).
FIRST_BYTES: dict[int, tuple[int, int, int]] = (
    dict.fromkeys(range(128), (0, 0, 0))
    | dict.fromkeys(range(194, 224), (1, LOW, HIGH))
    | dict.fromkeys(range(224, 240), (2, LOW, HIGH))
    | {0xE0: (2, 0xA0, HIGH), 0xED: (2, LOW, 0x9F)}
    | {0xF0: (3, 0x90, HIGH), 0xF4: (3, LOW, 0x8F)}
    | dict.fromkeys(range(241, 244), (3, LOW, HIGH))
)


class ByteTokens:
    """The byte tokens of a tokenizer: 256 ids, or none where it has no byte fallback."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.ids = np.array(tokenizer.byte_ids, np.int64)
        self.byte_of = {int(token): byte for byte, token in enumerate(self.ids)}
        self.never = self.ids[[byte for byte in range(256) if byte not in FIRST_BYTES]] if len(self.ids) else self.ids


class WholeCharacters:
    """What of the vocabulary may come next, in one text."""

    def __init__(self, tokens: ByteTokens) -> None:
        self.tokens = tokens
        self.missing, self.low, self.high = 0, 0, 0

    def allowed(self, scores: np.ndarray, left: int) -> np.ndarray:
        """Return a copy of scores [V] that is -inf for what would break a character.

        left: tokens that may still come, this one counted: a character that has no room is not begun.
        """
        ids = self.tokens.ids
        if not len(ids):
            return scores
        if self.missing:
            chosen = ids[self.low : self.high + 1]
            result = np.full_like(scores, -np.inf)
            result[chosen] = scores[chosen]
            return result
        result = scores.copy()
        result[self.tokens.never] = -np.inf
        if left < 4:
            result[ids[[byte for byte, (following, _, _) in FIRST_BYTES.items() if following >= left]]] = -np.inf
        return result

    def take(self, token: int) -> None:
        """Go on behind a token that was chosen."""
        byte = self.tokens.byte_of.get(token)
        if byte is None:
            self.missing = 0
        elif self.missing:
            self.missing, self.low, self.high = self.missing - 1, LOW, HIGH
        else:
            self.missing, self.low, self.high = FIRST_BYTES.get(byte, (0, 0, 0))
