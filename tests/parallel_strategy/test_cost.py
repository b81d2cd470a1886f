"""Kernels, collectives, memory: monotone where they must be, equal to formulas where there are some."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_strategy.cost.collective import Network
from parallel_strategy.cost.kernel import matmul_seconds
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.cluster import ClusterSpec, Device
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
