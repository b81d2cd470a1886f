"""Kernels, collectives, memory: monotone where they must be, equal to formulas where there are some."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_strategy.cost.block_table import BlockTable
from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.kernel import kernel_seconds, matmul_seconds
from parallel_strategy.cost.price import Price
from parallel_strategy.cost.step_end import StepTraffic, gradients_exposed
from parallel_strategy.graph.operator import Kernel, KernelTable, Phase
from parallel_strategy.graph.program import Program
from parallel_strategy.graph.stages import SLOTS
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.cluster import ClusterSpec, Device
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from tests.parallel_strategy import published
from tests.parallel_strategy.strategies import setup_of

DEVICE = ClusterSpec.preset("dgx-a100").device


def seconds(m: int, n: int, k: int, batch: int = 1) -> float:
    return float(matmul_seconds(DEVICE, "fp16", *(np.array([float(x)]) for x in (m, n, k, batch)))[0])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_a_matmul_never_beats_the_peak_and_grows_with_its_size(m, n, k):
    m, n, k = 64 * m, 64 * n, 64 * k
    time = seconds(m, n, k)
    assert 2.0 * m * n * k / time <= DEVICE.peak("fp16")
    assert seconds(2 * m, n, k) >= time and seconds(m, n, 2 * k) >= time


def test_waves_and_alignment_show():
    cores = DEVICE.gemm.cores
    assert seconds(128 * (cores + 1), 256, 4096) > 1.2 * seconds(128 * cores, 256, 4096)
    assert seconds(4096, 4096, 100) > seconds(4096, 4096, 104)  # 100 is no multiple of 8


def test_all_reduce_is_twice_a_gather_and_cards_are_shared():
    network = Network(ClusterSpec.preset("a100-hdr-800"), 800)
    size = 2.0**30
    whole = network.seconds("all_reduce", size, 64, 1)  # 8 servers, all devices of each
    alone = network.seconds("all_reduce", size, 8, 8)  # one device of each server, its 7 neighbours do the same
    assert alone > 5 * whole
    gather = network.seconds("all_gather", size, 64, 1)
    assert whole == pytest.approx(2 * gather, rel=0.05)
    assert network.outermost_level(8, 1) == "server" and network.outermost_level(8, 8) == "network"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"]),
    st.integers(1, 9),
    st.sampled_from([1, 2, 8, 16]),
    st.floats(3.0, 10.0),
    st.floats(1.0, 8.0),
)
def test_more_bandwidth_is_never_slower(op, members, stride, digits, faster):
    cluster = ClusterSpec.preset("a100-hdr-800")
    levels = [
        level.model_copy(
            update={
                "nic_gbit": level.nic_gbit and level.nic_gbit * faster,
                "bus_gbps": level.bus_gbps and {n: rate * faster for n, rate in level.bus_gbps.items()},
            }
        )
        for level in cluster.topology
    ]
    slow, fast = Network(cluster, 8192), Network(cluster.model_copy(update={"topology": levels}), 8192)
    for size in (2, 2**members):
        spent = slow.seconds(op, 10**digits, size, stride)
        assert fast.seconds(op, 10**digits, size, stride) <= spent * (1 + 1e-12)


def test_a_ring_through_more_members_begins_later():
    """NCCL gathers and reduce-scatters in rings only; HCCL has other ways."""
    nvidia, ascend = (Network(ClusterSpec.preset(name), 1024) for name in ("a100-hdr-800", "atlas-800t-a2-910b2"))
    for op in ("all_gather", "reduce_scatter"):
        starts = [nvidia.seconds(op, 1e4, size, 1) for size in (8, 64, 1024)]
        assert starts[1] > 2 * starts[0] and starts[2] > 10 * starts[1]
        assert ascend.seconds(op, 1e4, 1024, 1) < 5 * ascend.seconds(op, 1e4, 8, 1)
    assert nvidia.seconds("all_reduce", 1e4, 1024, 1) < starts[2] / 5  # a tree


def errors_of(runs) -> list[float]:
    return [abs(Prediction(setup).closed_form_seconds / seconds - 1) for setup, seconds in runs]


def test_weights_gathered_by_thousands_of_ranks_take_as_long_as_measured():
    errors = errors_of(published.zero_3())
    assert np.mean(errors) < 0.12 and max(errors) < 0.17


def test_an_optimizer_shared_out_over_a_thousand_ranks_is_slower_than_over_eight():
    runs = [published.internevo(1, *case) for case in ((-1, 1024), (8, 1024), (-1, 8), (8, 8))]
    assert max(errors_of(runs)) < 0.15
    everywhere, inside = (Prediction(setup).closed_form_seconds for setup, _ in runs[:2])
    assert everywhere > 1.5 * inside


def test_a_card_with_less_power_computes_more_slowly_and_moves_memory_as_fast():
    device = ClusterSpec.preset("h100-500w").device
    full = device.model_copy(update={"power_watts": None})
    large = [np.array([float(n)]) for n in (8192, 8192, 8192, 1)]
    assert 1.1 < float(matmul_seconds(device, "bf16", *large)[0] / matmul_seconds(full, "bf16", *large)[0]) < 1.3
    assert device.model_copy(update={"power_watts": 900.0}).clock == 1.0
    with pytest.raises(ValueError, match="rated_watts"):
        Device.model_validate(device.model_dump() | {"rated_watts": None})


@pytest.mark.parametrize("cluster", ["dgx-a100", "atlas-800t-a2-910b2"])
def test_a_few_tokens_more_change_the_time_in_proportion(cluster):
    model = ModelSpec.preset("gpt-1.3b")
    seconds = []
    for tokens in (2043, 2048, 2053):
        changed = model.model_copy(update={"seq_length": tokens})
        seconds.append(Prediction(setup_of(changed, cluster, batch={"global": 8}, mesh={"dp": 8})).seconds)
    assert max(seconds) / min(seconds) < 1.02


def test_weights_that_stay_gathered_save_time_and_take_memory():
    setup = setup_of(
        ModelSpec.preset("llama2-13b"),
        "h100-500w",
        "torchtitan",
        batch={"global": 64},
        mesh={"pp": 2, "dp": 4},
        zero={"optimizer_shard": True, "level": 3},
    )
    resharded = setup.framework.model_copy(update={"keeps_gathered": False})
    kept, again = Prediction(setup), Prediction(setup.model_copy(update={"framework": resharded}))
    assert kept.seconds < again.seconds
    half = 13.0e9 / 2  # parameters of a stage: bf16 weights and fp32 gradients beside the shards
    assert (kept.gib - again.gib) * 2**30 == pytest.approx(6 * half, rel=0.05)


def test_a_pipeline_of_deepspeed_has_the_published_speed_of_mt_nlg():
    assert max(errors_of(published.mt_nlg())) < 0.098  # what a constant reaches


def test_pcie_between_the_groups_of_a_server_decides_eight_way_tensor_parallelism():
    network = Network(ClusterSpec.preset("atlas-800-910a"), 64)
    assert network.seconds("all_reduce", 1e8, 8, 1) > 2 * network.seconds("all_reduce", 1e8, 4, 1)


def test_measured_all_reduces_of_eight_a100_are_met(shared):
    network = Network(ClusterSpec.preset("dgx-a100"), 64)
    errors = []
    with (shared / "validation/collectives/allreduce_a100_v100_vtrain.csv").open() as file:
        for row in csv.DictReader(file):
            if row["gpu"] == "a100" and row["n_gpus"] in ("2", "4", "8"):
                measured = float(row["time_us_outofplace"]) * 1e-6
                errors.append(
                    abs(network.seconds("all_reduce", float(row["bytes"]), int(row["n_gpus"]), 1) / measured - 1)
                )
    assert np.mean(errors) < 0.12


def test_weights_gradients_and_states_by_level_of_sharding():
    model = ModelSpec.preset("gpt-6.7b")
    found = []
    for zero in ({"optimizer_shard": False}, *({"optimizer_shard": True, "level": level} for level in (1, 2, 3))):
        asked = setup_of(model, framework="megatron-deepspeed", batch={"global": 8}, mesh={"dp": 8}, zero=zero)
        memory = Prediction(asked).stage_memory[0]
        found.append((memory.weights, memory.gradients, memory.optimizer))
    plain = found[0]
    for level, (weights, gradients, optimizer) in enumerate(found):
        assert optimizer == pytest.approx(plain[2] / (8 if level >= 1 else 1))
        assert gradients == pytest.approx(plain[1] / (8 if level >= 2 else 1))
        assert weights == pytest.approx(plain[0] / (8 if level >= 3 else 1))


def test_host_adam_moves_the_states_off_the_device():
    fields = {"batch": {"global": 8}, "mesh": {"dp": 8}}
    model = ModelSpec.preset("pangu-alpha-2.6b")
    here = Prediction(setup_of(model, "atlas-800-910a", "mindspore", **fields))
    there = Prediction(setup_of(model, "atlas-800-910a", "mindspore", **fields, offload={"optimizer": True}))
    assert there.stage_memory[0].optimizer == 0 < here.stage_memory[0].optimizer
    assert there.seconds > here.seconds


def test_recomputation_trades_time_for_memory():
    model = ModelSpec.preset("gpt-6.7b")
    results = [
        Prediction(
            setup_of(
                model,
                framework="megatron-lm-2022",
                batch={"global": 16, "micro": 2},
                mesh={"tp": 8},
                recompute={"mode": mode},
            )
        )
        for mode in ("none", "selective", "full")
    ]
    assert results[0].seconds < results[1].seconds < results[2].seconds
    assert results[0].gib > results[1].gib > results[2].gib


def test_earlier_stages_hold_more_under_1f1b_and_all_the_same_under_gpipe():
    model = ModelSpec.preset("gpt-6.7b")
    fields = {"batch": {"global": 32}, "mesh": {"pp": 4}, "framework": "megatron-lm-2022"}
    kept = [m.activations for m in Prediction(setup_of(model, **fields)).stage_memory]
    assert kept[0] > kept[1] > kept[2]
    gpipe = [m.activations for m in Prediction(setup_of(model, **fields, pipeline={"schedule": "gpipe"})).stage_memory]
    assert gpipe[1] == pytest.approx(gpipe[2]) and gpipe[1] > 5 * kept[1]


def priced(**fields):
    base = {"batch": {"global": 64, "micro": 2}, "mesh": {"dp": 4, "tp": 8}}
    return Prediction(setup_of(ModelSpec.preset("pangu-alpha-13b"), "atlas-800-910a", "mindspore", **(base | fields)))


def test_halves_of_a_micro_batch_hide_the_tensor_groups_traffic():
    plain, halves = priced(), priced(tensor={"interleave": 2})
    assert halves.seconds < plain.seconds
    busy = sum(c.forward + c.backward for c in halves.chunks)
    assert busy > sum(plain.price.block(b).forward.device for b in plain.program.blocks.values())  # not for nothing


def test_buckets_trade_starts_for_overlap():
    """Small buckets pay for their starts; a whole model in one bucket has nothing left to hide behind."""
    times = {size: priced(zero={"bucket_mb": size}).tails[0].gradient_reduce for size in (0.05, 50, 1e6)}
    assert times[50] < times[0.05] and times[50] < times[1e6]


def test_small_weights_stay_whole_below_the_threshold():
    def states(**zero) -> float:
        plain = priced(zero=zero).setup
        framework = plain.framework.model_copy(update={"parameter_collectives": True})
        return Prediction(plain.model_copy(update={"framework": framework})).stage_memory[0].optimizer

    all_cut, some_whole = states(optimizer_shard=True, threshold_kb=0), states(optimizer_shard=True, threshold_kb=64)
    assert all_cut < some_whole < 1.01 * all_cut
    assert states(optimizer_shard=True, threshold_kb=10**9) == pytest.approx(states(optimizer_shard=False))


def test_eight_bits_are_faster_but_not_twice_as_fast():
    """Inputs and gradients are quantized before each product."""
    model = ModelSpec.preset("gpt-6.7b")
    times = {}
    for dtype in ("bf16", "fp8", "fp4"):
        asked = setup_of(
            model.model_copy(update={"compute_dtype": dtype}),
            "dgx-b200",
            batch={"global": 64, "micro": 4},
            mesh={"dp": 8},
        )
        times[dtype] = Prediction(asked).chunks[0].forward
    assert 1.1 < times["bf16"] / times["fp8"] < 1.9 and times["fp4"] < times["fp8"]


def test_with_one_stage_a_zero_bubble_schedule_frees_after_every_backward():
    gib = {name: priced(batch={"global": 8}, mesh={}, pipeline={"schedule": name}).gib for name in ("1f1b", "zb_h1")}
    assert gib["zb_h1"] == gib["1f1b"]


LLAMA = ModelSpec.preset("llama2-7b").model_copy(update={"compute_dtype": "bf16"})


def test_products_in_parts_hide_their_collectives_as_a_pipeline_of_two_does():
    """Of n parts the first product, or the last message, has nothing beside it: the longer, and an nth of the other."""
    fields = {"batch": {"global": 8, "micro": 8}, "mesh": {"tp": 8}}
    for sequence_parallel in (True, False):
        priced = {}
        for parts in (1, 4):
            tensor = {"overlap": parts, "sequence_parallel": sequence_parallel}
            setup = setup_of(LLAMA, "atlas-800t-a2-910b2", "mindspeed", **fields, tensor=tensor)
            habits = {"interference": 0.0, "tp_overlap": 0.0, "tp_backward_overlap": 0.0}
            framework = setup.framework.model_copy(update=habits)
            priced[parts] = Price(Program(setup.model_copy(update={"framework": framework})))
        block = priced[1].program.blocks["layer"]
        cost = priced[4].block(priced[4].program.blocks["layer"]).forward
        device, network = priced[4].cluster.device, priced[4].network
        expected = 0.0
        pairs = {"attention.input": "attention.query_key_value", "feed_forward.input": "feed_forward.up"}
        for node in block.collectives:
            if node.phase == Phase.FORWARD:
                name = {"feed_forward.output": "feed_forward.down"}.get(node.name, pairs.get(node.name, node.name))
                kernel = next(one for one in block.kernels if one.name == name)
                part = replace(kernel, m=kernel.m // 4, bytes=kernel.bytes / 4)
                framework, dtype = priced[4].framework, "bf16"
                computed = 4 * float(kernel_seconds(KernelTable.of([part]), device, framework, dtype)[0])
                whole = float(kernel_seconds(KernelTable.of([kernel]), device, framework, dtype)[0])
                sent = 4 * network.seconds(node.op, node.bytes / 4, 8, 1)
                expected += max(computed, sent) + min(computed, sent) / 4 - whole
        assert cost.tensor == pytest.approx(expected, rel=1e-9)
        assert cost.tensor < priced[1].block(block).forward.tensor


def test_the_ring_of_transformer_engine_holds_every_step():
    """Forward keeps keys and values of all ranks, a result for each, and their sum in 32 bits."""
    model = LLAMA.model_copy(update={"seq_length": 65536})
    held = {}
    for cp in (1, 2, 8):
        setup = setup_of(model, "dgx-h100", "megatron-core", batch={"global": 8}, mesh={"cp": cp, "tp": 8})
        program = Program(setup)
        block, rows = program.blocks["layer"], BlockTable.of(Price(program))
        tokens, width = 65536 / cp, 4096 / 8
        wanted = cp * tokens * 2 * width * 2 + cp * tokens * width * 2 + tokens * width * 4
        assert block.ring_bytes == (wanted if cp > 1 else 0)
        held[cp] = float(rows.transient[SLOTS.index("layer")])
        assert held[cp] >= block.ring_bytes
    other = setup_of(model, "dgx-h100", "torchtitan", batch={"global": 8}, mesh={"cp": 8, "tp": 8})
    assert Program(other).blocks["layer"].ring_bytes == 0


def test_steps_of_a_ring_are_merged_by_kernels_that_take_as_long_as_their_bytes():
    model = LLAMA.model_copy(update={"seq_length": 32768})
    setup = setup_of(model, "atlas-800t-a2-910b2", "mindspeed", batch={"global": 8}, mesh={"cp": 8})
    block = Program(setup).blocks["layer"]
    merge, back = (
        next(k for k in block.kernels if k.name == f"attention.ring.merge{end}") for end in ("", ".gradient")
    )
    tokens = 32768 / 8
    assert merge.bytes == 7 * tokens * 4096 * setup.framework.ring_merge_bytes
    assert back.bytes == 7 * 3 * tokens * 3 * 4096 * 2  # gradients of queries, keys, values: two read, one written


def test_fp4_moves_nine_sixteenths_of_a_byte_and_seeks_the_largest_value_first():
    device = ClusterSpec.preset("gb300-nvl72").device
    framework = FrameworkSpec.preset("megatron-bridge")
    shape = {"m": 128, "n": 8192, "k": 8192}  # so flat that memory decides
    whole = 2.0 * (128 * 8192 + 8192 * 8192 + 128 * 8192)
    kernel = Kernel("w", Phase.BACKWARD_WEIGHT, whole, **shape, flops=2.0 * 128 * 8192 * 8192)
    forward = replace(kernel, phase=Phase.FORWARD)
    rate = device.hbm.gbps * 1e9 * device.hbm.eff
    for dtype, width, extra in (("bf16", 2.0, 0.0), ("fp8", 1.0, 0.0), ("fp4", 9 / 16, 2 - 2 * 7 / 16)):
        plain, paid = (
            float(kernel_seconds(KernelTable.of([one]), device, framework, dtype)[0]) for one in (kernel, forward)
        )
        operands = 128 * 8192 + 8192 * 8192
        assert plain == pytest.approx((width * operands + 2 * 128 * 8192) / rate + device.gemm.launch_us * 1e-6)
        quantized = (framework.quantize_bytes + extra) * 128 * 8192 / (rate * device.vector.eff)
        assert paid - plain == pytest.approx(quantized + device.vector.launch_us * 1e-6 if dtype != "bf16" else 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(2, 6), st.integers(1, 12), st.floats(0.01, 20.0), st.floats(0.1, 3.0))
def test_gradients_of_chunks_hide_as_a_clock_that_ticks_says(chunks, pp, rounds, traffic, backward):
    """The last round runs chunk by chunk; a chunk's gradients begin with its last backward, one message at a time."""
    framework = FrameworkSpec(name="test", dp_overlap=1.0, interference=0.0)
    sent = StepTraffic(np.full((1, pp), traffic), np.zeros((1, pp)), np.zeros((1, pp)))
    seconds, m = np.full((1, pp), backward), np.array([rounds * pp])
    exposed, hidden = gradients_exposed(framework, sent, seconds, m, zero=1, chunks=chunks)
    one, clock, free = backward / chunks, 0.0, 0.0
    for _ in range(chunks):  # from the last chunk to the first, pp micro-batches each
        for micro_batch in range(pp):
            if micro_batch == pp - 1:
                free = max(free, clock) + traffic / chunks
            clock += one
    assert exposed[0, 0] == pytest.approx(max(0.0, free - clock), abs=1e-9)
    assert hidden[0, 0] == pytest.approx(traffic - exposed[0, 0], abs=1e-9)
    plain, _ = gradients_exposed(framework, sent, seconds, m, zero=1)
    assert plain[0, 0] == pytest.approx(max(0.0, traffic - backward), abs=1e-9)


def test_gradients_of_a_zero_bubble_schedule_hide_behind_those_of_weights_alone():
    framework = FrameworkSpec(name="test", dp_overlap=1.0, interference=0.0)
    sent = StepTraffic(np.array([[5.0]]), np.zeros((1, 1)), np.zeros((1, 1)))
    both, weight = np.array([[6.0]]), np.array([[2.0]])
    exposed, hidden = gradients_exposed(framework, sent, both, np.array([8]), zero=1, weight=weight)
    assert exposed[0, 0] == 3.0 and hidden[0, 0] == 2.0
