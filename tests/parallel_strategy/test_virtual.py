"""Virtual devices compute what one device computes, under every layout, and log what the emulator counts."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from parallel_strategy.graph.operator import Collective
from parallel_strategy.graph.program import Program
from parallel_strategy.schedule.orders import Task
from parallel_strategy.schedule.simulate import Deadlock
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual import proof as proof_module
from parallel_strategy.virtual.batch import draw_rows, predictions, tokens_of
from parallel_strategy.virtual.exchange import all_gather, all_reduce, all_to_all, reduce_scatter
from parallel_strategy.virtual.machine import Machine
from parallel_strategy.virtual.proof import prove
from parallel_strategy.virtual.serial import draw_weights, loss_and_gradients
from tests.parallel_strategy.layouts import KINDS, SCHEDULES, layouts, tiny_model
from tests.parallel_strategy.strategies import setup_of

DRAWN = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(DRAWN, max_examples=80)
@given(layouts(8))
def test_any_layout_equals_one_device_and_its_log_the_list(asked):
    asked.strategy.check_model(asked.model)
    proof = prove(asked)
    assert proof.equal, (proof.problem, proof.differences)


@settings(DRAWN, max_examples=15)
@given(layouts(8))
def test_any_layout_in_float32(asked):
    proof = prove(asked, "float32")
    assert proof.equal, (proof.problem, proof.differences)


@pytest.mark.parametrize("mesh", [{"dp": 2, "tp": 2}, {"dp": 2, "tp": 2, "ep": 2}, {"dp": 3, "tp": 2, "etp": 1}])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_second_bias_of_experts_counts_once(mesh, sequence_parallel):
    """Also where a recomputation keeps what collectives have brought, and where other ranks split an expert."""
    asked = setup_of(
        tiny_model("experts", 2), "cloudbrain2-2048", "mindspore-2.10",
        mesh=mesh, batch={"global": 12, "micro": 2}, recompute={"mode": "full", "mp_comm": False},
        tensor={"sequence_parallel": sequence_parallel},
    )  # fmt: skip
    proof = prove(asked)
    assert proof.equal, (proof.problem, proof.differences)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_with_every_level_of_optimizer_sharding(schedule, level):
    vpp = 2 if schedule in ("interleaved", "mindspore_vpp", "mindspore_vpp_less_memory") else 1
    asked = setup_of(
        tiny_model("pangu", 5), "cloudbrain2-2048", "mindspore",
        batch={"global": 8}, mesh={"pp": 2, "dp": 2, "tp": 2}, pipeline={"schedule": schedule, "vpp": vpp},
        zero={"optimizer_shard": level > 0, "level": max(1, level)},
        recompute={"mode": ("full", "none", "selective", "full")[level]},
    )  # fmt: skip
    proof = prove(asked, steps=1)
    assert proof.equal, (proof.problem, proof.differences)


@pytest.mark.parametrize("mesh", [{"pp": 4, "dp": 4, "tp": 4}, {"pp": 2, "dp": 4, "cp": 2, "tp": 4}])
def test_sixty_four_devices(mesh):
    asked = setup_of(
        tiny_model("pangu", 4), "cloudbrain2-2048", "mindspore", batch={"global": 16}, mesh=mesh,
        zero={"optimizer_shard": True}, recompute={"mode": "full"},
    )  # fmt: skip
    proof = prove(asked, steps=1)
    assert proof.devices == 64 and proof.equal, (proof.problem, proof.differences)


def test_the_network_is_the_same_under_every_layout():
    """The original put the last norm elsewhere as soon as there was a pipeline: the two are different networks, and
    each stays what it is whatever the stages."""
    losses = set()
    for norm in ("before_query", "after_query"):
        model = ModelSpec(**{**tiny_model("pangu", 4).model_dump(), "final_norm": norm})
        for pp in (1, 2, 4):
            asked = setup_of(model, batch={"global": 8}, mesh={"pp": pp})
            weights = draw_weights(model, np.float64, seed=1)
            losses.add((norm, round(Machine(Program(asked), weights).step(draw_rows(8, 8, 24, seed=3))[0], 10)))
    assert len(losses) == 2 and len({loss for _, loss in losses}) == 2


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
def test_gradients_of_the_serial_model_are_its_slopes(kind):
    model = tiny_model(kind, 3, kv_heads=2, dropout=0.1)
    weights = draw_weights(model, np.float64, seed=1)
    rows = draw_rows(4, 8, 24, seed=0)
    tokens, divisor = tokens_of(rows, np.float64), predictions(rows)
    _, gradients = loss_and_gradients(model, weights, tokens, divisor)
    random = np.random.default_rng(3)
    for name, weight in weights.items():
        direction = random.standard_normal(weight.shape)
        ends = [
            loss_and_gradients(model, {**weights, name: weight + sign * 1e-6 * direction}, tokens, divisor)[0]
            for sign in (1, -1)
        ]
        slope = (ends[0] - ends[1]) / 2e-6
        assert (gradients[name] * direction).sum() == pytest.approx(slope, rel=1e-4, abs=1e-7), name


def test_collectives_of_a_list_of_shards():
    shards = [np.arange(8.0).reshape(2, 4) + 10 * rank for rank in range(2)]
    assert (all_reduce(shards, 0)[1] == shards[0] + shards[1]).all()
    assert all_gather(shards, 1)[0].shape == (2, 8)
    assert (np.concatenate(reduce_scatter(shards, 1), axis=1) == shards[0] + shards[1]).all()
    there = all_to_all(shards, 1)
    assert (there[0] == np.concatenate([shards[0][:1], shards[1][:1]], axis=1)).all()
    assert all((a == b).all() for a, b in zip(all_to_all(there, -1), shards, strict=True))


# --- what must be noticed ---


def broken(asked, change):
    """The proof of a program to which `change` did something; its list of collectives is the changed one's."""

    def built(setup):
        program = Program(setup)
        change(program)
        return program

    with patch.object(proof_module, "Program", built):
        return prove(asked)


def drop(kind: str, name: str):
    def change(program: Program) -> None:
        block, found = program.blocks[kind], 0
        for nodes in (block.forward, *block.undoing):
            for node in [n for n in nodes if isinstance(n, Collective) and n.name == name]:
                nodes.remove(node)
                found += 1
        assert found

    return change


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("layer", "attention.output"),
        ("layer", "feed_forward.input.gradient"),
        ("query", "attention.input.gradient"),
        ("embedding", "embedding.word"),
        ("head", "head.input.gradient"),
        ("head", "head.loss.sum"),
    ],
)
def test_a_dropped_collective_is_noticed(kind, name):
    asked = setup_of(tiny_model("pangu", 3), batch={"global": 4}, mesh={"dp": 2, "tp": 2})
    assert prove(asked).equal
    assert not broken(asked, drop(kind, name)).equal


@pytest.mark.parametrize("name", ["attention.input", "attention.input.again.gradient", "attention.output.gradient"])
def test_a_dropped_collective_of_sequence_parallelism_is_noticed(name):
    asked = setup_of(
        tiny_model("gpt", 3), batch={"global": 4}, mesh={"dp": 2, "tp": 2}, tensor={"sequence_parallel": True}
    )
    assert prove(asked).equal
    assert not broken(asked, drop("layer", name)).equal


@pytest.mark.parametrize(
    ("axis", "order"),
    [("tp", ["tp", "dp", "pp"]), ("weights", ["dp", "tp", "pp"]), ("embedding", ["pp", "dp", "tp"])],
)
def test_a_wrong_group_is_noticed(axis, order):
    """Neighbours in rank instead of the ranks of the axis."""

    def change(program: Program) -> None:
        right = program.groups.members

        def members(asked_axis: str, rank: int) -> tuple[int, ...]:
            group = right(asked_axis, rank)
            first = rank // len(group) * len(group)
            return tuple(range(first, first + len(group))) if asked_axis == axis else group

        program.groups.members = members

    mesh = {"pp": 2, "dp": 2, "tp": 2, "order": order}
    asked = setup_of(tiny_model("pangu", 4), batch={"global": 4}, mesh=mesh)
    assert prove(asked).equal
    assert not broken(asked, change).equal


@pytest.mark.parametrize("flag", ["partial_over_tp", "replicated_over_tp"])
def test_a_weight_of_the_wrong_kind_is_noticed(flag):
    """A norm whose gradient is not summed over the tensor group, or that the global norm counts too often."""

    def change(program: Program) -> None:
        block = program.blocks["layer"]
        block.parameters[0] = replace(block.parameters[0], **{flag: False})

    asked = setup_of(
        tiny_model("pangu", 4), batch={"global": 4}, mesh={"dp": 2, "tp": 2}, tensor={"sequence_parallel": True}
    )
    assert not broken(asked, change).equal


def test_a_deadlock_is_said_so():
    asked = setup_of(tiny_model("pangu", 4), batch={"global": 4}, mesh={"pp": 2})
    machine = Machine(Program(asked), draw_weights(asked.model, np.float64, seed=1))
    machine.order = [[Task("B", 0, 0), Task("F", 0, 0)], [Task("F", 1, 0), Task("B", 1, 0)]]
    with pytest.raises(Deadlock, match="stage 0 waits"):
        machine.step(draw_rows(4, 8, 24, seed=0))
