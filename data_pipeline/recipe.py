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

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from data_pipeline.engine.steps import StageSettings, Step, parse_bytes
from data_pipeline.stages import STAGES, load_stage
from data_pipeline.stages.presets import PresetName
from pangu.foundation.errors import UserError
from pangu.foundation.settings import Section, checked, nearest_name, set_value
from pangu.foundation.yaml_document import Location, YamlDocument, parse_document, read_document, shown

# what a worker needs at most on usual documents (measured: 0.8 GiB while it packs, MindSpore among it)
WORKER_BYTES = 800 << 20
MINIMUM_MEMORY = 512 << 20


class Fields(Section):
    """Which field (JSONL) or column (CSV, Parquet) of the user's records is what."""

    text: str | tuple[str, ...] = Field(
        default="text",
        description="the document, a path to it (段落[].内容), or several, joined ([title, body]);"
        " a record without it goes to the rejects",
    )
    id: str = Field(default="id", description="the record's own identifier, carried through to the end")
    title: str = Field(default="title", description="a title, if there is one")
    url: str = Field(default="url", description="where the document came from, if known")
    html: str | None = Field(
        default=None, description="a web page; its main text becomes the document, as with files of HTML"
    )


SourceFormat = Literal[
    "auto", "jsonl", "csv", "txt", "html", "warc", "parquet", "arrow",
    "mht", "docx", "epub", "pdf", "zip", "tar", "arc", "wacz",
]  # fmt: skip


class Source(Section):
    """Files that belong together; `name` appears in every record."""

    name: str = Field(description="short name of the source", min_length=1)
    paths: tuple[str, ...] = Field(
        description="files, directories or globs; relative ones start at the recipe", min_length=1
    )
    format: SourceFormat = Field(
        default="auto",
        description="auto goes by the file name, or by the content where it has no suffix;"
        " .gz .zst .bz2 .xz .lz4 are recognised by their content",
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


class _Recipe(Section):
    """The file as it is written. `Recipe` is the same with the stages resolved."""

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
            raise ValueError(f"{shown(value)} is neither auto nor a number of processes")
        if value != "auto" and value < 1:
            raise ValueError(f"{value} is too few; nearest: 1")
        return value


def parse_memory(value: int | str) -> int:
    """Return bytes for everything together; a ValueError says why not."""
    memory = parse_bytes(value)
    if memory < MINIMUM_MEMORY:
        raise ValueError(f"{value} is too little; nearest: 512MB")
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
    def load(cls, path: str | Path, changes: Iterable[Sequence[str]] = ()) -> "Recipe":
        """Read and check a recipe; every mistake is a UserError of one line. `changes`: those of `--set`."""
        path = Path(path)
        return cls.checked(read_document(path, "`python -m data_pipeline init` writes a recipe"), path, changes)

    @classmethod
    def parse(cls, text: str, path: Path) -> "Recipe":
        """Read the text of a recipe that lies, or is to lie, at `path`."""
        return cls.checked(parse_document(text, str(path)), path)

    @classmethod
    def checked(cls, document: YamlDocument, path: Path, changes: Iterable[Sequence[str]] = ()) -> "Recipe":
        """Check a recipe; `changes` are the (field, value) pairs of `--set`."""
        for name, text in changes:
            set_value(document, _location(document, name), text, f"--set {name}")
        written = checked(_Recipe, document)
        stages = tuple(_stage(entry, index, written, path, document) for index, entry in enumerate(written.stages))
        _check_order(stages, document)
        _check_unique([source.name for source in written.sources], "sources", document)
        _check_unique([stage.name for stage in stages], "stages", document)
        workers = written.workers if isinstance(written.workers, int) else default_workers(written.memory)
        return cls(path, tuple(written.sources), stages, written.seed, written.engine, written.memory, workers)


def default_workers(memory: int) -> int:
    """Return a worker for each core this process may use, as far as the memory allows WORKER_BYTES for each."""
    return max(1, min(len(os.sched_getaffinity(0)), memory // WORKER_BYTES))


def _location(document: YamlDocument, name: str) -> Location:
    """Return where `clean.minimum_characters` or `sources.0.format` lies in a recipe."""
    steps = tuple(int(step) if step.isdigit() else step for step in name.split("."))
    stages = document.data.get("stages")
    if steps[0] in document.data or len(steps) == 1 or not isinstance(stages, list):
        return steps
    names = []
    for index, entry in enumerate(stages):
        if isinstance(entry, str):
            entry = stages[index] = {entry: None}
        if isinstance(entry, dict) and len(entry) == 1:
            kind, settings = next(iter(entry.items()))
            names.append(str(settings.get("name", kind) if isinstance(settings, dict) else kind))
            if names[-1] == steps[0]:
                return ("stages", index, kind, *steps[1:])
    raise UserError(f"--set {name}: the recipe has no stage {str(steps[0])!r}{nearest_name(str(steps[0]), names)}")


def _stage(entry: Any, index: int, recipe: _Recipe, path: Path, document: YamlDocument) -> Stage:
    """Return `clean` or `clean: {settings}`; `name` among the settings tells two stages of one kind apart."""
    location: Location = ("stages", index)
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise document.mistake(f"{shown(entry)} is no stage; write `- name` or `- name: {{settings}}`", location)
    kind, settings = next(iter(entry.items()))
    if kind not in STAGES:
        raise document.mistake(f"unknown stage {shown(kind)}{nearest_name(str(kind), list(STAGES))}", location)
    settings = dict(settings or {}) if isinstance(settings, dict | None) else settings
    name = settings.pop("name", kind) if isinstance(settings, dict) else kind
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise document.mistake(f"{shown(name)} is no name; letters, digits, - and _ only", (*location, kind, "name"))
    module = load_stage(kind)
    settings = checked(module.Settings, document, (*location, kind), settings)
    presets = {source.name: source.preset for source in recipe.sources if source.preset is not None}
    settings = settings.with_presets(recipe.preset, presets)
    try:
        settings = settings.completed(recipe.seed, [source.name for source in recipe.sources], path.parent)
    except ValueError as error:
        raise document.mistake(str(error), (*location, kind)) from error
    return Stage(name, kind, settings, module.STEPS)


def _check_order(stages: tuple[Stage, ...], document: YamlDocument) -> None:
    """Check that `read` comes first and once, and that an earlier stage has made every file a stage needs."""
    for index, stage in enumerate(stages):
        if (stage.kind == "read") != (index == 0):
            raise document.mistake(
                f"the first stage, and only the first, is `read`; stage {index + 1} is {stage.kind!r}",
                ("stages", index),
            )
    for index, stage in enumerate(stages):
        own = {step.name for step in stage.steps}
        earlier = {other.kind for other in stages[:index]}
        for need in (need for step in stage.steps for need in step.needs):
            if need not in own and need != "documents" and need not in earlier:
                raise document.mistake(f"{stage.kind!r} needs a stage {need!r} before it", ("stages", index))


def _check_unique(names: list[str], what: str, document: YamlDocument) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            wrong = f"the name {name!r} is used twice; give one of them another `name`"
            raise document.mistake(wrong, (what, index))
