"""Operator-level sharding: the elimination is exact, and its choices are legal for MindSpore."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_strategy.cost.elimination import Tables
from parallel_strategy.cost.sharding import (
    ALONG_ROWS,
    PRODUCT,
    Axis,
    BlockSharding,
    Operator,
    block_of,
    mesh_axes,
    mesh_choice,
)
from parallel_strategy.search.layer_sharding import shard_operators
from parallel_strategy.spec.model import ModelSpec
from tests.parallel_strategy.strategies import setup_of


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 9))
def test_elimination_finds_what_brute_force_finds(seed, variables, count):
    random = np.random.default_rng(seed)
    names = [f"v{index}" for index in range(variables)]
    tables = Tables({name: int(random.integers(1, 4)) for name in names})
    for _ in range(count):
        chosen = tuple(random.choice(names, size=int(random.integers(1, 4))))
        chosen = tuple(dict.fromkeys(chosen))
        tables.add(chosen, random.integers(0, 50, tuple(tables.sizes[name] for name in chosen)).astype(float))
    least, choice = tables.minimum()
    every = (dict(zip(names, values, strict=True)) for values in product(*(range(tables.sizes[n]) for n in names)))
    assert least == pytest.approx(min(tables.total(one) for one in every))
    assert tables.total(choice) == pytest.approx(least)


@pytest.mark.parametrize("cluster", ["cloudbrain2-2048", "dgx-a100"])
def test_a_small_block_agrees_with_brute_force(cluster):
    """A feed-forward layer with its residual on a 2 x 2 device matrix: every combination of choices tried out."""
    asked = setup_of(ModelSpec.preset("pangu-alpha-2.6b"), cluster, "mindspore", batch={"global": 4}, mesh={"dp": 4})
    rows, hidden, inner = 2048, 512, 2048
    operators = [
        Operator("norm", "LayerNorm", ("add",), rows, hidden, choices=ALONG_ROWS),
        Operator("up", "MatMul", ("norm",), rows, inner, hidden, PRODUCT),
        Operator("down", "MatMul", ("up",), rows, hidden, inner, PRODUCT),
        Operator("add", "Add", ("down", "add"), rows, hidden, passes=3),
    ]
    block = BlockSharding(asked, [Axis("dp", 2, 2), Axis("tp", 2, 1)], operators)
    least, choice = block.tables.minimum()
    sizes = [range(len(block.options[operator.name])) for operator in operators]
    names = [operator.name for operator in operators]
    totals = [block.tables.total(dict(zip(names, values, strict=True))) for values in product(*sizes)]
    assert len(totals) > 10_000 and least == pytest.approx(min(totals), rel=1e-12)
    assert block.tables.total(choice) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("preset", ["pangu-alpha-13b", "llama2-7b", "gpt-22b"])
def test_strategies_are_legal_and_no_worse_than_the_mesh(preset):
    fields = {"batch": {"global": 64}, "mesh": {"dp": 8, "tp": 8}}
    asked = setup_of(ModelSpec.preset(preset), "atlas-800t-a2-910b2", "mindspore", **fields)
    found = shard_operators(asked)
    assert found is not None and found.seconds <= found.mesh_seconds * (1 + 1e-12)
    shapes = {operator.name: operator for operator in block_of(asked)}
    for one in found.operators:
        operator = shapes[one.name]
        for splits in one.in_strategy:
            assert 64 % int(np.prod(splits)) == 0
        if operator.inner:
            (rows, inner), (again, columns) = one.in_strategy
            assert inner == again and operator.rows % rows == 0
            assert operator.inner % inner == 0 and operator.columns % columns == 0


def test_the_mesh_itself_is_megatrons_sharding():
    fields = {"batch": {"global": 32}, "mesh": {"dp": 4, "tp": 8}}
    asked = setup_of(ModelSpec.preset("pangu-alpha-13b"), "dgx-a100", "mindspore", **fields)
    block = BlockSharding(asked, mesh_axes(asked), block_of(asked))
    chosen = {one.name: one.in_strategy for one in block.chosen(mesh_choice(block))}
    assert chosen["attention.query"] == chosen["feed_forward.up"] == ((4, 1), (1, 8))
    assert chosen["attention.output"] == chosen["feed_forward.down"] == ((4, 8), (8, 1))
    assert chosen["attention.residual"] == ((4, 1), (4, 1))
    # two all-reduces of the residual stream forward and two backward, and nothing is redistributed
    size = 4 * 1024 * 5120 * 2 / 4
    reduce = block.network.seconds("all_reduce", size, 8, 1)
    alone = sum(float(block.own_seconds(o.name)[mesh_choice(block)[o.name]]) for o in block.operators)
    assert block.tables.total(mesh_choice(block)) == pytest.approx(alone)
    assert alone > 4 * reduce


def test_links_between_groups_of_a_server_are_avoided():
    """On 910A eight-way products cross PCIe; the search finds splits whose traffic stays inside groups of four."""
    mesh = {"pp": 16, "dp": 16, "tp": 8, "order": ["dp", "pp", "tp"]}
    asked = setup_of(
        ModelSpec.preset("pangu-alpha-200b"), "cloudbrain2-2048", "mindspore", batch={"global": 512}, mesh=mesh
    )
    found = shard_operators(asked)
    assert found is not None and found.device_matrix == (16, 2, 4)
    assert found.seconds < 0.8 * found.mesh_seconds
