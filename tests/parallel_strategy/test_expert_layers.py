"""Layers of experts: what the host issues for them, where their tokens go, how their products run."""

import itertools

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.calibrate.known_names import framework_of
from parallel_strategy.cost.collective import Network
from parallel_strategy.predict import Prediction
from parallel_strategy.search.find import search
from parallel_strategy.search.shapes import Space
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.virtual.proof import prove
from tests.parallel_strategy.strategies import setup_of

MODEL = ModelSpec(
    num_layers=4, hidden_size=2048, num_heads=32, kv_heads=4, ffn_hidden_size=6144, head_size=128, seq_length=4096,
    vocab_size=32000, gated_ffn=True, bias=False, tied_embedding=False, dropout_rate=0.0, compute_dtype="bf16",
    experts={"count": 128, "top_k": 8, "ffn_hidden_size": 768},
)  # fmt: skip


def predicted(framework: str, ep: int = 8, cluster: str = "dgx-b200", **changes) -> Prediction:
    setup = setup_of(MODEL, cluster, framework, batch={"global": 64}, mesh={"dp": 32, "ep": ep})
    habits = setup.framework.experts.model_copy(update=changes)
    return Prediction(setup.model_copy(update={"framework": setup.framework.model_copy(update={"experts": habits})}))


def test_what_newer_releases_took_from_the_host_makes_them_faster():
    names = ("eager", "fused-router", "layer-graphs")
    seconds = [predicted(f"megatron-bridge-{name}").seconds for name in names]
    seconds.append(predicted("megatron-bridge").seconds)
    assert seconds == sorted(seconds, reverse=True)
    a_layer = [value / (MODEL.num_layers * 2) * 1e3 for value in seconds]  # of each of two micro-batches, ms
    assert 2.0 < a_layer[0] - a_layer[3] < 7.0  # as the releases of Megatron-Bridge differ


def test_fewer_experts_a_rank_need_fewer_launches():
    of_experts = {}
    for ep in (8, 32):
        without, each = (predicted("megatron-bridge-eager", ep, launches_per_expert=n) for n in (0, 4))
        of_experts[ep] = sum(each.chunk_costs[0]) - sum(without.chunk_costs[0])
    # what is left of the difference: beside a longer device time the host of the other kernels shows less
    assert 2.5 * of_experts[32] < of_experts[8] < 4.5 * of_experts[32]


def test_a_host_that_need_not_wait_hides_behind_the_device():
    waiting, ahead = (predicted("megatron-bridge-eager", waits_for_counts=wait).seconds for wait in (True, False))
    assert ahead < waiting


def test_a_token_is_sent_once_to_a_server_of_several_of_its_experts():
    network = Network(ClusterSpec.preset("dgx-b200"), 256)
    for size, stride in ((8, 1), (32, 1), (64, 1), (16, 8)):
        whole = network.seconds("all_to_all", 1e9, size, stride)
        assert network.dispatch_seconds(1e9, size, stride, 8) < whole
        assert network.dispatch_seconds(1e9, size, stride, 1) == pytest.approx(whole, rel=1e-9)
    assert network.dispatch_seconds(1e9, 32, 1, 8) < 0.6 * network.seconds("all_to_all", 1e9, 32, 1)


def test_only_an_exchange_across_servers_hides_where_the_recipe_says_so():
    inside, across = (
        [predicted("megatron-bridge-eager", ep, network_overlap=share).seconds for share in (0.0, 0.5)]
        for ep in (8, 32)
    )
    assert inside[0] == inside[1] and across[1] < across[0]


def test_grouped_products_are_slower_than_one_as_large_on_ascend():
    setup = setup_of(
        MODEL, "atlas-800t-a2-910b2", "mindspeed", batch={"global": 8}, mesh={"dp": 8, "ep": 8}
    )  # fmt: skip
    device = setup.cluster.device
    dense = device.model_copy(update={"gemm": device.gemm.model_copy(update={"grouped_eff": 1.0})})
    faster = setup.model_copy(update={"cluster": setup.cluster.model_copy(update={"device": dense})})
    assert Prediction(setup).seconds > 1.05 * Prediction(faster).seconds


def test_a_search_prices_experts_as_a_prediction_does():
    setup = setup_of(MODEL, "dgx-b200", "megatron-bridge-eager", batch={"global": 32}, mesh={"dp": 16, "ep": 8})
    best = search(setup, Space(16, 32, zero=[1], offload=[False], interleave=[1], activation=[0.0])).best
    for found in best[:3]:
        assert Prediction(found.setup).closed_form_seconds == pytest.approx(found.closed_form_seconds, rel=1e-9)


@pytest.mark.parametrize(
    ("release", "hardware", "preset"),
    [
        ("[25.09 NeMo Container; x]", "DGX-GB200", "megatron-bridge-eager"),
        ("[26.02.01 NeMo Container]", "DGX-B200", "megatron-bridge-eager"),
        ("[26.02.01 NeMo Container]", "DGX-GB300", "megatron-bridge-fused-router"),
        ("[26.04 NeMo Container]", "DGX-B300", "megatron-bridge-fused-router"),
        ("[26.06.01 NeMo Container]", "DGX-B200", "megatron-bridge"),
        ("[26.06 NeMo Container]", "DGX-H100", "megatron-bridge-fused-router"),
        ("no release", "DGX H100", "megatron-bridge-eager"),
    ],
)
def test_a_release_is_known_by_its_container(release, hardware, preset):
    assert framework_of("Megatron-Bridge/NeMo", release, hardware) == preset


def folded(etp: int | None, ep: int, **mesh) -> Prediction:
    sizes = {"dp": 4, "tp": 4, "ep": ep, "etp": etp} | mesh
    setup = setup_of(
        MODEL, "dgx-h100", "megatron-bridge", batch={"global": 16}, mesh=sizes, tensor={"sequence_parallel": True}
    )
    return Prediction(setup)


@pytest.mark.parametrize(("etp", "ep"), [(None, 4), (4, 4), (1, 16), (1, 8), (2, 8), (8, 2), (16, 1)])
def test_an_expert_tensor_size_of_its_own_cuts_experts_and_sends_tokens_as_counted_by_hand(etp, ep):
    prediction, experts = folded(etp, ep), MODEL.experts
    block = prediction.program.blocks["expert_layer"]
    split = etp or 4
    # parameters: each of the experts of a rank has two matrices in and one out, 1 / etp of their width
    wide = 3 * MODEL.hidden_size * experts.ffn_hidden_size
    assert block.elements(True) == experts.count / ep * wide / split
    # tokens: a rank has a fourth of 4,096, each of which goes to 8 experts
    sent = 4096 / 4 * 8 * MODEL.hidden_size * 2
    sizes = {(node.name, node.op): node.bytes for node in block.collectives if node.name.startswith("experts.")}
    if ep > 1:
        assert sizes["experts.dispatch", "all_to_all"] == sizes["experts.combine", "all_to_all"] == sent
    if split > 1:
        assert sizes["experts.gather", "all_gather"] == sizes["experts.scatter", "reduce_scatter"] == sent * split
    # products: all ranks together run 8 experts for each token
    up = next(kernel for kernel in block.kernels if kernel.name == "experts.up")
    assert up.flops * 16 == pytest.approx(4 * 4096 * 8 * 4 * MODEL.hidden_size * experts.ffn_hidden_size)
    # groups: every rank is in one of each kind, and experts and their copies fill the stage
    groups = prediction.program.groups
    for axis, size in (("etp", split), ("ep", ep), ("expert_dp", 16 // split // ep)):
        assert groups.extent(axis)[0] == size
        lists = {groups.members(axis, rank) for rank in range(16)}
        assert sorted(rank for one in lists for rank in one) == list(range(16))
        assert {len(one) for one in lists} == {size}
        steps = {b - a for one in lists for a, b in itertools.pairwise(one)}
        assert steps <= {groups.extent(axis)[1]}


def test_gradients_of_folded_experts_are_summed_over_their_own_copies():
    elements = 3 * MODEL.hidden_size * MODEL.experts.ffn_hidden_size * MODEL.experts.count
    for etp, ep in ((1, 8), (2, 4), (4, 4)):
        traffic = folded(etp, ep).zero_traffic.distinct[0]
        sent = sum(sizes.sum() for (_, axis), sizes in traffic.reduce.items() if axis == "expert_dp")
        copies = 16 // etp // ep
        assert sent == pytest.approx((copies > 1) * 2 * elements / etp / ep)  # 2 bytes, one layer of a block


@pytest.mark.parametrize(
    ("mesh", "right"),
    [
        ({"etp": 3}, "nearest: 2"),
        ({"etp": 1, "ep": 32}, "nearest: 16"),
        ({"etp": 1, "ep": 4, "order": ["pp", "tp", "dp"]}, "needs order"),
    ],
)
def test_a_fold_that_no_ranks_make_is_refused(mesh, right):
    with pytest.raises(UserError, match=right):
        folded(**{"etp": 1, "ep": 4} | mesh)


def test_a_fold_needs_tokens_of_their_own_on_every_rank():
    with pytest.raises(UserError, match="sequence_parallel"):
        setup = setup_of(
            MODEL, "dgx-h100", "megatron-bridge", batch={"global": 16}, mesh={"dp": 4, "tp": 4, "ep": 4, "etp": 1}
        )
        setup.strategy.check_model(MODEL)


def test_the_norm_joins_all_ranks_where_experts_are_split_over_copies_of_the_rest():
    """With one set of experts over four data-parallel ranks the norm was that of a rank's own part."""
    model = ModelSpec(
        num_layers=2, hidden_size=16, num_heads=4, ffn_hidden_size=16, seq_length=8, vocab_size=24, dropout_rate=0.0,
        experts={"count": 4, "top_k": 2, "ffn_hidden_size": 16, "capacity_factor": 2.0}, compute_dtype="bf16",
    )  # fmt: skip
    setup = setup_of(model, "dgx-h100", "megatron-bridge", batch={"global": 8}, mesh={"dp": 4, "etp": 4})
    assert prove(setup).equal
