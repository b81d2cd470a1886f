"""The learning rate of a step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up from 0, then the cosine from `peak` to `end`, as the original computes it.

    The cosine counts from step 0, not from the end of the warm-up, so the peak is never quite reached; step 0 has
    rate 0 and changes nothing. From `decay_steps` on the rate is `end`.
    """

    peak: float
    end: float
    warmup_steps: int
    decay_steps: int

    def __call__(self, step: int) -> float:
        """Rate of the update with this index, counted from 0."""
        progress = min(step, self.decay_steps) / self.decay_steps
        decayed = self.end + 0.5 * (self.peak - self.end) * (1 + math.cos(math.pi * progress))
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        return decayed
