"""Experts by domain on text whose domain nobody says: a mixture over domains, weighed by what has been read (DEMix).

    p(x_t | x_<t) = Σ_D p(D | x_<t) · p_D(x_t | x_<t),   p(D | x_<t) ∝ Π_s<t p_D(x_s | x_<s)

All domains are as likely before the first token. Each row is one of the network's for every domain, so a token costs as
many forward passes as there are domains; a domain that is known is cheaper cut out (`convert --cut-domain`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pangu.foundation.errors import UserError
from pangu.generation.decoding_batch import DecodingBatch, Network, RowTokens

CHUNK = 64  # tokens of a prompt whose logits are looked at together
REMEMBERED = 64  # lengths of a row that it can go back to


@dataclass(frozen=True)
class Belief:
    """What a row says after some of its tokens: log p of what was read [D], and of the next token [D, V]."""

    evidence: np.ndarray
    next_token: np.ndarray

    def mixture(self) -> np.ndarray:
        """Return log p of the next token, fp32 [V]."""
        posterior = self.evidence - np.logaddexp.reduce(self.evidence)
        return np.logaddexp.reduce(posterior[:, None] + self.next_token, axis=0).astype(np.float32)


class MixedNetwork(Network):
    """A network of the compiled engine, with a row for each domain."""

    def __init__(self, network: Network, domains: int) -> None:
        self.network, self.domains = network, domains

    def open(self, rows: int, slots: int) -> "MixedBatch":
        return MixedBatch(self.network.open(rows * self.domains, slots), rows, self.domains)


class MixedBatch(DecodingBatch):
    """Rows whose logits are the log probabilities of the mixture."""

    admits_any_time = True

    def __init__(self, batch: DecodingBatch, rows: int, domains: int) -> None:
        self.batch, self.rows, self.domains = batch, rows, domains
        self.beliefs: list[dict[int, Belief]] = [{} for _ in range(rows)]

    @property
    def lengths(self) -> np.ndarray:  # type: ignore[override]
        """Return the tokens that each row has read."""
        return self.batch.lengths[:: self.domains]

    def read(self, parts: Sequence[RowTokens]) -> list[np.ndarray]:
        if any(part.query_positions is not None or part.positions is not None for part in parts):
            raise UserError("experts by domain read a text from its beginning to its end; cut a domain out for this")
        return [self.read_part(part) for part in parts]

    def read_part(self, part: RowTokens) -> np.ndarray:
        """Read on in one row -> log probabilities fp32 [wanted, V]."""
        found: list[np.ndarray] = []
        for start in range(0, len(part.ids), CHUNK):
            ids = part.ids[start : start + CHUNK]
            first = part.row * self.domains
            rows = [
                replace(part, row=first + domain, ids=ids, wanted=len(ids), domain=domain)
                for domain in range(self.domains)
            ]
            length = int(self.lengths[part.row])
            logits = np.array(self.batch.read(rows), np.float64)  # [D, tokens, V]
            logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
            for place, token in enumerate(ids):
                belief = self.after(part.row, length + place, token, logits[:, place])
                if start + place >= len(part.ids) - part.wanted:
                    found.append(belief.mixture())
        return np.stack(found) if found else np.zeros((0, 0), np.float32)

    def after(self, row: int, length: int, token: int, next_token: np.ndarray) -> Belief:
        """Return the belief of a row of this length after one token more, and remember it."""
        known = self.beliefs[row]
        before = known.get(length)
        evidence = np.zeros(self.domains) if before is None else before.evidence + before.next_token[:, token]
        known[length + 1] = Belief(evidence, next_token)
        while len(known) > REMEMBERED:
            del known[min(known)]
        return known[length + 1]

    def release(self, row: int) -> None:
        self.rewind(row, 0)

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of a row, one of the last that it has had."""
        if length and length not in self.beliefs[row]:
            raise ValueError(f"row {row} cannot go back to {length} tokens, only to {sorted(self.beliefs[row])}")
        self.beliefs[row] = {known: belief for known, belief in self.beliefs[row].items() if known <= length}
        for domain in range(self.domains):
            self.batch.rewind(row * self.domains + domain, length)
