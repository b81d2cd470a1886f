"""Layouts: parts tile their parameter, are what MindSpore cuts, and come back together from files of any strategy."""

import json
import math
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.formats.open_source import open_source
from pangu.formats.parameter_layout import ParameterLayout, owners, region
from pangu.formats.strategy_checkpoint import read_strategy
from pangu.foundation.errors import UserError
from tests.pangu.convert_files import (
    node_strategy_pb2,
    random_weights,
    released_layouts,
    shapes_of,
    write_ckpt,
    write_released,
    write_strategy,
)


@st.composite
def layouts(draw: st.DrawFn, most_devices: int = 48) -> ParameterLayout:
    """Any layout: some device axes split tensor axes, optimizer sharding by any divisor of the rest."""
    device_matrix = draw(
        st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda lengths: math.prod(lengths) <= most_devices)
    )
    free = draw(st.permutations(range(len(device_matrix))))
    tensor_map: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(0, min(2, len(free))))
        tensor_map.append(tuple(free[:count]))
        free = free[count:]
    group = math.prod(device_matrix[-1 - axis] for axis in free)
    size = draw(st.sampled_from([0, -1, *(n for n in range(1, group + 1) if group % n == 0)]))
    return ParameterLayout(tuple(device_matrix), tuple(tensor_map), 0, size, draw(st.sampled_from([0, 7])))


def parts_by_definition(array: np.ndarray, layout: ParameterLayout) -> list[np.ndarray]:
    """What each rank holds, cut step by step as the definition says it."""
    coordinates = list(product(*(range(length) for length in layout.device_matrix)))
    parts = []
    for place in coordinates:
        part = array
        for axis, device_axes in enumerate(layout.tensor_map):
            for device_axis in device_axes:
                part = np.split(part, layout.device_matrix[-1 - device_axis], axis)[place[-1 - device_axis]]
        parts.append(part)
    if layout.optimizer_shard_size in (0, 1):
        return parts
    used = [len(layout.device_matrix) - 1 - axis for axes in layout.tensor_map for axis in axes]
    members: dict[tuple[int, ...], list[int]] = {}
    for rank, place in enumerate(coordinates):
        members.setdefault(tuple(place[axis] for axis in used), []).append(rank)
    for group in members.values():
        size = len(group) if layout.optimizer_shard_size == -1 else layout.optimizer_shard_size
        for position, rank in enumerate(group):
            parts[rank] = np.split(parts[rank], size, 0)[position % size]
    return parts


@settings(max_examples=150, deadline=None)
@given(layout=layouts(), scale=st.integers(1, 3))
def test_parts_are_those_of_the_definition_and_tile(layout: ParameterLayout, scale: int) -> None:
    shape = tuple(parts * scale for parts in layout.grid)
    array = np.arange(math.prod(shape)).reshape(shape)
    part_shape = layout.part_shape(shape)
    assert layout.full_shape(part_shape) == shape
    expected = parts_by_definition(array, layout)
    for rank in range(layout.num_ranks):
        part = array[region(layout.cell(layout.first_rank + rank), part_shape)]
        np.testing.assert_array_equal(part, expected[rank])
    covered = np.zeros(shape, int)
    for cell, rank in owners(layout).items():
        assert layout.cell(rank) == cell
        covered[region(cell, part_shape)] += 1
    assert (covered == 1).all()


@settings(max_examples=15, deadline=None)
@given(data=st.data(), json_file=st.booleans())
def test_shards_of_any_strategy_come_together(data: st.DataObject, json_file: bool) -> None:
    matrix = data.draw(st.sampled_from([(1, 1), (2, 1), (1, 4), (4, 2), (2, 2, 2), (3, 2), (2, 3, 1)]))
    # Every length is a multiple of 24, so all of these can split it.
    weights = {
        name: array
        for name, array in random_weights(blocks=1, hidden=24, ffn=48).items()
        if not name.endswith("embedding_table")
    }
    drawn = {name: data.draw(layouts_for(matrix, array.ndim)) for name, array in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_some_strategy(path / ("s.json" if json_file else "s.ckpt"), drawn)
        parts = {name: parts_by_definition(array, drawn[name]) for name, array in weights.items()}
        for rank in range(math.prod(matrix)):
            write_ckpt(path / f"filerted_{rank}.ckpt", {name: parts[name][rank] for name in weights})
        tables = {name: array for name, array in random_weights(1, 24, 48).items() if name.endswith("table")}
        for name, array in tables.items():
            np.save(path / f"{name.split('.')[1]}.npy", array)
        with open_source(path, [path / ("s.json" if json_file else "s.ckpt")]) as source:
            for name, array in (weights | tables).items():
                np.testing.assert_array_equal(source.read(name), array, err_msg=name)


@st.composite
def layouts_for(draw: st.DrawFn, matrix: tuple[int, ...], axes: int) -> ParameterLayout:
    """A layout that a strategy file can say in one tensor map, for an array whose lengths 24 divides."""
    free = draw(st.permutations(range(len(matrix))))
    tensor_map = []
    for _ in range(axes):
        split = bool(free) and draw(st.booleans())
        tensor_map.append((free[0],) if split else ())
        free = free[1:] if split else free
    size = draw(st.sampled_from([0, -1]))
    plain = ParameterLayout(matrix, tuple(tensor_map))
    if not size or 24 % (plain.grid[0] * plain.group_size):
        return plain
    # As in MindSpore, step 0 would mean: no optimizer sharding.
    return ParameterLayout(matrix, tuple(tensor_map), plain.group_step or 1, size)


def write_some_strategy(path: Path, drawn: dict[str, ParameterLayout]) -> None:
    entries = {
        name: (
            list(layout.device_matrix),
            [axes[0] if axes else -1 for axes in layout.tensor_map],
            layout.optimizer_shard_step,
            layout.optimizer_shard_size,
        )
        for name, layout in drawn.items()
    }
    if path.suffix == ".ckpt":
        write_strategy(path, entries)
        return
    keys = ("dev_matrix", "tensor_map", "opt_weight_shard_step", "opt_weight_shard_size")
    items = {name: dict(zip(keys, entry, strict=True)) | {"field": 0} for name, entry in entries.items()}
    path.write_text(json.dumps({"parallel_strategy_item": {"MatMul": {"stage": 0}}, "parallel_layout_item": items}))


@pytest.mark.parametrize(("name", "blocks", "count"), [("2.6B_ckpt", 31, 1551), ("13B_cktp", 39, 1935)])
def test_real_strategy_files(shared: Path, name: str, blocks: int, count: int) -> None:
    found = read_strategy([shared / "released" / f"pangu_alpha_{name}_strategy.ckpt"])
    assert len(found) == count
    shapes = shapes_of(blocks, 512, 1024, 8, 16)
    assert set(found) == {prefix + name for prefix in ("", "adam_m.", "adam_v.") for name in shapes}
    for parameter, (matrix, tensor_map, step, size) in released_layouts(shapes, 64, 8).items():
        axes = tuple((axis,) if axis != -1 else () for axis in tensor_map)
        assert found[parameter] == ParameterLayout(tuple(matrix), axes, step, size)


def test_stages_of_a_pipeline(tmp_path: Path) -> None:
    """Two stage files, and one merged file as merge_pipeline_strategys writes it, say the same."""
    first, second = {"a": ([2, 2], [0, -1], 2, -1)}, {"b": ([2, 2], [-1, 0], 0, 0), "a": ([2, 2], [-1, -1], 0, 0)}
    write_strategy(tmp_path / "0.ckpt", first, stage=0)
    write_strategy(tmp_path / "1.ckpt", second, stage=1)
    merged = {f"0-{name}": layout for name, layout in first.items()}
    merged |= {f"1-{name}": layout for name, layout in second.items()}
    write_strategy(tmp_path / "merged.ckpt", merged)
    expected = {
        "a": ParameterLayout((2, 2), ((0,), ()), 2, -1, first_rank=0),
        "b": ParameterLayout((2, 2), ((), (0,)), 0, 0, first_rank=4),
    }
    assert read_strategy([tmp_path / "1.ckpt", tmp_path / "0.ckpt"]) == expected
    assert read_strategy([tmp_path / "merged.ckpt"]) == expected


def test_several_device_axes_on_one_tensor_axis(tmp_path: Path) -> None:
    """Layouts with aliases write one tensor map an axis."""
    message = node_strategy_pb2.ParallelStrategyMap(current_stage=1)
    item = message.parallel_layout_item.add()
    item.param_name = "a"
    item.parallel_layouts.dev_matrix.add().dim.extend([2, 3, 4])
    item.parallel_layouts.tensor_map.add().dim.extend([2, 0])
    item.parallel_layouts.tensor_map.add().dim.extend([-1])
    for field in ("field", "opt_weight_shard_step", "opt_weight_shard_size"):
        setattr(item.parallel_layouts, field, 0)
    (tmp_path / "s.ckpt").write_bytes(message.SerializeToString())
    (layout,) = read_strategy([tmp_path / "s.ckpt"]).values()
    assert layout.tensor_map == ((2, 0), ()) and layout.grid == (8, 1)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (([0, 2], [0], 0, 0), "must be positive"),
        (([2, 2], [2], 0, 0), "names an axis"),
        (([2, 2], [0, 0], 0, 0), "two axes along the same"),
        (([4, 2], [0], 2, 3), "does not divide"),
        (([4, 2], [0], 1, -1), "has step 1, the device matrix gives 2"),
        (([1 << 15, 1 << 15], [0], 0, 0), "more than 1048576 ranks"),
    ],
)
def test_strategies_that_contradict_themselves(
    tmp_path: Path, layout: tuple[list[int], list[int], int, int], expected: str
) -> None:
    write_strategy(tmp_path / "s.ckpt", {"a": layout})
    with pytest.raises(UserError, match=expected):
        read_strategy([tmp_path / "s.ckpt"])


FLIPS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=80), cut=st.integers(0, 400), flips=FLIPS)
def test_damaged_strategies_are_one_line(content: bytes, cut: int, flips: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.ckpt"
        write_strategy(path, released_layouts(["x.weight", "y.bias"], 4, 2))
        damaged = bytearray(path.read_bytes()[:cut] + content)
        for place, value in flips:
            if place < len(damaged):
                damaged[place] = value
        for name in ("s.ckpt", "s.json"):
            (Path(folder) / name).write_bytes(damaged)
            try:
                read_strategy([Path(folder) / name])
            except UserError as error:
                assert "\n" not in str(error)


def test_mindspore_merges_to_the_same_weights(tmp_path: Path) -> None:
    """transform_checkpoints of MindSpore, on copies in the folders that it needs, gives what we give."""
    import mindspore as ms

    weights = random_weights(blocks=1)
    inner = {name: array for name, array in weights.items() if not name.endswith("embedding_table")}
    write_released(tmp_path / "shards", weights, 4, 2)
    write_strategy(tmp_path / "s.ckpt", released_layouts(inner, 4, 2))
    for rank in range(8):
        folder = tmp_path / "ranks" / f"rank_{rank}"
        folder.mkdir(parents=True)
        (folder / "any.ckpt").write_bytes((tmp_path / "shards" / f"filerted_{rank}.ckpt").read_bytes())
    ms.transform_checkpoints(str(tmp_path / "ranks"), str(tmp_path / "merged"), "m", str(tmp_path / "s.ckpt"), None)
    (merged,) = (tmp_path / "merged").rglob("*.ckpt")
    theirs = ms.load_checkpoint(str(merged))
    with open_source(tmp_path / "shards", [tmp_path / "s.ckpt"]) as source:
        for name, array in inner.items():
            np.testing.assert_array_equal(theirs[name].asnumpy(), array)
            np.testing.assert_array_equal(source.read(name), array)
