"""How to fine-tune: every choice, its default and its rule."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.tuning import adapter_file

Method = Literal["full", "lora", "adapter", "prefix", "prompt", "p-tuning", "bitfit"]
METHODS: tuple[Method, ...] = ("full", "lora", "adapter", "prefix", "prompt", "p-tuning", "bitfit")
USUAL_RATE = {
    "full": 1e-4,
    "lora": 1e-3,
    "adapter": 1e-3,
    "prefix": 1e-2,
    "prompt": 1e-2,
    "p-tuning": 1e-3,
    "bitfit": 1e-3,
}
# What is minimised: the loss of answers, of preferences (DPO), or the distance to a teacher.
Objective = Literal["answers", "dpo", "distill"]
OBJECTIVES: tuple[Objective, ...] = ("answers", "dpo", "distill")
# Methods with tokens that no text has, in front of every row.
VIRTUAL = ("prefix", "prompt", "p-tuning")
# Settings that only some methods, or one objective, listen to.
OF_METHODS = {
    "rank": ("lora",), "alpha": ("lora",), "modules": ("lora",), "bottleneck": ("adapter",), "virtual_tokens": VIRTUAL
}  # fmt: skip
OF_OBJECTIVE = {"beta": "dpo", "teacher_weight": "distill", "temperature": "distill", "hidden_weight": "distill"}


@dataclass(frozen=True)
class Settings:
    """How to fine-tune. rate None: what is usual for the method. length None: the model's context. engine: what makes
    the steps, compiled or mindspore; None: compiled functions where they can."""

    method: Method = "lora"
    objective: Objective = "answers"
    beta: float = 0.1
    teacher_weight: float = 0.5
    temperature: float = 2.0
    hidden_weight: float = 0.0
    student_layers: int | None = None
    template: str = "qa"
    steps: int = 200
    batch_size: int = 8
    accumulate: int = 1
    rate: float | None = None
    rank: int = 8
    alpha: float = 16.0
    modules: tuple[str, ...] = adapter_file.DEFAULT_MODULES
    bottleneck: int = 64
    virtual_tokens: int = 20
    shift_positions: bool = False
    length: int | None = None
    validation: float = 0.05
    dropout: float = 0.0
    seed: int = 1
    checkpoint_every: int = 50
    precision: str = "fp32"
    engine: str | None = None

    @property
    def position_offset(self) -> int:
        """Return how many positions later the tokens of a text stand, because virtual tokens stand before them."""
        return self.virtual_tokens if self.shift_positions and self.method in VIRTUAL else 0

    def checked(self, config: ModelConfig) -> "Settings":
        """Return the settings with everything written out. Raises UserError that names a wrong one."""
        for field in fields(self):
            value, is_whole = getattr(self, field.name), field.type in ("int", "int | None", int, int | None)
            if is_whole and value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise UserError(f"{field.name} = {value!r}: must be a whole number")
        context = config.seq_length - (self.virtual_tokens if self.shift_positions and self.method in VIRTUAL else 0)
        rules = (
            ("method", self.method in METHODS, f"must be one of {', '.join(METHODS)}"),
            ("objective", self.objective in OBJECTIVES, f"must be one of {', '.join(OBJECTIVES)}"),
            ("beta", 0 < self.beta < math.inf, "must be above 0"),
            ("teacher_weight", 0 <= self.teacher_weight <= 1, "must be 0 to 1"),
            ("temperature", 0 < self.temperature < math.inf, "must be above 0"),
            ("hidden_weight", 0 <= self.hidden_weight < math.inf, "must be at least 0"),
            ("steps", self.steps >= 1, "must be at least 1"),
            ("batch_size", self.batch_size >= 1, "must be at least 1"),
            ("accumulate", self.accumulate >= 1 and self.batch_size % self.accumulate == 0, "must divide batch_size"),
            ("rate", self.rate is None or 0 < self.rate < math.inf, "must be above 0"),
            ("rank", 1 <= self.rank <= config.hidden_size, f"must be 1 to {config.hidden_size}, the hidden size"),
            ("alpha", 0 < self.alpha < math.inf, "must be above 0"),
            (
                "bottleneck",
                self.method != "adapter" or 1 <= self.bottleneck <= config.hidden_size,
                f"must be 1 to {config.hidden_size}, the hidden size",
            ),
            (
                "virtual_tokens",
                self.method not in VIRTUAL or 1 <= self.virtual_tokens < config.seq_length - 1,
                f"must be 1 to {config.seq_length - 2}, so that a text has room in the context",
            ),
            (
                "shift_positions",
                not self.shift_positions or self.method in VIRTUAL,
                f"is for {', '.join(VIRTUAL)}",
            ),
            ("length", self.length is None or 2 <= self.length <= context, f"2 to {context}, the context"),
            ("validation", 0 <= self.validation <= 0.5, "must be 0 to 0.5"),
            ("dropout", 0 <= self.dropout < 1, "must be 0 to 1"),
            ("seed", 0 <= self.seed < 1 << 31, "must be in 0..2**31-1"),
            ("engine", self.engine in (None, "compiled", "mindspore"), "must be compiled or mindspore"),
            ("checkpoint_every", self.checkpoint_every >= 1, "must be at least 1"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise UserError(f"{name} = {getattr(self, name)!r}: {rule}")
        if config.experts and (self.method == "adapter" or self.objective == "distill"):
            raise UserError(
                "method adapter and objective distill are not for a network with experts; take lora, answers"
            )
        if self.method in VIRTUAL and config.attention.pattern != "full":
            raise UserError(
                f"method = {self.method!r}: virtual tokens are seen by all, which attention.pattern "
                f"{config.attention.pattern} does not let them; take lora or adapter"
            )
        if self.method in ("prompt", "p-tuning") and config.target_in_trunk:
            raise UserError(f"method = {self.method!r}: not for a network with target_in_trunk; take prefix")
        modules = adapter_file.module_names(self.modules)
        rate = self.rate if self.rate is not None else USUAL_RATE[self.method]
        return Settings(**{**asdict(self), "modules": modules, "rate": rate, "length": self.length or context})


def check_obeyed(settings: Settings, given: Mapping[str, str]) -> None:
    """Raise UserError for a setting that nothing listens to. given: those that are looked at, as the caller calls them.

    Commands only: a program may try several methods with one set of settings.
    """
    method, objective = settings.method, settings.objective
    for name, flag in given.items():
        if getattr(settings, name) == getattr(Settings, name):
            continue
        if method not in OF_METHODS.get(name, (method,)):
            raise UserError(f"{flag}: is for method {', '.join(OF_METHODS[name])}, not {method}")
        if objective != OF_OBJECTIVE.get(name, objective):
            raise UserError(f"{flag}: is for objective {OF_OBJECTIVE[name]}, not {objective}")
