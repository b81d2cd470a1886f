"""What a stage is made of: a short tuple of steps, each of one of three kinds.

* **Map**: every item on its own. `Read` turns pieces of input files into records, `Map` record batches into record
  batches (or into rows of a small table), `Files` work items into files.
* **GroupBy**: rows that belong together, wherever they lie. A small relational query, in SQL that DuckDB and Spark
  both accept.
* **Global**: something small over everything, such as training a tokenizer.

The functions named in a step are module-level functions without state, so an engine can send them to another process
or machine. A stage module holds `Settings` (a StageSettings) and `STEPS`; `data_pipeline/stages/__init__.py` lists
the modules."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, ConfigDict

from pangu.foundation.settings import Section

BYTE_UNITS = {"": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def parse_bytes(value: int | str) -> int:
    """Return `4GB`, `512MB` or a number of bytes; units are powers of 1024."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(value), re.IGNORECASE)
    if not match:
        raise ValueError(f"{value!r} is not a size; write it like 4GB or 512MB")
    unit = match[2].upper()
    return int(float(match[1]) * BYTE_UNITS[f"{unit}B" if unit else ""])


ByteSize = Annotated[int, BeforeValidator(parse_bytes)]


class StageSettings(Section):
    """What a recipe may say about a stage. Everything has a default, and every field a `description` for `init`."""

    model_config = ConfigDict(validate_default=True)

    def with_presets(self, preset: str | None, of_source: Mapping[str, str]) -> "StageSettings":
        """Return these settings with the recipe's preset and those of its sources, for a stage that has presets."""
        return self

    def check_output(self, stage: str, root: Path) -> None:
        """Raise a UserError where a run with these settings cannot write to this output directory."""

    def completed(self, seed: int, source_names: Sequence[str], base: Path) -> "StageSettings":
        """Return these settings with what the recipe says elsewhere filled in: `seed`, the order of the sources,
        relative paths. A ValueError `FIELD: what is wrong` says why not.
        """
        if "seed" in type(self).model_fields and getattr(self, "seed", None) is None:
            return self.model_copy(update={"seed": seed})
        return self


@dataclass(frozen=True)
class Item:
    """One unit of work of a `Read` or `Files` step.

    `name` is its place in the order of all items; `identity` is everything its result depends on and that is not
    settings, code or a declared input (a file's size and time, a range); `payload` is handed to the step's function.
    `shard_bytes` (of a `Read` step) is how much text a shard of its records holds, about; `files` how many files of
    which kind begin in it.
    """

    name: str
    identity: str
    payload: Any
    bytes: int = 0
    shard_bytes: int = 64 << 20
    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class InputFile:
    """A file that a step reads: where it is, and the checksum of its bytes."""

    path: Path
    checksum: str
    rows: int = 0

    @property
    def stem(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Context:
    """What a `Global` or `Files` function may use besides its settings."""

    settings: Any
    inputs: dict[str, list[InputFile]]
    """For every name in `needs`: the files of that input, in order."""
    directory: Path
    """Empty; whatever is written here appears whole when the function returns."""
    scratch: Path
    threads: int
    memory_bytes: int
    progress: Callable[[int, int], None]
    """To be told of documents and bytes that are done, now and then."""


@dataclass(frozen=True)
class Step:
    """`needs` names what a step reads: `documents` (the records so far), an earlier step of the same stage, or an
    earlier stage that leaves files (`tokenizer`). `uses` names further modules, and `libraries` further
    distributions (or how settings choose them), whose code decides the result. `reads` names the settings it depends
    on (None: all), so that a change of another re-runs nothing. `publish` names the folder of the output directory
    where the files of a `Global` or `Files` step are to be found. `prepare(settings)` loads what each worker needs:
    workers inherit it that are forked afterwards.
    """

    name: str
    needs: tuple[str, ...] = ("documents",)
    uses: tuple[str, ...] = ()
    libraries: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    reads: tuple[str, ...] | None = None
    publish: str | None = None
    prepare: Callable[[Any], None] | None = None

    def libraries_with(self, settings: Any) -> tuple[str, ...]:
        """Return the distributions that these settings need."""
        return self.libraries(settings) if callable(self.libraries) else self.libraries


@dataclass(frozen=True)
class Read(Step):
    """`items(sources, settings)` lists the work; `read(payload, settings, progress)` yields batches of records.

    `progress.at(number)` must be called before each record is looked at, and returns False for a record that has to be
    skipped because it killed workers before. A record with a `drop_reason` goes to the rejects."""

    items: Callable[..., list[Item]] = field(kw_only=True)
    read: Callable[..., Iterator[pa.RecordBatch]] = field(kw_only=True)
    signals: tuple[str, ...] = field(kw_only=True)


@dataclass(frozen=True)
class Map(Step):
    """`process(batch, settings, *inputs)` is a pure function, row by row: how rows are cut into batches must not
    matter.

    Without `table` it returns the same records with `signals` added and `drop_reason` set on what is to go. With
    `table` (a schema) it returns rows of a table for a `GroupBy`; the engine adds a column `shard`. For each further
    name in `needs` it gets the rows of that table that belong to this shard (a `GroupBy` output, as a pa.Table) or
    the paths of its files."""

    process: Callable[..., pa.RecordBatch] = field(kw_only=True)
    signals: tuple[str, ...] = field(default=(), kw_only=True)
    table: pa.Schema | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class GroupBy(Step):
    """`sql(settings)` is one SELECT over the tables in `needs`. Its result must be fully ordered. With a column
    `shard` (the first sort key) the rows go back to the shard they belong to; without, they are one table.
    """

    sql: Callable[[Any], str] = field(kw_only=True)
    table: pa.Schema = field(kw_only=True)


def _no_identity(settings: Any) -> str:
    return ""


@dataclass(frozen=True)
class Global(Step):
    """`run(context)` writes files into `context.directory` and returns counts for the statistics.

    Files named like the shards (`SHARD.parquet`, one for each of `context.inputs["documents"]`) go back to their shards
    when a `Map` needs this step; otherwise the `Map` gets all files."""

    run: Callable[[Context], dict[str, Any]] = field(kw_only=True)
    identity: Callable[[Any], str] = field(default=_no_identity, kw_only=True)
    """What the result depends on besides: a digest of files outside that the settings name."""


@dataclass(frozen=True)
class Files(Step):
    """`items(context)` lists the work (cheap, in the parent); `write(payload, context)` writes files and returns
    counts.
    """

    items: Callable[[Context], list[Item]] = field(kw_only=True)
    write: Callable[[Any, Context], dict[str, Any]] = field(kw_only=True)
