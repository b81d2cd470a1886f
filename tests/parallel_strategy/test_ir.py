"""Compiled graphs as MindSpore writes them: nodes, types, how often a function runs, and what is communicated."""

from collections import Counter
from pathlib import Path

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.graph.collectives import Record, collectives_of
from parallel_strategy.mindspore.dryrun.compiled_collectives import KINDS, CompiledCollective, read_collectives
from parallel_strategy.mindspore.dryrun.difference import CollectiveKind, differences, of_mindspore, ranks_text
from parallel_strategy.mindspore.dryrun.graph_file import Graph, read_graph
from parallel_strategy.mindspore.fusion import numbers, of_emulator
from tests.parallel_strategy.layouts import tiny_model
from tests.parallel_strategy.strategies import setup_of

BLOCK = "Default/network-Step/network-Loss/backbone-Decoder/blocks-CellList/1-Block/attention-Attention"
TEXT = f"""# IR entry: @1_step_construct
# Total subgraphs: 4
%para1_rows: <Tensor[Int32], (4, 33)> : [8, 33]
%para2_backbone.blocks.1.layernorm1.gamma: <Ref[Tensor[Float32]], (16)>  :  has_default

subgraph @1_step_construct() {{
  %0(a) = AllGather(%para2_backbone.blocks.1.layernorm1.gamma) {{instance name: parallel_optimizer_allgather}} \
primitive_attrs: {{group_rank_ids: (0, 1, 2, 3), fusion: I64(3)}}
      : (<Ref[Tensor[Float32]], (16)>) -> (<Tensor[Float32], (64)>)
      # Fullname with scope: (Default/AllGather-op0)
  %1(b) = call @2_forward(%0)
  %2(c) = call @2_forward(%0)
  %3(d) = %1[@Partial(@3_backward)](%0, UMonad[U])
  %4(e) = %2[@Partial(@3_backward)](%0, UMonad[U])
  %5(f) = Switch(%4, @4_update, @5_skip)
  %6(g) = %5[@FuncUnion(Partial(@4_update), Partial(@5_skip))]()
  Return(%6)
}}

subgraph @2_forward(%para3_x) {{
  %0(a) = AllReduce(%para3_x) {{instance name: forward_op_11}} primitive_attrs: {{group_rank_ids: (0, 1), \
fusion: I64(0)}} cnode_primal_attrs: {{forward_comm_node_unique_id: "7"}}
      : (<Tensor[Float16], (64, 8)>) -> (<Tensor[Float16], (64, 8)>)
      # Fullname with scope: ({BLOCK}/projection-Linear/affine-Affine/AllReduce-op0)
  %1(b) = Send(%0) {{instance name: Send}} primitive_attrs: {{dest_rank: I64(1), group_rank_ids: (0, 4)}}
      : (<Tensor[Float16], (64, 8)>) -> (<Tensor[Float16], (64, 8)>)
      # Fullname with scope: (Default/Send-op0)
  %2(c) = Partial(@3_backward, %0)
  Return(%2)
}}

subgraph @3_backward(%para4_x) {{
  %0(a) = AllReduce(%para4_x) {{instance name: forward_op_11}} primitive_attrs: {{group_rank_ids: (0, 1)}} \
cnode_attrs: {{duplicated: Bool(1)}} cnode_primal_attrs: {{forward_comm_node_unique_id: "7"}}
      : (<Tensor[Float16], (64, 8)>) -> (<Tensor[Float16], (64, 8)>)
      # Fullname with scope: (recompute_{BLOCK}/projection-Linear/affine-Affine/AllReduce-op1)
  %1(b) = PrimFunc_MatMul(%0, %0) cnode_attrs: {{duplicated: Bool(1)}}
      : (<Tensor[Float16], (64, 8)>, <Tensor[Float16], (64, 8)>) -> (<Tensor[Float16], (64, 64)>)
  %2(c) = AllReduce(%1) {{instance name: gradforward_op_12}} primitive_attrs: {{group_rank_ids: (0, 1)}} \
cnode_primal_attrs: {{forward_comm_node_unique_id: "7"}}
      : (<Tensor[Float16], (64, 8)>) -> (<Tensor[Float16], (64, 8)>)
      # Fullname with scope: (Gradients/Default/network-Step/nll/Grad_AllReduce/AllReduce-op4)
  Return(%2)
}}

subgraph @4_update(%para5_x) {{
  %0(a) = AllReduce(%para5_x) {{instance name: PARALLEL_GLOBALNORM_IN_STAGES}} primitive_attrs: \
{{group_rank_ids: (0, 1, 2, 3)}}
      : (<Tensor[Float32], (1)>) -> (<Tensor[Float32], (1)>)
      # Fullname with scope: (Default/network-Step/AllReduce-op0)
  Return(%0)
}}

subgraph @5_skip(%para6_x) {{
  Return(%para6_x)
}}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    (tmp_path / "step.ir").write_text(TEXT)
    return read_graph(tmp_path / "step.ir", frozenset(KINDS))


def test_functions_are_counted_along_every_call(graph: Graph) -> None:
    assert graph.runs == {"1_step_construct": 1, "2_forward": 2, "3_backward": 2, "4_update": 1, "5_skip": 1}


def test_recomputed_operators_are_those_that_were_duplicated(graph: Graph) -> None:
    assert [node.operator for node in graph.recomputed] == ["AllReduce", "MatMul"]


def test_every_collective_with_layer_phase_bytes_and_times(graph: Graph) -> None:
    found = read_collectives(graph, 0, 4, {})
    gathered, forward, sent, again, backward, norm = found
    gamma = "backbone.blocks.1.layernorm1.gamma"
    assert gathered == CompiledCollective("all_gather", (0, 1, 2, 3), 256, "fp32", 1, "step", gamma, 1, 3)
    assert forward == CompiledCollective("all_reduce", (0, 1), 1024, "fp16", 1, "forward", "attention.projection", 2)
    assert (sent.op, sent.group, sent.bytes, sent.times) == ("send", (0, 4), 1024, 2)
    assert (again.phase, again.layer, again.times) == ("recompute", 1, 2)
    # its scope names another place: the forward collective that it belongs to says the layer
    assert (backward.phase, backward.layer, backward.name) == ("backward", 1, "attention.projection.gradient")
    assert (norm.phase, norm.name, norm.group, norm.bytes) == ("step", "norm", (0, 1, 2, 3), 4)


def test_differences_are_named(graph: Graph) -> None:
    counted = of_mindspore(read_collectives(graph, 0, 4, {}))
    assert differences(counted, counted) == []
    one = CollectiveKind("forward", 1, "all_reduce", (0, 1), 1024, "fp16")
    (found,) = differences(Counter({**counted, one: 3}), counted)
    assert str(found) == "forward, layer 1: all_reduce of 1024 bytes fp16 over 0 1: emulator 3, MindSpore 2"
    assert ranks_text(tuple(range(0, 512, 8))) == "0, 8, .. 504 (64 ranks)"


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a graph\n")
    with pytest.raises(UserError, match="is not a graph"):
        read_graph(tmp_path / "notes.txt", frozenset(KINDS))


def test_fusion_numbers_are_mindspores() -> None:
    # sizes in MB of fp32 gradients in the order of use, and the numbers that a compiled graph gave them for 8 MB
    sizes = [
        15.6,
        0.125,
        0.004,
        4,
        0.004,
        4,
        0.004,
        4,
        0.004,
        4,
        0.004,
        0.004,
        16,
        0.016,
        16,
        0.004,
        0.125,
        4,
        0.004,
        4,
    ]
    found = numbers([round(size * 2**20) for size in sizes], 8 * 2**20)
    assert found == [1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 6, 6, 7]
    assert numbers([], 1) == []


def test_what_is_fused_has_one_group() -> None:
    asked = setup_of(
        tiny_model("pangu", 3), batch={"global": 4, "micro": 2}, mesh={"dp": 2, "tp": 2}, framework="mindspore-2.10"
    )
    records = collectives_of(asked, 0)
    fused = of_emulator(records, None)
    assert {one.group: (one.members, one.bytes) for one in fused} == {
        group: (len(sizes), sum(sizes)) for group, sizes in gradients_by_group(records).items()
    }
    alone = of_emulator(records, 1)  # nothing fits to another
    assert sum(alone.values()) == sum(one.members for one in fused)


def gradients_by_group(records: list[Record]) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for record in records:
        if record.name.startswith("gradients."):
            found.setdefault(record.group, []).append(record.bytes)
    return found


REDISTRIBUTED = """# IR entry: @1_step
subgraph @1_step(%para1_x) {
  %0(a) = PrimFunc_Cast(%para1_x, I64(42)) cnode_attrs: {duplicated: Bool(1)}
      : (<Tensor[Float32], (1, 16, 64)>) -> (<Tensor[Float16], (1, 16, 64)>)
  %1(b) = PrimFunc_Reshape(%0, %9) {instance name: redistribution_op_1}
      : (<Tensor[Float16], (1, 16, 64)>) -> (<Tensor[Float16], (16, 64)>)
  %2(c) = AllGather(%1) {instance name: redistribution_op_2} primitive_attrs: {group_rank_ids: (0, 1)}
      : (<Tensor[Float16], (16, 64)>) -> (<Tensor[Float16], (32, 64)>)
      # Fullname with scope: (recompute_Default/blocks-CellList/3-Block/attention-Attention/dense3-Linear/AllGather-op1)
  %3(d) = AllGather(%para1_x) {instance name: redistribution_op_2} primitive_attrs: {group_rank_ids: (0, 1)}
      : (<Tensor[Float16], (16, 64)>) -> (<Tensor[Float16], (32, 64)>)
      # Fullname with scope: (recompute_Default/blocks-CellList/3-Block/attention-Attention/dense3-Linear/AllGather-op0)
  %4(e) = AllGather(%para1_x) {instance name: redistribution_op_2} primitive_attrs: {group_rank_ids: (0, 2)}
      : (<Tensor[Int32], (2, 33)>) -> (<Tensor[Int32], (4, 33)>)
      # Fullname with scope: (Default/network-Step/AllGather-op0)
  %5(f) = ReduceScatter(%3) {instance name: _grad_accumulation_shard_grad_VirtualAssignAdd} \
primitive_attrs: {group_rank_ids: (0, 2)}
      : (<Tensor[Float32], (64, 64)>) -> (<Tensor[Float32], (32, 64)>)
      # Fullname with scope: (Gradients/Default/Grad__VirtualAssignAdd/ReduceScatter-op1)
  Return(%5)
}
"""


def test_changes_of_layout_are_activations_but_for_the_rows(tmp_path: Path) -> None:
    (tmp_path / "graph.ir").write_text(REDISTRIBUTED)
    found = read_collectives(read_graph(tmp_path / "graph.ir", frozenset(KINDS)), 0, 8, {})
    seen = [(one.op, one.phase, one.layer, one.bytes) for one in found]
    assert seen == [
        ("all_gather", "recompute", 3, 4096),  # made of what runs again
        ("all_gather", "forward", 3, 4096),
        ("all_gather", "step", -1, 528),  # of token ids
        ("reduce_scatter", "step", 8, 16384),  # a micro-batch's gradients
    ]
