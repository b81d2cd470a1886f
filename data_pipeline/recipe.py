"""The recipe: a YAML file that says what goes in, which stages it passes and with which settings.

    sources:
      - name: news
        paths: [news/*.jsonl.gz]
    stages:
      - read
      - clean: {minimum_characters: 100}
      - dedup_exact
      - tokenizer: {vocab_size: 8000}
      - pack: {seq_length: 256}

A mistake is reported in one line with the file, the line, the field and the nearest legal value.
"""

import difflib
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_pipeline.engine.steps import StageSettings, Step, parse_bytes
from data_pipeline.stages import STAGES, load_stage
from data_pipeline.stages.presets import PresetName
from pangu.foundation.errors import UserError

# what a worker needs at most on usual documents (measured: 0.8 GiB while it packs, MindSpore among it)
WORKER_BYTES = 800 << 20
MINIMUM_MEMORY = 512 << 20
DEEPEST = 30  # levels of YAML; a recipe has six

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 3


class Fields(BaseModel):
    """Which field (JSONL) or column (CSV, Parquet) of the user's records is what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(default="text", description="the document; a record without it goes to the rejects")
    id: str = Field(default="id", description="the record's own identifier, carried through to the end")
    title: str = Field(default="title", description="a title, if there is one")
    url: str = Field(default="url", description="where the document came from, if known")


class Source(BaseModel):
    """Files that belong together; `name` appears in every record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="short name of the source", min_length=1)
    paths: tuple[str, ...] = Field(
        description="files, directories or globs; relative ones start at the recipe", min_length=1
    )
    format: Literal["auto", "jsonl", "csv", "txt", "html", "warc", "parquet"] = Field(
        default="auto", description="auto goes by the file name; .gz .zst .bz2 are recognised by their content"
    )
    fields: Fields = Field(default=Fields())
    preset: PresetName | None = Field(
        default=None, description="what kind of text it is, for `clean` and `filter`; null: as the recipe says"
    )
    split: Literal["file", "paragraph", "line"] = Field(
        default="file",
        description="what one document of a TXT file is: the file, what stands between blank lines, or a line",
    )

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class _Recipe(BaseModel):
    """The file as it is written. `Recipe` is the same with the stages resolved."""

    model_config = ConfigDict(extra="forbid")

    sources: list[Source] = Field(min_length=1)
    stages: list[Any] = Field(min_length=1)
    seed: int = Field(1, ge=0, lt=2**32)
    preset: PresetName | None = None
    engine: Literal["local", "spark"] = "local"
    memory: int = 4 << 30
    workers: Literal["auto"] | int = "auto"

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> int:
        return parse_memory(value)

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: Any) -> int | str:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{_shown(value)} is neither auto nor a number of processes")
        if value != "auto" and value < 1:
            raise ValueError(f"{value} is too few; the nearest legal value is 1")
        return value


def parse_memory(value: int | str) -> int:
    """Bytes for everything together; a ValueError says why not."""
    memory = parse_bytes(value)
    if memory < MINIMUM_MEMORY:
        raise ValueError(f"{value} is too little; the nearest legal value is 512MB")
    return memory


@dataclass(frozen=True)
class Stage:
    """A stage of a recipe: `name` is unique in the recipe, `kind` is the name of its module in STAGES."""

    name: str
    kind: str
    settings: StageSettings
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe whose stages have been found and checked."""

    path: Path
    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    seed: int
    engine: str
    memory: int
    workers: int

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read and check a recipe; every mistake is a UserError of one line."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; `python -m data_pipeline init` writes a recipe") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}") from error
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, path: Path) -> "Recipe":
        """The same from the text of a recipe that lies, or is to lie, at `path`."""
        node, data = _parsed(text, path)
        if not isinstance(data, dict):
            raise UserError(f"{path}: a recipe is a mapping with the keys sources and stages")
        written = _validated(_Recipe, data, path, node, ())
        stages = tuple(_stage(entry, index, written, path, node) for index, entry in enumerate(written.stages))
        _check_order(stages, path)
        _check_unique([source.name for source in written.sources], "sources", path)
        _check_unique([stage.name for stage in stages], "stages", path)
        workers = written.workers if isinstance(written.workers, int) else default_workers(written.memory)
        return cls(path, tuple(written.sources), stages, written.seed, written.engine, written.memory, workers)


def default_workers(memory: int) -> int:
    """A worker for each core this process may use, as far as the memory allows WORKER_BYTES for each."""
    return max(1, min(len(os.sched_getaffinity(0)), memory // WORKER_BYTES))


def _check_depth(text: str, path: Path) -> None:
    """The parser goes through any depth; what builds nodes of its events calls itself for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{path}: nested too deeply for a recipe")


def _parsed(text: str, path: Path) -> tuple[yaml.Node | None, Any]:
    """YAML text as nodes, which know their lines, and as plain data."""
    try:
        _check_depth(text, path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys(node, path)
        return node, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{line}: not YAML: {problem}") from error
    except ValueError as error:  # what looks like a date or a number and cannot be one
        raise UserError(f"{path}: not YAML: {error}; quote what is not a date or a number") from error


def _check_keys(root: yaml.Node | None, path: Path) -> None:
    """No key stands twice in one mapping: YAML would silently take the last."""
    waiting = [] if root is None else [root]
    seen: set[int] = set()  # aliases may lead to a node many times, or in a circle
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                waiting += [key, value]
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        raise UserError(f"{path} line {key.start_mark.line + 1}: the key {key.value!r} stands twice")
                    keys.add(key.value)


def _stage(entry: Any, index: int, recipe: _Recipe, path: Path, node: yaml.Node | None) -> Stage:
    """`clean` or `clean: {settings}`; `name` among the settings tells two stages of one kind apart."""
    location: tuple[str | int, ...] = ("stages", index)
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise UserError(
            f"{_place(path, node, location)}: a stage is `- name` or `- name: {{settings}}`, got {_shown(entry)}"
        )
    kind, settings = next(iter(entry.items()))
    if kind not in STAGES:
        raise UserError(
            f"{_place(path, node, location)}: unknown stage {_shown(kind)}{_nearest(str(kind), list(STAGES))}"
        )
    settings = dict(settings or {}) if isinstance(settings, dict | None) else settings
    name = settings.pop("name", kind) if isinstance(settings, dict) else kind
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"{_place(path, node, (*location, kind, 'name'))}: {name!r}: letters, digits, - and _ only")
    module = load_stage(kind)
    checked = _validated(module.Settings, settings, path, node, (*location, kind))
    presets = {source.name: source.preset for source in recipe.sources if source.preset is not None}
    checked = checked.with_presets(recipe.preset, presets)
    checked = checked.completed(recipe.seed, [source.name for source in recipe.sources], path.parent)
    return Stage(name, kind, checked, module.STEPS)


def _check_order(stages: tuple[Stage, ...], path: Path) -> None:
    """`read` comes first and once, and every file a stage needs has been made by an earlier stage."""
    for index, stage in enumerate(stages):
        if (stage.kind == "read") != (index == 0):
            raise UserError(
                f"{path}: stages: the first stage, and only the first, is `read`; stage {index + 1} is {stage.kind!r}"
            )
    for index, stage in enumerate(stages):
        own = {step.name for step in stage.steps}
        earlier = {other.kind for other in stages[:index]}
        for need in (need for step in stage.steps for need in step.needs):
            if need not in own and need != "documents" and need not in earlier:
                raise UserError(f"{path}: stages: {stage.kind!r} needs a stage {need!r} before it")


def _check_unique(names: list[str], what: str, path: Path) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {what}: the name {name!r} is used twice; give one of them another `name`")


def _validated(model: type[Any], data: Any, path: Path, node: yaml.Node | None, location: tuple[str | int, ...]) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # an unknown name first: where it is a misspelling, the missing field is only its consequence
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        where = (*location, *first["loc"])
        raise UserError(f"{_place(path, node, where)}: {_explain(first, model)}") from error


def _explain(error: Any, model: type[BaseModel]) -> str:
    """One mistake in words, with the nearest value that would be right."""
    context, given = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "extra_forbidden":
            names = _legal_names(model, error["loc"][:-1])
            return f"unknown field{_nearest(str(error['loc'][-1]), names)}"
        case "missing":
            return "is missing"
        case "literal_error":
            legal = [word.strip("'") for word in re.findall(r"[^ ,]+", context["expected"]) if word != "or"]
            return f"{_shown(given)} is not one of {', '.join(legal)}{_nearest(str(given), legal, False)}"
        case "greater_than_equal" | "less_than_equal":
            bound = context.get("ge", context.get("le"))
            return f"{given} is out of range; the nearest legal value is {bound}"
        case "greater_than" | "less_than":
            side = "above" if "gt" in context else "below"
            return f"{given} is out of range; it must be {side} {context.get('gt', context.get('lt'))}"
        case "value_error":
            return str(context["error"])
        case _:
            message = re.sub(r"dictionary or instance of \w+", "mapping", error["msg"])
            return f"{message[0].lower()}{message[1:]}, got {_shown(given)}"


def _shown(value: Any) -> str:
    """A value in a message, however large it is."""
    return _SHORT.repr(value)


def _legal_names(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The field names of the model that lies at `location` inside `model`."""
    current: Any = model
    for step in location:
        if isinstance(step, str) and hasattr(current, "model_fields") and step in current.model_fields:
            current = current.model_fields[step].annotation
        while get_origin(current) in (list, tuple, Union):
            current = get_args(current)[0]
    return list(getattr(current, "model_fields", {}))


def _nearest(given: str, legal: list[str], list_all: bool = True) -> str:
    close = difflib.get_close_matches(given, legal, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; legal are {', '.join(legal)}" if legal and list_all else ""


def _place(path: Path, node: yaml.Node | None, location: tuple[str | int, ...]) -> str:
    """`recipe.yaml line 12, stages[1].clean.minimum_characters`."""
    for step in location:
        child = None
        if isinstance(node, yaml.MappingNode):
            child = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            child = node.value[step]
        if child is None:
            break
        node = child
    dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    line = f" line {node.start_mark.line + 1}" if node is not None else ""
    return f"{path}{line}, {dotted}" if dotted else f"{path}{line}"
