"""MindSpore's parallel strategy files: the layout of every parameter.

The released `…_strategy.ckpt` and what `strategy_ckpt_save_file` writes are protobuf (`node_strategy.proto`), newer
ones may be JSON. A pipeline has one file a stage, or one merged file whose names carry the stage: `3-backbone.blocks…`.
Fields of ParallelStrategyMap that matter here:

    2 parallel_strategy_item   {1 node_name, 2 parallel_strategys {1 stage, …}}
    3 parallel_layout_item     {1 param_name, 2 parallel_layouts}
    parallel_layouts           {1 dev_matrix {1 dim}, 2 tensor_map {1 dim}, 3 param_split_shape {1 dim}, 5 field,
                                6 opt_weight_shard_step, 7 opt_weight_shard_size}
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pangu.formats.parameter_layout import ParameterLayout
from pangu.formats.regular_file import file_size, read_bytes
from pangu.foundation.errors import UserError
from pangu.foundation.protobuf import (
    BYTES,
    VARINT,
    Reader,
    WireError,
    bytes_reader,
    encode_message,
    encode_number,
    encode_numbers,
    fields,
    integers,
    text,
)

LARGEST_FILE = 256 << 20
MOST_RANKS = 1 << 20
NOT_A_STRATEGY = "is not a MindSpore parallel strategy file"


@dataclass(frozen=True)
class RawLayout:
    """One parallel_layouts message, as it stands in the file."""

    device_matrix: list[int]
    tensor_map: list[list[int]]
    parameter_split_shape: list[int]
    field: int
    optimizer_shard_step: int
    optimizer_shard_size: int

    def layout(self, first_rank: int) -> ParameterLayout:
        """Raise ValueError for what no shard of ours can have."""
        if self.field or self.parameter_split_shape:
            raise ValueError("splits its parameter unevenly (field or param_split_shape), which is not supported")
        sharded = self.optimizer_shard_step != 0
        # One map of numbers: an axis each. Several maps: one map an axis, with every device axis that splits it.
        axes = [[axis] for axis in self.tensor_map[0]] if len(self.tensor_map) == 1 else self.tensor_map
        return ParameterLayout(
            tuple(self.device_matrix),
            tuple(tuple(axis for axis in entry if axis != -1) for entry in axes if entry),
            self.optimizer_shard_step if sharded else 0,
            self.optimizer_shard_size if sharded else 0,
            first_rank,
        )


def read_strategy(paths: Sequence[Path]) -> dict[str, ParameterLayout]:
    """Return {parameter name: layout} of one strategy file, or of the files of all pipeline stages.

    A parameter that several stages hold is taken from the first of them. Raises UserError that names the file and the
    parameter.
    """
    layouts: dict[str, ParameterLayout] = {}
    for _, held in sorted(read_stages(paths).items()):
        layouts = held | layouts
    return layouts


def read_stages(paths: Sequence[Path]) -> dict[int, dict[str, ParameterLayout]]:
    """Return {first rank of a pipeline stage: {parameter name: layout}}."""
    stages: dict[int, dict[str, ParameterLayout]] = {}
    for path in paths:
        for stage, name, raw in read_file(path):
            ranks = prod(max(1, length) for length in raw.device_matrix)
            if (stage + 1) * ranks > MOST_RANKS:
                raise UserError(f"{path}: {name!r} has more than {MOST_RANKS} ranks")
            try:
                layout = raw.layout(stage * ranks)
            except ValueError as error:
                raise UserError(f"{path}: {name!r}: {error}") from None
            stages.setdefault(layout.first_rank, {}).setdefault(name, layout)
    return stages


def read_file(path: Path) -> Iterator[tuple[int, str, RawLayout]]:
    """Yield (stage, parameter, layout) of every entry of one file."""
    size = file_size(path)
    if size > LARGEST_FILE:
        raise UserError(f"{path}: {NOT_A_STRATEGY}: it has {size} bytes")
    content = read_bytes(path, 0, size)
    try:
        file_stage, entries = read_json(content) if path.suffix == ".json" else read_protobuf(content)
    except (WireError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: {NOT_A_STRATEGY}: {error}") from None
    if not entries:
        raise UserError(f"{path}: {NOT_A_STRATEGY}, or one without a parameter's layout")
    for full_name, raw in entries:
        merged = re.fullmatch(r"(\d{1,6})-(.+)", full_name)
        if merged:
            yield int(merged[1]), merged[2], raw
        else:
            yield file_stage, full_name, raw


def read_protobuf(content: bytes) -> tuple[int, list[tuple[str, RawLayout]]]:
    """Return the stage that the operators name, and the layouts."""
    read = bytes_reader(content)
    stage, entries = None, []
    for number, wire_type, start, end in fields(read, 0, len(content)):
        if number == 2 and wire_type == BYTES and stage is None:
            stage = operator_stage(read, start, end)
        elif number == 3 and wire_type == BYTES:
            name, raw = None, None
            for inner, inner_type, inner_start, inner_end in fields(read, start, end):
                if inner == 1:
                    name = text(read, inner_type, inner_start, inner_end)
                elif inner == 2:
                    raw = read_layout(read, inner_start, inner_end)
            if name is None or raw is None:
                raise WireError(f"a layout without a name or a name without a layout at byte {start}")
            entries.append((name, raw))
    return stage or 0, entries


def operator_stage(read: Reader, start: int, end: int) -> int | None:
    for number, wire_type, item_start, item_end in fields(read, start, end):
        if number == 2 and wire_type == BYTES:
            for inner, inner_type, value, _ in fields(read, item_start, item_end):
                if inner == 1 and inner_type == VARINT and value < MOST_RANKS:
                    return value
    return None


def read_layout(read: Reader, start: int, end: int) -> RawLayout:
    lists: dict[int, list[list[int]]] = {1: [], 2: [], 3: []}
    numbers = {5: 0, 6: 0, 7: 0}
    for number, wire_type, value, stop in fields(read, start, end):
        if number in lists and wire_type == BYTES:
            dims: list[int] = []
            for inner, inner_type, inner_value, inner_end in fields(read, value, stop):
                if inner == 1:
                    dims += integers(read, inner_type, inner_value, inner_end)
            lists[number].append(dims)
        elif number in numbers:
            (numbers[number],) = integers(read, wire_type, value, stop)
    if not lists[1] or not lists[2]:
        raise WireError(f"a layout without a device matrix or a tensor map at byte {start}")
    split_shape = lists[3][0] if lists[3] else []
    return RawLayout(lists[1][0], lists[2], split_shape, numbers[5], numbers[6], numbers[7])


def read_json(content: bytes) -> tuple[int, list[tuple[str, RawLayout]]]:
    document = json.loads(content)
    operators = document.get("parallel_strategy_item") or {}
    stage = next((int(item["stage"]) for item in operators.values()), 0)
    entries = []
    for name, item in document["parallel_layout_item"].items():
        tensor_map = item["tensor_map"]
        nested = any(isinstance(entry, list) for entry in tensor_map)
        maps = [entry if isinstance(entry, list) else [entry] for entry in tensor_map] if nested else [tensor_map]
        step, size = int(item.get("opt_weight_shard_step", 0)), int(item.get("opt_weight_shard_size", 0))
        field, split_shape = int(item.get("field", 0)), list(item.get("param_split_shape", []))
        device_matrix, maps = [int(n) for n in item["dev_matrix"]], [[int(n) for n in entry] for entry in maps]
        entries.append((name, RawLayout(device_matrix, maps, split_shape, field, step, size)))
    return stage, entries


def encode_strategy(layouts: Iterable[tuple[str, ParameterLayout]]) -> bytes:
    """Return the file that MindSpore writes for these layouts; the parameters of several pipeline stages have their
    stage before their names, as in the file that MindSpore merges from those of the stages. A parameter that
    several stages hold is there once for each."""
    layouts = list(layouts)
    stages = {layout.first_rank // layout.num_ranks for _, layout in layouts}
    content = bytearray(encode_number(1, 1))
    for stage in sorted(stages):
        # An operator, because readers take the stage from the first one.
        operator = "Parameters" if len(stages) == 1 else f"{stage}-Parameters"
        content += encode_message(2, encode_message(1, operator) + encode_message(2, encode_number(1, stage)))
    for name, layout in layouts:
        shown = name if stages == {0} else f"{layout.first_rank // layout.num_ranks}-{name}"
        content += encode_layout(shown, layout)
    return bytes(content)


def encode_layout(name: str, layout: ParameterLayout) -> bytes:
    """Return one parallel_layout_item."""
    body = encode_message(1, encode_numbers(layout.device_matrix))
    if all(len(axes) <= 1 for axes in layout.tensor_map):
        body += encode_message(2, encode_numbers(axes[0] if axes else -1 for axes in layout.tensor_map))
    else:
        body += b"".join(encode_message(2, encode_numbers(axes or (-1,))) for axes in layout.tensor_map)
    body += encode_message(3, b"") + encode_message(4, b"")
    sharded = layout.optimizer_shard_size != 0
    step = (layout.optimizer_shard_step or layout.group_step or 1) if sharded else 0
    for field, value in ((5, 0), (6, step), (7, layout.optimizer_shard_size if sharded else 0)):
        body += encode_number(field, value)
    return encode_message(3, encode_message(1, name) + encode_message(2, body))
