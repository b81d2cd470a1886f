"""Layouts of PanGu-alpha's parameters under a strategy, and the splits of the operators that own them.

A parameter is split as the operator is that takes it: nothing is said here that `operators` does not say. MindSpore
finds the same layouts when it compiles (a test asks it).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from parallel_strategy.mindspore.operators import split_of
from parallel_strategy.mindspore.placement import degrees, places_of_layers, stays_whole
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Question

BYTES = 4  # every parameter is stored in fp32


@dataclass(frozen=True)
class Layout:
    """MindSpore's words: device_matrix [dp, mp]; tensor_map an axis of it for each dimension, counted from the right,
    -1 not split. Optimizer sharding splits dimension 0 further: `optimizer_shard_size` ranks that lie
    `optimizer_shard_step` apart (-1: as many as there are copies; 0 and 0: not sharded). `stages` hold it.
    """

    device_matrix: tuple[int, ...]
    tensor_map: tuple[int, ...]
    optimizer_shard_step: int
    optimizer_shard_size: int
    stages: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def slice_shape(self) -> tuple[int, ...]:
        """What one rank has of it, before optimizer sharding."""
        return tuple(
            size if axis < 0 else size // self.device_matrix[-1 - axis]
            for size, axis in zip(self.shape, self.tensor_map, strict=True)
        )

    @property
    def copies(self) -> int:
        """Ranks of one stage that have the same slice."""
        return math.prod(self.device_matrix) // math.prod(self.device_matrix[-1 - a] for a in self.tensor_map if a >= 0)


@dataclass(frozen=True)
class Owned:
    """A parameter and an operator that takes it: `path` of the operator, and as which operand."""

    parameter: str
    shape: tuple[int, ...]
    layer: int
    operator: str
    path: str
    operand: int


def owned_parameters(model: ModelSpec) -> Iterator[Owned]:
    """Every parameter of the network with the operator that decides its split, in the network's order.

    The word table appears a second time with the output matrix product.
    """
    hidden, ffn, last = model.hidden_size, model.ffn_hidden_size, model.num_layers - 1
    tables = {"word_embedding": (model.vocab_size, 0), "position_embedding": (model.seq_length, 0)}
    if model.query_layer:
        tables["top_query_embedding"] = (model.seq_length, last)
    for name, (rows, layer) in tables.items():
        path = f"backbone.{name}"
        yield Owned(f"{path}.embedding_table", (rows, hidden), layer, "Gather", f"{path}.gather", 0)
    for layer in range(model.num_layers):
        query = model.query_layer and layer == last
        prefix = "backbone.top_query_layer" if query else f"backbone.blocks.{layer}"
        for norm in ("layernorm1", "layernorm2"):
            yield from _norm(f"{prefix}.{norm}", hidden, layer)
        for dense in ("dense1", "dense2", "dense3", "projection"):
            yield from _linear(f"{prefix}.attention.{dense}", (hidden, hidden), hidden, layer)
        yield from _linear(f"{prefix}.output.mapping", (hidden, ffn), ffn, layer)
        yield from _linear(f"{prefix}.output.projection", (ffn, hidden), hidden, layer)
    yield from _norm("backbone.layernorm", hidden, last)
    yield Owned("backbone.word_embedding.embedding_table", (model.vocab_size, hidden), last, "MatMul", "head", 1)


def _norm(path: str, hidden: int, layer: int) -> Iterator[Owned]:
    for operand, name in enumerate(("gamma", "beta"), start=1):
        yield Owned(f"{path}.{name}", (hidden,), layer, "LayerNorm", f"{path}.normalisation.layer_norm", operand)


def _linear(path: str, shape: tuple[int, int], outputs: int, layer: int) -> Iterator[Owned]:
    yield Owned(f"{path}.weight", shape, layer, "MatMul", f"{path}.affine.matmul", 1)
    yield Owned(f"{path}.bias", (outputs,), layer, "BiasAdd", f"{path}.affine.bias_add", 1)


def parameter_layouts(question: Question) -> dict[str, Layout]:
    """Released name -> layout of every weight."""
    mesh = question.strategy.mesh
    places, letters = places_of_layers(question), degrees(question)
    layouts: dict[str, Layout] = {}
    for owned in owned_parameters(question.model):
        split = split_of(owned.path, letters)
        assert split is not None, owned.path
        stage = places[owned.layer].stage
        if owned.parameter in layouts:
            before = layouts[owned.parameter]
            stages = tuple(sorted({*before.stages, stage}))
            layouts[owned.parameter] = replace(before, stages=stages)
            continue
        tensor_map = tuple(0 if parts > 1 else -1 for parts in split.inputs[owned.operand])
        layout = Layout((mesh.dp, mesh.tp), tensor_map, 0, 0, (stage,), owned.shape)
        step, size = optimizer_shards(question, owned.parameter, layout)
        layouts[owned.parameter] = replace(layout, optimizer_shard_step=step, optimizer_shard_size=size)
    return layouts


def optimizer_shards(question: Question, parameter: str, layout: Layout) -> tuple[int, int]:
    """(step, size) of optimizer sharding; (0, 0) where MindSpore leaves a parameter whole."""
    zero, mesh = question.strategy.zero, question.strategy.mesh
    if not zero.optimizer_shard or stays_whole(question, parameter):
        return 0, 0
    ranks = layout.copies if zero.weight_shard_size < 0 else zero.weight_shard_size
    local = layout.slice_shape
    if ranks == 1 or layout.copies % ranks or local[0] % ranks:
        return 0, 0
    if math.prod(local) * BYTES < zero.threshold_kb * 1024:
        return 0, 0
    step = mesh.tp if 0 in layout.tensor_map else 1
    return step, -1 if ranks == layout.copies else ranks
