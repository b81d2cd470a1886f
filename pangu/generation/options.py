"""What a caller may ask of generation."""

from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Literal, get_args

from pangu.foundation.errors import UserError

Overflow = Literal["refuse", "truncate", "slide"]
LARGEST = 1e6  # of temperature and penalties: beyond it logits are no numbers any more
KINDS = {int: (Integral, "a whole number"), float: (Real, "a number"), bool: (bool, "True or False")}
KINDS_INSIDE: dict[str, type] = {"stop_ids": Integral, "stop_strings": str}
SCALE = f"must be {1 / LARGEST:g} to {LARGEST:g}"


@dataclass(frozen=True)
class GenerationOptions:
    """How to choose tokens and when to end. Raises UserError on a value that means nothing.

    Order: penalties on the logits, temperature, top-k, top-p (the smallest set of the most likely tokens, renormalised
    after top-k, whose probability reaches `top_p`).

    temperature: 0 takes the most likely token (greedy; top-k and top-p then change nothing).
    top_k: 0: no limit.  top_p: 1: no limit.
    min_p: leaves out what is less likely than this part of the most likely token; last of all.  0: no limit.
    repetition_penalty: divides positive and multiplies negative logits of every token of the prompt and of the text so
        far (Keskar et al. 2019, CTRL); 1: none.
    frequency_penalty, presence_penalty: log p - frequency·count - presence·[count > 0], where the count is of generated
        tokens only; as in the original, whose defaults were 1.5 and 0.3.
    no_repeat_ngram: no run of so many tokens is there twice, in prompt and text together; 0: no limit.
    stop_ids: end a sequence and are no part of it.  stop_strings: likewise, wherever they begin inside tokens.
    seed, sample: the same seed, prompt and sample number give the same random numbers, in whatever batch.
    logprobs: each token comes with the logarithm of its probability before penalties, temperature and limits.
    overflow: when prompt and new tokens exceed the context: `refuse` (UserError), `truncate` the prompt from the left
        until they fit, or `slide`: go on without end, forgetting the older half of the context whenever it is full.
    """

    max_new_tokens: int = 100
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int = 0
    stop_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    seed: int = 0
    sample: int = 0
    overflow: Overflow = "refuse"
    logprobs: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        rules = (
            ("max_new_tokens", self.max_new_tokens >= 1, "must be at least 1"),
            ("temperature", 0 <= self.temperature <= LARGEST, f"must be 0 (greedy) to {LARGEST:g}"),
            ("top_k", self.top_k >= 0, "must be 0 (no limit) or more"),
            ("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1 (no limit)"),
            ("min_p", 0 <= self.min_p <= 1, "must be in 0 (no limit) to 1"),
            ("no_repeat_ngram", self.no_repeat_ngram >= 0, "must be 0 (no limit) or more"),
            ("sample", 0 <= self.sample < 1 << 63, "must be in 0..2**63-1"),
            ("repetition_penalty", 1 / LARGEST <= self.repetition_penalty <= LARGEST, f"{SCALE}; 1 is none"),
            ("frequency_penalty", abs(self.frequency_penalty) <= LARGEST, f"must be -{LARGEST:g} to {LARGEST:g}"),
            ("presence_penalty", abs(self.presence_penalty) <= LARGEST, f"must be -{LARGEST:g} to {LARGEST:g}"),
            ("overflow", self.overflow in get_args(Overflow), f"must be one of {', '.join(get_args(Overflow))}"),
            ("stop_strings", "" not in self.stop_strings, "must not hold an empty string"),
            ("seed", 0 <= self.seed < 1 << 64, "must be in 0..2**64-1"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise UserError(f"{name} = {getattr(self, name)!r}: {rule}")

    def _check_kinds(self) -> None:
        """Raise UserError for a value of another type: 2.5 new tokens would never be reached."""
        for field in fields(self):
            value, inner = getattr(self, field.name), KINDS_INSIDE.get(field.name)
            if inner:
                holds = isinstance(value, tuple | list) and all(isinstance(one, inner) for one in value)
                wanted = "a tuple of texts" if inner is str else "a tuple of whole numbers"
            elif isinstance(field.default, str):
                continue
            else:
                kind, wanted = KINDS[type(field.default)]
                holds = isinstance(value, kind) and isinstance(value, bool) == isinstance(field.default, bool)
            if not holds:
                raise UserError(f"{field.name} = {value!r}: must be {wanted}")
