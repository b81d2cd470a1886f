"""The learning rate of an update."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pangu.config import LearningRateConfig

Schedule = Callable[[int], float]

# Where warmup_steps says nothing: the original's, and of a short run this part.
USUAL_WARMUP, WARMUP_PART = 2000, 10
# Where cooldown_steps says nothing: this part of the schedule (Hägele et al. 2024 find 10 to 20 % enough).
COOLDOWN_PART = 10


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
        """Return the rate of the update with this index, counted from 0."""
        progress = min(step, self.decay_steps) / self.decay_steps
        decayed = self.end + 0.5 * (self.peak - self.end) * (1 + math.cos(math.pi * progress))
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        return decayed


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up from 0, `peak` for most of the run, then a line to `end` (Hu et al. 2024, MiniCPM).

    The end may be moved as long as the line has not begun: what was trained stays as it is.
    """

    peak: float
    end: float
    warmup_steps: int
    decay_steps: int
    cooldown_steps: int

    def __call__(self, step: int) -> float:
        """Return the rate of the update with this index, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        left = max(0, self.decay_steps - step)
        if left >= self.cooldown_steps:
            return self.peak
        return self.end + (self.peak - self.end) * left / self.cooldown_steps


@dataclass(frozen=True)
class BegunLater:
    """A schedule that counts from `begin_step` on, for a run that goes on with its moments."""

    schedule: Schedule
    begin_step: int

    def __call__(self, step: int) -> float:
        return self.schedule(step - self.begin_step)


def complete(rate: LearningRateConfig, steps: int) -> LearningRateConfig:
    """Return the settings with everything written out that may be null, for a run of this many steps."""
    decay = rate.decay_steps or max(1, steps - rate.begin_step)
    warmup = min(USUAL_WARMUP, decay // WARMUP_PART) if rate.warmup_steps is None else rate.warmup_steps
    cooldown = rate.cooldown_steps or max(1, decay // COOLDOWN_PART)
    return rate.model_copy(update={"decay_steps": decay, "warmup_steps": warmup, "cooldown_steps": cooldown})


def schedule_of(rate: LearningRateConfig, steps: int) -> Schedule:
    """Return the schedule that the settings describe, for a run of this many steps."""
    whole = complete(rate, steps)
    assert whole.warmup_steps is not None and whole.decay_steps is not None and whole.cooldown_steps is not None
    schedule: Schedule
    if whole.shape == "cosine":
        schedule = WarmupCosine(whole.peak, whole.end, whole.warmup_steps, whole.decay_steps)
    else:
        schedule = WarmupStableDecay(whole.peak, whole.end, whole.warmup_steps, whole.decay_steps, whole.cooldown_steps)
    return BegunLater(schedule, whole.begin_step) if whole.begin_step else schedule


def continued(rate: LearningRateConfig, began: LearningRateConfig, steps: int, done: int) -> LearningRateConfig:
    """Return the settings of a run that has made `done` updates, what they leave out as the run began.

    A cosine of no stated length stays as long as it was, so that `steps` alone makes a run longer, and behind it the
    rate is `end`. A schedule with a stable part ends with the run while that changes no rate of the past.
    """
    if rate.begin_step != began.begin_step:
        return complete(rate, steps)
    left_out = {
        name: getattr(began, name)
        for name in ("decay_steps", "warmup_steps", "cooldown_steps")
        if getattr(rate, name) is None
    }
    kept = rate.model_copy(update=left_out)
    if rate.shape == "warmup_stable_decay" and rate.decay_steps is None:
        moved = kept.model_copy(update={"decay_steps": max(1, steps - rate.begin_step)})
        if first_difference(moved, began, steps, done) is None:
            return moved
    return complete(kept, steps)


def first_difference(rate: LearningRateConfig, began: LearningRateConfig, steps: int, done: int) -> int | None:
    """Return the first update of a run's past that has another rate under `rate`; None where all are the same.

    What lies before the beginning of a new schedule is not looked at.
    """
    now, before = schedule_of(rate, steps), schedule_of(began, steps)
    return next((step for step in range(rate.begin_step, done) if now(step) != before(step)), None)
