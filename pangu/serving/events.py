"""What the engine tells of a sequence: pieces of text, and how likely their tokens were."""

from dataclasses import dataclass

import numpy as np

from pangu.generation.engine import Piece

MOST_ALTERNATIVES = 20


@dataclass(frozen=True)
class TokenScore:
    """log p of a token in nats, and the most likely tokens at its place with theirs, best first."""

    token_id: int
    log_probability: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Event:
    """Something that happened to a sequence. `prompt`: scores of the prompt's tokens, once, before any piece."""

    piece: Piece | None = None
    score: TokenScore | None = None
    prompt: tuple[TokenScore, ...] | None = None
    error: str | None = None

    @property
    def is_last(self) -> bool:
        """Return whether nothing follows."""
        return self.error is not None or (self.piece is not None and self.piece.finish is not None)


def score_token(logits: np.ndarray, token: int, count: int) -> TokenScore:
    """Score a token by logits [V], before penalties and temperature, with `count` alternatives."""
    wide = logits.astype(np.float64)
    logs = wide - wide.max()
    logs -= np.log(np.exp(logs).sum())
    count = min(count, MOST_ALTERNATIVES, len(logs))
    best = np.argsort(-logs, kind="stable")[:count] if count else np.zeros(0, int)
    return TokenScore(token, float(logs[token]), tuple((int(one), float(logs[one])) for one in best))
