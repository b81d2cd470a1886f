"""What a compiled graph communicates in one step, in the emulator's words: operator, group, bytes, layer, phase.

`bytes` are of the whole tensor, as in `graph.collectives`: gathered, before scattering, or the message.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from parallel_strategy.mindspore.dryrun.graph_file import Graph, Node, TensorType
from parallel_strategy.mindspore.pangu_network import layer_of_parameter, layer_of_scope, short_name_of_scope

KINDS = {
    "AllReduce": "all_reduce",
    "AllGather": "all_gather",
    "ReduceScatter": "reduce_scatter",
    "AllToAll": "all_to_all",
    "AlltoAll": "all_to_all",
    "Broadcast": "broadcast",
    "Send": "send",
    "Receive": "receive",
}
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int32": "int32"}

# What MindSpore's passes call the collectives that they add for weights and gradients.
WEIGHT_MARKS = ("parallel_optimizer", "grad_accumulation_shard", "mirror")


@dataclass(frozen=True, order=True)
class CompiledCollective:
    """`times`: how often it runs in a step. `layer`: 0 .. num_layers - 1, the head num_layers, -1 once a step."""

    op: str
    group: tuple[int, ...]
    bytes: int
    dtype: str
    layer: int
    phase: str  # forward, recompute, backward, step
    name: str
    times: int
    fusion: int = 0  # those with the same number, not 0, are one collective after the backend's fusion

    def as_json(self) -> dict:
        return asdict(self)


def read_collectives(
    graph: Graph, rank: int, num_layers: int, groups: Mapping[str, Sequence[int]]
) -> list[CompiledCollective]:
    """Return every collective of the graph of one rank, in the file's order. `groups`: those that are not MindSpore's
    own."""
    forward_layers = {
        node.attributes["forward_comm_node_unique_id"]: layer_of_scope(node.scope, num_layers)
        for node in graph.nodes
        if not node.scope.startswith("Gradients/") and "forward_comm_node_unique_id" in node.attributes
    }
    forward_names = {
        node.attributes["forward_comm_node_unique_id"]: short_name_of_scope(node.scope)
        for node in graph.nodes
        if not node.scope.startswith("Gradients/") and "forward_comm_node_unique_id" in node.attributes
    }
    found = []
    for node in graph.nodes:
        times = graph.runs[node.function]
        if not times:
            continue
        key = node.attributes.get("forward_comm_node_unique_id", "")
        parameter = node.attributes.get("mirror_user_id") if "mirror" in node.instance else None
        if parameter is None and ("parallel_optimizer" in node.instance or "Grad__" in node.scope):
            parameter = node.attributes.get("mirror_user_id")
            for operand in node.operands if parameter is None else ():
                parameter = parameter or graph.parameter(node.function, operand)
        layer, phase, name = layer_of_scope(node.scope, num_layers), "forward", short_name_of_scope(node.scope)
        if node.scope.startswith("Gradients/"):
            phase = "backward"
            layer, name = forward_layers.get(key, layer), forward_names.get(key, name) + ".gradient"
        if graph.runs_again(node):
            phase = "recompute"
        if parameter is not None:
            layer, phase, name = layer_of_parameter(parameter, num_layers), "step", parameter
        elif any(mark in node.instance for mark in WEIGHT_MARKS):
            phase, name = "step", "weights" if node.operator == "AllGather" else "gradients"
        elif "GLOBALNORM" in node.instance:
            layer, phase, name = -1, "step", "norm"
        elif "redistribution" in node.instance and dtype_of(node).startswith("int"):
            layer, phase, name = -1, "step", "rows"
        elif node.instance == "add_tied":
            layer, phase, name = -1, "step", "gradients.tied"
        elif node.operator in ("Send", "Receive"):
            name = "boundary"
        found.append(
            CompiledCollective(
                KINDS[node.operator],
                group_of(node, rank, groups),
                size_of(node),
                dtype_of(node),
                layer,
                phase,
                name,
                times,
                int(node.attributes.get("fusion", "0")),
            )
        )
    return found


def whole_tensor(node: Node) -> TensorType:
    """Return the larger of what goes in and what comes out."""
    kinds = [kind for kind in (*node.inputs[:1], node.output) if kind is not None]
    return max(kinds, key=lambda kind: _elements(kind.shape)) if kinds else TensorType("float32", ())


def size_of(node: Node) -> int:
    kind = whole_tensor(node)
    return _elements(kind.shape) * BYTES.get(kind.dtype, 4)


def dtype_of(node: Node) -> str:
    kind = whole_tensor(node)
    return DTYPES.get(kind.dtype, kind.dtype)


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def group_of(node: Node, rank: int, groups: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Return the ranks in order; of a message its source and destination."""
    if node.attributes.get("group") in groups:
        return tuple(groups[node.attributes["group"]])
    words = node.attributes.get("group_rank_ids") or node.attributes.get("rank_list") or "()"
    ranks = tuple(int(number) for number in re.findall(r"\d+", words))
    if node.operator in ("Send", "Receive"):
        other = int(node.attributes["dest_rank" if node.operator == "Send" else "src_rank"])
        peer = ranks[other] if other < len(ranks) else other
        return (rank, peer) if node.operator == "Send" else (peer, rank)
    return ranks
