"""The released strategy files come out of our strategy files: every operator strategy and every layout."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from parallel_strategy.mindspore.strategy_file import (
    all_layouts,
    operator_strategies,
    parameter_named_json,
    parameter_strategy_protobuf,
)
from parallel_strategy.spec.strategy import Setup, StrategySpec

RELEASED = {
    "2.6b": ("pangu_alpha_2.6B_ckpt_strategy.ckpt", 518, 1551),
    "13b": ("pangu_alpha_13B_cktp_strategy.ckpt", 646, 1935),
}


def released(size: str) -> Setup:
    return Setup.resolve(StrategySpec.preset(f"pangu-alpha-{size}-released"), Path())


def messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(field, bytes) of each top-level field that is a message."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(content):
        key = varint()
        if key & 7 == 0:
            varint()
        else:
            length = varint()
            yield key >> 3, content[place : place + length]
            place += length


@pytest.mark.parametrize("size", RELEASED)
def test_every_entry_of_the_released_file_is_written_bit_for_bit(shared: Path, size: str) -> None:
    name, operators, layouts = RELEASED[size]
    theirs = list(messages((shared / "released" / name).read_bytes()))
    ours = list(messages(parameter_strategy_protobuf(released(size), 0, "released")))
    assert [sum(field == kind for field, _ in ours) for kind in (2, 3)] == [operators, layouts]
    assert set(ours) == set(theirs) and len(ours) == len(theirs)


@pytest.mark.parametrize("size", RELEASED)
def test_the_written_file_reads_back(tmp_path: Path, size: str) -> None:
    from pangu.formats.strategy_checkpoint import read_strategy

    setup = released(size)
    (tmp_path / "strategy.ckpt").write_bytes(parameter_strategy_protobuf(setup, 0))
    (tmp_path / "strategy.json").write_bytes(parameter_named_json(setup, 0))
    for name in ("strategy.ckpt", "strategy.json"):
        read = read_strategy([tmp_path / name])
        expected = all_layouts(setup)
        assert read.keys() == expected.keys()
        for parameter, layout in read.items():
            assert layout.device_matrix == (64, 8)
            maps = tuple((axis,) if axis >= 0 else () for axis in expected[parameter].tensor_map)
            assert layout.tensor_map == maps, parameter


def test_the_paper_s_200b_layout() -> None:
    setup = Setup.resolve(StrategySpec.preset("pangu-alpha-200b-paper"), Path())
    strategy = setup.strategy
    assert strategy.mesh.devices == 2048 and strategy.layers_of_stages(setup.model.num_layers) == [4] * 16
    layouts = all_layouts(setup)
    assert layouts["backbone.word_embedding.embedding_table"].stages == (0, 15)
    assert layouts["adam_m.backbone.blocks.5.attention.dense1.weight"].stages == (1,)
    assert layouts["backbone.blocks.5.output.mapping.weight"].slice_shape == (16384, 8192)
    by_stage = [sum(one.stage == stage for one in operator_strategies(setup)) for stage in range(16)]
    assert by_stage == [56 + 2, *[56] * 14, 56 + 1 + 1 + 1]
