"""Define a task: a YAML file in `tasks/`, which says where documents come from, what is asked and how it is scored."""

import re
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pangu.evaluation.document_forms import FORMS
from pangu.evaluation.metrics import CHOSEN, GENERATED
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section, SettingsFile, nearest_name

DIRECTORY = Path(__file__).with_name("tasks")


class Generation(Section):
    """How a text is generated and where it is cut."""

    max_new_tokens: Annotated[int, Field(gt=0)] = 32
    temperature: float = Field(default=1.0, ge=0, description="0: greedy")
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: float = Field(default=1.0, gt=0, le=1)
    cut_at: tuple[str, ...] = Field(default=("\n",), description="the answer ends before the first of these")
    as_long_as_gold: bool = Field(
        default=False, description="generate as many tokens as the gold answer has, as the released code does"
    )


class TaskTemplate(Section):
    """How a document becomes text. `{name}` stands for a field of the document, `{choice}` for a candidate's words.

    A choice is scored by the log-probability of `scored` behind `context`; an empty context means the whole row but for
    its first token. A generation continues `context`. With `behind` both sides are known: the query layer is asked for
    what stands between them, so the model must have been trained with permuted rows; a generated answer then has as
    many tokens as the gold one.
    """

    context: str = ""
    scored: str = ""
    behind: str = Field(
        default="", description="text that is known behind the scored part, or behind the answer: both sides are given"
    )
    unconditional: str | None = Field(
        default=None, description="a context without the question, for acc_mutual_info; null: not computed"
    )
    separator: str = Field(default="\n", description="between shots, and between them and the document")
    said: str = Field(default="", description="where the variant comes from and what contradicts it")

    @field_validator("context", "scored", "behind", "unconditional")
    @classmethod
    def check_names(cls, text: str | None) -> str | None:
        """Take plain names in braces alone: what Python's formatting does beyond that is no template."""
        try:
            parts = list(Formatter().parse(text or ""))
        except ValueError:
            raise ValueError("has a single brace; a name stands in {…}, and a brace is written twice") from None
        for _, name, form, conversion in parts:
            if name is not None and (form or conversion or not name.isidentifier()):
                raise ValueError("braces hold the name of a field and nothing else, such as {choice}")
        return text


class Task(SettingsFile):
    """A task. `version` grows with every change that can move a score."""

    name: str
    title: str
    version: Annotated[int, Field(gt=0)]
    method: Literal["choice", "generate"]
    form: str = Field(description="a reader of `document_forms`")
    files: tuple[str, ...] = Field(description="globs below the data folder, in order of preference")
    shot_files: tuple[str, ...] = Field(default=(), description="where shots come from; none: zero-shot only")
    few: Annotated[int, Field(gt=0)] = Field(default=3, description="shots of few-shot, as in the paper")
    longest_shot: Annotated[int, Field(gt=0)] = Field(default=400, description="characters of a shot, at most")
    is_balanced: bool = Field(default=False, description="draw shots from the labels in turns")
    words: dict[str, str] = Field(default={}, description="label in the data -> words in the template")
    candidates: Annotated[int, Field(ge=0)] = Field(
        default=0, description="the gold label and so many less one others, drawn; 0: all labels, or the document's own"
    )
    metrics: tuple[str, ...] = Field(description="the first is the paper's")
    variants: dict[str, TaskTemplate]
    generation: Generation | None = None
    official_count: int | None = Field(default=None, description="documents of the split that the paper scored")
    note: str = Field(default="", description="what is not comparable with the paper")

    @field_validator("name")
    @classmethod
    def check_name(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.-]*", name):  # results lie in a file of that name
            raise ValueError("must be a word of letters, digits, _ - and dots")
        return name

    @field_validator("form")
    @classmethod
    def check_form(cls, form: str) -> str:
        if form not in FORMS:
            raise ValueError(f"{form!r} is no form of documents{nearest_name(form, list(FORMS))}")
        return form

    @field_validator("files", "shot_files")
    @classmethod
    def check_globs(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                next(iter(Path(__file__).parent.glob(pattern)), None)
            except (ValueError, NotImplementedError):
                raise ValueError(f"{pattern!r} is no pattern of files below a folder, such as '*/dev.json'") from None
        return patterns

    @model_validator(mode="after")
    def check_method(self) -> Self:
        known = CHOSEN if self.method == "choice" else tuple(GENERATED)
        for metric in self.metrics or ("",):
            if metric not in known:
                nearest = nearest_name(metric, list(known))
                raise ValueError(f"metrics has {metric!r}, which method {self.method} does not have{nearest}")
        if "acc_mutual_info" in self.metrics and any(one.unconditional is None for one in self.variants.values()):
            raise ValueError("metrics has acc_mutual_info, for which every variant needs 'unconditional'")
        if "paper" not in self.variants:
            raise ValueError("variants must hold 'paper'")
        if (self.method == "generate") != (self.generation is not None):
            raise ValueError("generation goes with method generate")
        if self.candidates == 1 or (self.candidates and self.method != "choice"):
            raise ValueError("candidates: 0, or 2 and more for method choice")
        if self.method == "choice" and not all(template.scored for template in self.variants.values()):
            raise ValueError("every variant of a choice task needs 'scored'")
        return self

    def template(self, variant: str) -> TaskTemplate:
        """Return a variant's template. Raises UserError for an unknown one."""
        if variant not in self.variants:
            raise UserError(f"task {self.name}: has no variant {variant!r}{nearest_name(variant, list(self.variants))}")
        return self.variants[variant]

    def shot_count(self, shots: str | int) -> int:
        """Return how many shots `zero`, `one`, `few` or a number mean."""
        return {"zero": 0, "one": 1, "few": self.few}.get(str(shots), int(shots) if str(shots).isdigit() else 0)


@cache
def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that the package holds, in the order of the paper."""
    return tuple(path.stem.split("-", 1)[1] for path in sorted(DIRECTORY.glob("*.yaml")))


def load_task(name: str) -> Task:
    """Load a task by its name, or from a YAML file of one's own. Raises UserError with the nearest name."""
    if name.endswith((".yaml", ".yml")):
        return Task.load(name)
    if name not in task_names():
        raise UserError(f"task {name!r} is unknown{nearest_name(name, list(task_names()))}")
    return Task.load(next(DIRECTORY.glob(f"*-{name}.yaml")))
