"""Shapes, FLOPs, parameters and activation bytes, against counts that are known exactly."""

from collections import Counter

import pytest

from parallel_strategy.graph.collectives import collectives_of
from parallel_strategy.graph.layer import Shard, build_layer
from parallel_strategy.graph.operator import Phase
from parallel_strategy.graph.program import Program, model_parameters
from parallel_strategy.graph.tasks import Tasks
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from tests.parallel_strategy.strategies import setup_of


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("pangu-alpha-350m", 345_368_576),
        ("pangu-alpha-2.6b", 2_625_295_360),
        ("pangu-alpha-13b", 12_800_870_400),
        ("llama2-7b", 6_738_415_616),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-405b", 405_853_388_800),
    ],
)
def test_parameters_are_exact(preset, parameters):
    assert model_parameters(ModelSpec.preset(preset)) == parameters


def test_mixtures_of_experts_have_their_published_sizes():
    assert model_parameters(ModelSpec.preset("mixtral-8x7b")) == pytest.approx(46.7e9, rel=0.002)
    # 671 billion and 11.5 of the prediction layer
    assert model_parameters(ModelSpec.preset("deepseek-v3")) == pytest.approx(682.5e9, rel=0.002)


@pytest.mark.parametrize("tp", [1, 2, 8])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_activations_of_a_layer_are_those_of_korthikanti(tp, sequence_parallel):
    """s b h (10 + 24 / t + 5 a s / (h t)), all of it over t with sequence parallelism (arXiv:2205.05198, table 2)."""
    model = ModelSpec.preset("gpt-22b")
    s, b, h, a = model.seq_length, 4, model.hidden_size, model.num_heads
    block = build_layer(
        model,
        FrameworkSpec(name="test"),
        Shard(b, tp=tp, sequence_parallel=sequence_parallel and tp > 1),
        experts=False,
    )
    apart = 10 / tp if sequence_parallel else 10
    assert block.saved_bytes == pytest.approx(s * b * h * (apart + 24 / tp + 5 * a * s / (h * tp)))
    assert block.attention_bytes == pytest.approx(5 * a * s * s * b / tp)
    assert block.input_bytes == pytest.approx(2 * s * b * h / (tp if sequence_parallel else 1))


@pytest.mark.parametrize("preset", ["gpt-22b", "gpt-175b"])
def test_flops_of_a_step_are_narayanans(preset):
    """72 B s l h^2 (1 + s / 6 h + V / 12 l h) without recomputation (arXiv:2104.04473, appendix)."""
    model = ModelSpec.preset(preset)
    asked = setup_of(model, framework="megatron-lm-2022", batch={"global": 8, "micro": 2}, mesh={"tp": 8})
    s, layers, h, v = model.seq_length, model.num_layers, model.hidden_size, model.vocab_size
    assert Program(asked).flops_per_step() == pytest.approx(
        72 * 8 * s * layers * h * h * (1 + s / (6 * h) + v / (12 * layers * h))
    )


def test_flops_do_not_depend_on_the_layout():
    model = ModelSpec.preset("gpt-6.7b")
    layouts = [{"tp": 1}, {"tp": 4}, {"tp": 2, "pp": 4}, {"tp": 2, "dp": 2, "pp": 2}]
    totals = {
        Program(setup_of(model, framework="megatron-lm-2022", batch={"global": 16}, mesh=mesh)).flops_per_step()
        for mesh in layouts
    }
    assert max(totals) == pytest.approx(min(totals))


def test_parameters_over_ranks_add_up_to_the_model():
    model = ModelSpec.preset("pangu-alpha-2.6b")
    asked = setup_of(model, "cloudbrain2-2048", "mindspore", batch={"global": 8}, mesh={"pp": 4, "tp": 4})
    program = Program(asked)
    total = 0.0
    for chunk in program.chunks:
        for piece in chunk.pieces:
            count = 1 if piece.block.kind == "head" else piece.count
            total += count * sum(p.elements * (1 if p.replicated_over_tp else 4) for p in piece.block.parameters)
    biases = sum(
        piece.count * p.elements * 3
        for chunk in program.chunks
        for piece in chunk.pieces
        for p in piece.block.parameters
        if not p.replicated_over_tp and p.name.endswith((".output.bias", ".down.bias"))
    )
    tied = model.vocab_size * model.hidden_size  # first and last stage both hold the word table
    assert total - tied - biases == model_parameters(model)


def test_tensor_parallel_collectives_of_a_layer():
    """Two all-reduces forward and two backward; with sequence parallelism pairs of gather and scatter instead."""
    model, framework = ModelSpec.preset("gpt-22b"), FrameworkSpec(name="test")
    plain = build_layer(model, framework, Shard(1, tp=8), experts=False)
    size = 2 * model.seq_length * model.hidden_size
    assert [(c.op, c.bytes) for c in plain.collectives if c.phase == Phase.FORWARD] == [("all_reduce", size)] * 2
    assert [(c.op, c.bytes) for c in plain.collectives if c.phase == Phase.BACKWARD_INPUT] == [("all_reduce", size)] * 2
    split = build_layer(model, framework, Shard(1, tp=8, sequence_parallel=True), experts=False)
    forward = [c.op for c in split.collectives if c.phase == Phase.FORWARD]
    assert sorted(forward) == ["all_gather", "all_gather", "reduce_scatter", "reduce_scatter"]
    assert len(split.collectives) == 10  # and in backward each input is gathered once more


def test_tasks_have_layer_and_phase_in_execution_order():
    model = ModelSpec.preset("pangu-alpha-350m")
    asked = setup_of(
        model, "cloudbrain2-2048", "mindspore", batch={"global": 4}, mesh={"pp": 2, "tp": 2}, recompute={"mode": "full"}
    )
    program = Program(asked)
    tasks = Tasks(program)
    forward, backward = tasks.steps("F", 1), tasks.steps("B", 1)
    assert {step.phase for step in forward} == {"forward"}
    assert {step.phase for step in backward} == {"recompute", "backward"}
    assert max(step.layer for step in forward) == model.num_layers
    assert forward[0].work.name == "receive_activation" and forward[0].work.bytes == 2 * 1024 * 1024
    names = [step.work.name for step in forward]
    assert names.index("attention.norm") < names.index("attention.query") < names.index("attention.core.scores")
    assert names.index("attention.output") + 1 == names.index("attention.output", names.index("attention.output") + 1)
    undone = [step.work.name for step in backward if step.phase == "backward" and step.layer == model.num_layers - 1]
    order = ["feed_forward.down.input_gradient", "feed_forward.input.gradient", "attention.core.scores.input_gradient"]
    assert sorted(order, key=undone.index) == order


def test_a_schedule_that_splits_backward_runs_every_node_once():
    model = ModelSpec.preset("pangu-alpha-350m")
    whole, split = (
        Tasks(Program(setup_of(model, batch={"global": 8}, mesh={"pp": 2, "tp": 2}, pipeline={"schedule": schedule})))
        for schedule in ("1f1b", "zb_h1")
    )
    for chunk in range(2):
        both = [*split.steps("B", chunk), *split.steps("W", chunk)]
        assert sorted(both, key=repr) == sorted(whole.steps("B", chunk), key=repr)
        assert all(
            "weight_gradient" not in step.work.name or ".core" in step.work.name for step in split.steps("B", chunk)
        )


def test_the_query_layer_is_the_last_and_has_its_own_table():
    program = Program(
        setup_of(ModelSpec.preset("pangu-alpha-2.6b"), "cloudbrain2-2048", "mindspore", batch={"global": 1})
    )
    kinds = [piece.block.kind for piece in program.chunks[0].pieces]
    assert kinds == ["embedding", "layer", "query", "head"]
    assert any(p.name == "query_embedding.weight" for p in program.blocks["query"].parameters)


def compiled(mesh: dict, **fields):
    """A four-layer PanGu-alpha as MindSpore 2.10 compiles it: counts of a rank's collectives by operation and phase."""
    model = ModelSpec(num_layers=4, hidden_size=64, num_heads=8, ffn_hidden_size=256, seq_length=32, vocab_size=128,
                      query_layer=True)  # fmt: skip
    asked = setup_of(model, "cloudbrain2-2048", "mindspore-2.10", batch={"global": 8}, mesh=mesh, **fields)
    return [collectives_of(asked, rank) for rank in range(8)]


def test_mindspore_gathers_and_reduces_every_weight_by_itself():
    """69 of each with optimizer sharding on 8 devices, as its dry-run shows for this network."""
    records = compiled({"dp": 8}, zero={"optimizer_shard": True, "threshold_kb": 0})[0]
    counts = Counter(record.op for record in records)
    assert counts["all_gather"] == counts["reduce_scatter"] == 69
    assert counts["all_reduce"] == 3  # the loss, its gradient, and the norm
    small = compiled({"dp": 8}, zero={"optimizer_shard": True, "threshold_kb": 1})[0]
    assert Counter(record.op for record in small)["reduce_scatter"] < 69
    named = compiled({"dp": 8}, zero={"optimizer_shard": True, "threshold_kb": 0, "whole": ["*layernorm*"]})[0]
    assert Counter(record.op for record in named)["reduce_scatter"] == 69 - 2 * (2 * 4 + 1)


def test_mindspores_gradients_stay_partial_until_a_sums_conjugate():
    records = compiled({"tp": 8}, tensor={"vocab": "split"})[0]
    first = [r for r in records if r.micro_batch == 0 and r.axis == "tp"]
    names = Counter((r.phase, r.name) for r in first if r.layer == 1)
    assert names == {
        ("forward", "attention.output"): 1, ("forward", "feed_forward.output"): 1,
        ("backward", "attention.output.gradient"): 1, ("backward", "feed_forward.output.gradient"): 1,
    }  # fmt: skip
    assert {r.group for r in records if r.name == "gradients.attention.norm.weight"} == {tuple(range(8))}
    assert not [r for r in records if r.name == "gradients.attention.query.weight"]  # split, and nobody holds a copy
    again = compiled({"tp": 8}, recompute={"mode": "full"})[0]
    assert {r.name for r in again if r.phase == "recompute"} == {"attention.output"}


def test_both_ends_of_every_message_are_listed():
    records = compiled({"pp": 4, "dp": 2}, pipeline={"schedule": "1f1b"})
    sent = Counter((r.group, r.bytes, r.phase, r.micro_batch) for one in records for r in one if r.op == "send")
    got = Counter((r.group, r.bytes, r.phase, r.micro_batch) for one in records for r in one if r.op == "receive")
    assert sent == got and sum(sent.values()) == 3 * 2 * 4 * 2


@pytest.mark.parametrize("order", [["pp", "dp", "cp", "tp"], ["tp", "cp", "pp", "dp"]])
def test_groups_are_disjoint_and_of_their_size(order):
    asked = setup_of(
        ModelSpec.preset("mixtral-8x7b"), batch={"global": 8},
        mesh={"pp": 2, "dp": 4, "cp": 2, "tp": 2, "ep": 4, "order": order},
        zero={"optimizer_shard": True, "weight_shard_size": 2},
    )  # fmt: skip
    program = Program(asked)
    for axis in ("pp", "dp", "cp", "tp", "weights", "weights_tp", "stage", "shard", "replica", "shard_tp", "replica_tp",
                 "ep", "expert_dp", "expert_shard", "expert_replica", "expert_dp_tp", "expert_shard_tp",
                 "expert_replica_tp", "embedding", "model", "world"):  # fmt: skip
        groups = {program.groups.members(axis, rank) for rank in range(32)}
        assert {len(group) for group in groups} == {program.group(axis)[0]}, axis
        assert sorted(rank for group in groups for rank in group) == list(range(32)), axis
        assert all(rank in program.groups.members(axis, rank) for rank in range(32))
