"""Changes the layout of a checkpoint: from any layout into any other, or into one piece.

Here is what is decided before anything is done, and how the result gets its name: nothing is there under it before
everything is on the disk. `pangu.checkpoint.reshard_write` reads, cuts and writes.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pangu.checkpoint.description import sealed, unsealed
from pangu.checkpoint.open import (
    LAYOUTS,
    MODEL_FILE,
    MOMENTS,
    OPTIMIZER,
    SHARD,
    STATE,
    WEIGHTS,
    open_checkpoint,
    rank_folder,
)
from pangu.checkpoint.reshard_write import ShardFile, write_parameters
from pangu.config import ModelConfig
from pangu.formats import names
from pangu.formats.data_types import TensorInfo
from pangu.formats.mindspore_checkpoint import metadata_values
from pangu.formats.model_metadata import TOKENIZER_KEY, metadata_of, model_in
from pangu.formats.open_source import open_source
from pangu.formats.parameter_layout import ParameterLayout
from pangu.formats.safetensors_file import file_header
from pangu.formats.shards import WholeShards, holds_shards
from pangu.formats.source import FileSource, Source
from pangu.formats.strategy_checkpoint import encode_strategy
from pangu.foundation.atomic_file import sync_directory
from pangu.foundation.directory import hidden_directory
from pangu.foundation.errors import UserError

Format = Literal["safetensors", "ckpt"]
# {first rank of a pipeline stage: {parameter: layout}}
Stages = Mapping[int, Mapping[str, ParameterLayout]]


def open_source_of(path: Path, layouts: Stages | None) -> Source:
    """Return any checkpoint, put together. A training checkpoint is compared with its checksums first.

    layouts: what the shards of a directory hold; None: as its own strategy file says.
    """
    is_training = (path / STATE).is_file()
    if is_training:
        open_checkpoint(path)
    if path.is_dir() and holds_shards(path):
        own = [path / LAYOUTS] if (path / LAYOUTS).is_file() else None
        flat: dict[str, ParameterLayout] = {}
        for _, held in sorted((layouts or {}).items()):
            flat = dict(held) | flat
        return WholeShards(path, own, flat or None)
    if layouts and len(layouts) == 1 and all(lay.num_parts == 1 for lay in next(iter(layouts.values())).values()):
        layouts = None
    if layouts:
        raise UserError(f"{path}: holds no shards (rank_0/ …), but --from says that it is split")
    if is_training:
        return join_files(path, [path / WEIGHTS, path / OPTIMIZER])
    return open_source(path)


def join_files(path: Path, files: list[Path]) -> FileSource:
    """Return the tensors of several files as one source."""
    tensors: dict[str, TensorInfo] = {}
    places: dict[str, tuple[Path, int]] = {}
    metadata: dict[str, str] = {}
    for file in files:
        part = open_source(file)
        assert isinstance(part, FileSource)
        tensors |= part.tensors
        places |= part.places
        metadata |= part.metadata
    source = FileSource(path, "training checkpoint", tensors, places)
    source.metadata = metadata
    return source


@dataclass(frozen=True)
class Target:
    """One file of the result. tensors: (name, layout, this file's cell), sorted by name, as they are written."""

    path: str
    tensors: tuple[tuple[str, ParameterLayout, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Resharding:
    """A change of layout before anything of it is done. state: the description of a training checkpoint."""

    source: Source
    targets: list[Target]
    layouts: Stages | None
    format: Format
    state: dict | None
    left_out: list[str]
    model: ModelConfig | None = None  # the network; None where nothing says it

    def part(self, name: str, layout: ParameterLayout) -> TensorInfo:
        info = self.source.tensors[name]
        return TensorInfo(info.data_type, layout.part_shape(info.shape))

    @cached_property
    def nbytes(self) -> int:
        """Return bytes of all tensors that are written."""
        return sum(self.part(name, layout).nbytes for target in self.targets for name, layout, _ in target.tensors)

    @cached_property
    def order(self) -> list[str]:
        """Return every parameter that is written, once. In this order all files have them, for they are only
        appended to."""
        return sorted({name for target in self.targets for name, _, _ in target.tensors})


def make_plan(
    source: Source, to: Stages | None, format: Format, weights_only: bool, model: ModelConfig | None = None
) -> Resharding:
    """Decide what goes into which file. Raises UserError where the parameters do not fit the layout."""
    where = str(source.path)
    state_file = source.path / STATE
    state = unsealed(state_file) if state_file.is_file() else None
    if state is not None and weights_only:
        state = None
    unusable = [name for name, info in source.tensors.items() if info.data_type is None]
    chosen = [name for name in sorted(source.tensors) if name not in unusable]
    if weights_only:
        chosen = [name for name in chosen if not name.startswith(MOMENTS)]
    if to is None:
        targets = whole_targets(chosen, source, state is not None)
    else:
        check_names(where, chosen, to)
        targets = rank_targets(chosen, source, to, format)
    plan = Resharding(source, targets, to, format, state, unusable, model or model_in(source.metadata, where))
    for target in targets:
        for name, layout, _ in target.tensors:
            try:
                plan.part(name, layout)
            except ValueError as error:
                raise UserError(f"{where}: {name!r} does not fit the new layout: {error}") from None
    return plan


def check_names(where: str, chosen: Sequence[str], to: Stages) -> None:
    """Raise UserError where the weights of the source and of the layout are not the same."""
    known = {name for held in to.values() for name in held}
    missing = sorted(name for name in known - set(chosen) if not name.startswith(MOMENTS))
    foreign = sorted(name for name in set(chosen) - known if names.recognise(name)[0])
    for what, found in (("lacks", missing), ("has, and the new layout has not,", foreign)):
        if found:
            raise UserError(f"{where}: {what} {len(found)} parameters: {', '.join(found[:8])}")


def alone(info: TensorInfo) -> ParameterLayout:
    return ParameterLayout((1,), ((),) * len(info.shape))


def whole_targets(chosen: Sequence[str], source: Source, is_training: bool) -> list[Target]:
    """Return one file; or weights and moments apart, as one process writes a training checkpoint."""

    def target(path: str, some: Sequence[str]) -> Target:
        tensors = ((name, alone(source.tensors[name])) for name in some)
        return Target(path, tuple((name, layout, (0,) * len(layout.grid)) for name, layout in tensors))

    if not is_training:
        return [target("", chosen)]
    moments = [name for name in chosen if name.startswith(MOMENTS)]
    return [target(WEIGHTS, [name for name in chosen if name not in set(moments)]), target(OPTIMIZER, moments)]


def rank_targets(chosen: Sequence[str], source: Source, to: Stages, format: Format) -> list[Target]:
    """Return a file a rank, with what the rank holds; what the layout does not know goes to all ranks whole."""
    known = {name for held in to.values() for name in held}
    file = SHARD if format == "safetensors" else Path(SHARD).with_suffix(".ckpt").name
    targets = []
    for first, held in sorted(to.items()):
        ranks = next(iter(held.values())).num_ranks if held else 1
        layouts = [(n, held[n]) if n in held else (n, None) for n in chosen if n in held or n not in known]
        for rank in range(first, first + ranks):
            tensors = []
            for name, layout in layouts:
                if layout is None:
                    layout = alone(source.tensors[name])
                    tensors.append((name, layout, layout.cell(0)))
                else:
                    tensors.append((name, layout, layout.cell(rank)))
            targets.append(Target(f"{rank_folder(rank)}/{file}", tuple(tensors)))
    return targets


def write_plan(plan: Resharding, out: Path, advance: Callable[[int], None]) -> None:
    """Carry out a plan. out: the directory to make, or the file where the result is one file."""
    check_output(plan, out)
    single = len(plan.targets) == 1 and not plan.targets[0].path
    with ExitStack() as stack:
        hidden = stack.enter_context(hidden_directory(out))
        stack.enter_context(plan.source)
        files = {}
        for target in plan.targets:
            path = hidden / (target.path or out.name)
            path.parent.mkdir(exist_ok=True)
            files[target.path] = ShardFile(path, hashed=plan.state is not None)
        is_ckpt = out.suffix == ".ckpt" if single else plan.format == "ckpt" and plan.layouts is not None
        write_tensors(plan, files, is_ckpt, advance)
        if plan.layouts is not None:
            held = [item for stage in plan.layouts.values() for item in stage.items() if item[0] in plan.source.tensors]
            strategy = ShardFile(hidden / LAYOUTS, hashed=plan.state is not None)
            strategy.write([encode_strategy(held)])
            strategy.sync()
            files[LAYOUTS] = strategy
        if plan.state is not None:
            digests = {name: file.hash.hexdigest() for name, file in files.items() if file.hash}
            description = ShardFile(hidden / STATE, hashed=False)
            description.write([sealed(STATE, plan.state | {"sha256": digests})])
            description.sync()
        elif plan.model is not None and not single:
            said = ShardFile(hidden / MODEL_FILE, hashed=False)
            said.write([plan.model.dump().encode()])
            said.sync()
        for folder in sorted({file.path.parent for file in files.values()}, reverse=True):
            sync_directory(folder)
        os.rename(hidden / out.name if single else hidden, out)
        sync_directory(out.parent)


def write_tensors(
    plan: Resharding, files: Mapping[str, ShardFile], is_ckpt: bool, advance: Callable[[int], None]
) -> None:
    """Write each parameter in turn to every file that has a part of it."""
    wanted: dict[str, list[tuple[ShardFile, ParameterLayout, tuple[int, ...]]]] = {name: [] for name in plan.order}
    metadata = metadata_of(plan.model, plan.source.metadata.get(TOKENIZER_KEY))
    for target in plan.targets:
        if not is_ckpt:
            header = [(name, plan.part(name, layout)) for name, layout, _ in target.tensors]
            files[target.path].write([file_header(header, metadata)])
        elif not target.path:
            # In a single file only: MindSpore's own functions for shards do not expect a string among the tensors.
            files[target.path].write([metadata_values(metadata)])
        for name, layout, cell in target.tensors:
            wanted[name].append((files[target.path], layout, cell))
    write_parameters(plan.source, wanted, is_ckpt, advance)


def check_output(plan: Resharding, out: Path) -> None:
    """Raise UserError for a place that the result must not or cannot go to."""
    if os.path.lexists(out):
        raise UserError(f"{out}: already exists; give another --out")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such directory")
    single = len(plan.targets) == 1 and not plan.targets[0].path
    if single and out.suffix not in (".safetensors", ".ckpt"):
        raise UserError(f"{out}: the result is one file: its name must end in .safetensors or .ckpt")
    free = shutil.disk_usage(out.parent).free
    if free < plan.nbytes:
        raise UserError(f"{out}: needs {plan.nbytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free there")
