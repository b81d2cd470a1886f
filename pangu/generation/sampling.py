"""From logits to the next token of one sequence."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pangu.generation.options import GenerationOptions

# How many of the most likely tokens top-p looks at first; it looks at more when these do not reach `top_p`.
TOP_P_START = 64
# Below it the most likely token is taken: logits divided by so little are no numbers.
LEAST_TEMPERATURE = 1e-6


def most_likely(scores: np.ndarray, count: int) -> np.ndarray:
    """Return ids of the `count` highest of scores [V], highest first; of equals the lower id comes first.

    The maxima of `count` or more groups of tokens bound the count-th highest score from below, so only the few tokens
    that reach the bound are sorted: two passes over the scores instead of a partition.
    """
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    groups = max(count, 256)
    if len(scores) >= 4 * groups:
        whole = len(scores) // groups * groups
        maxima = scores[:whole].reshape(-1, groups).max(axis=0)
        bound = np.partition(maxima, groups - count)[groups - count]
    else:
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
    reaching = np.flatnonzero(scores >= bound)
    return reaching[np.argsort(-scores[reaching], kind="stable")][:count]


def candidates(scores: np.ndarray, top_k: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Return ids that may be drawn and their probabilities (float64, sum 1), from scores [V] = logits over temperature.

    Most likely first, unless neither limit applies: then in the order of the ids.
    """
    if top_k == 0 and top_p >= 1:
        weights = np.exp((scores - scores.max()).astype(np.float64))
        return np.arange(len(scores)), weights / weights.sum()
    if top_k:
        ids = most_likely(scores, min(top_k, len(scores)))
        weights = np.exp((scores[ids] - scores[ids[0]]).astype(np.float64))
        if top_p >= 1:
            return ids, weights / weights.sum()
        total = weights.sum()
        cumulative = weights.cumsum()
    else:
        total = np.exp(scores - scores.max()).sum(dtype=np.float64)
        count = TOP_P_START
        while True:
            ids = most_likely(scores, min(count, len(scores)))
            weights = np.exp((scores[ids] - scores[ids[0]]).astype(np.float64))
            cumulative = weights.cumsum()
            if cumulative[-1] >= top_p * total or len(ids) == len(scores):
                break
            count *= 8
    kept = min(int((cumulative < top_p * total).sum()) + 1, len(ids))
    return ids[:kept], weights[:kept] / cumulative[kept - 1]


class Sampler:
    """Chooses the tokens of one sequence, one `choose` after the other.

    Random numbers come from Philox, keyed by the seed and a digest of the prompt: they depend on nothing else, so that
    a sequence is the same alone and in any batch, and different prompts draw independently.
    """

    def __init__(self, options: GenerationOptions, prompt: Sequence[int]) -> None:
        self.options = options
        self.prompt_ids = np.unique(np.asarray(prompt, np.int64))
        self.counts: Counter[int] = Counter()
        drawn = np.asarray([*prompt, *([-1, options.sample] if options.sample else [])], "<i8")
        digest = hashlib.blake2b(drawn.tobytes(), digest_size=8).digest()
        self.history: list[int] = [int(token) for token in prompt] if options.no_repeat_ngram else []
        self.followers: dict[tuple[int, ...], list[int]] = {}
        for end in range(max(1, options.no_repeat_ngram), len(self.history) + 1):
            self.note(self.history[end - options.no_repeat_ngram : end])
        self.random = np.random.Philox(key=np.array([options.seed, int.from_bytes(digest, "little")], np.uint64))

    def note(self, ngram: Sequence[int]) -> None:
        """Remember what followed the beginning of a run of tokens."""
        self.followers.setdefault(tuple(ngram[:-1]), []).append(ngram[-1])

    def uniform(self) -> float:
        """Return a number in [0, 1), 53 bits of one draw of the generator (NumPy keeps the raw stream stable)."""
        return (int(self.random.random_raw()) >> 11) * 2.0**-53

    def penalised(self, logits: np.ndarray) -> np.ndarray:
        """Return logits [V] after the penalties: a copy where there are any."""
        options = self.options
        if options.no_repeat_ngram:
            length = options.no_repeat_ngram - 1
            repeated = self.followers.get(tuple(self.history[len(self.history) - length :]), [])
            if repeated:
                logits = logits.copy()
                logits[repeated] = -np.inf
        if options.repetition_penalty == 1 and not (options.frequency_penalty or options.presence_penalty):
            return logits
        scores = logits.copy()
        generated = np.fromiter(self.counts.keys(), np.int64, len(self.counts))
        if options.repetition_penalty != 1:
            seen = np.union1d(self.prompt_ids, generated)
            values = scores[seen]
            scores[seen] = np.where(
                values > 0, values / options.repetition_penalty, values * options.repetition_penalty
            )
        counts = np.fromiter(self.counts.values(), np.float32, len(self.counts))
        scores[generated] -= options.frequency_penalty * counts + options.presence_penalty
        return scores

    def choose(self, logits: np.ndarray) -> int:
        """Return the next token from logits fp32 [V]."""
        scores = self.penalised(logits)
        if self.options.temperature < LEAST_TEMPERATURE:
            chosen = int(scores.argmax())
        else:
            ids, probabilities = candidates(scores / self.options.temperature, self.options.top_k, self.options.top_p)
            if self.options.min_p:
                likely = probabilities >= self.options.min_p * probabilities.max()
                ids, probabilities = ids[likely], probabilities[likely]
            # In the order of the ids: two tokens that are equal but for rounding must not change places.
            order = np.argsort(ids)
            cumulative = probabilities[order].cumsum()
            place = int(np.searchsorted(cumulative, self.uniform() * cumulative[-1], side="right"))
            chosen = int(ids[order[min(place, len(ids) - 1)]])
        self.counts[chosen] += 1
        if self.options.no_repeat_ngram:
            self.history.append(chosen)
            if len(self.history) >= self.options.no_repeat_ngram:
                self.note(self.history[-self.options.no_repeat_ngram :])
        return chosen
