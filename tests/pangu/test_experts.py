"""Experts: who goes where, what is dropped, what is learnt from; a plain reference says what is right."""

import json
import math
import shutil
from pathlib import Path

import mindspore as ms
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mindspore import Tensor, ops
from safetensors.numpy import load_file, save_file

from pangu import parameters
from pangu.checkpoint.open import OPTIMIZER, WEIGHTS
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.commands.report import body
from pangu.config import ModelConfig
from pangu.formats.model_metadata import metadata_of
from pangu.formats.upcycle import without_others
from pangu.foundation.errors import UserError
from pangu.generation.compiled.compiled_network import CompiledNetwork
from pangu.generation.decoding_batch import RowTokens
from pangu.generation.engine import make_network
from pangu.generation.mindspore_decoder import MindSporeNetwork
from pangu.model.attention_mask import CausalMask
from pangu.model.experts import ExpertFeedForward, MaskedDispatch, blocks_without_limit, new_expert_feed_forward
from pangu.model.network import build, weights_of
from pangu.quantization.layers import quantize_in_memory
from pangu.quantization.quantized_file import Quantization
from pangu.training.data import PackedData
from pangu.training.domains import with_domains
from pangu.training.expert_table import balanced, expert_table
from pangu.training.loss import Loss, StagedLoss, ToldLoss
from pangu.training.objectives.causal import CausalBatch
from pangu.training.run import train
from pangu.training.step import ScaledLoss
from pangu.training.step_metrics import read_metrics
from pangu.tuning.adapter_file import layers_of
from pangu.tuning.tuning_run import without_limit
from tests.pangu import packed_corpus
from tests.pangu.small_run import configuration

BATCH, LENGTH, HIDDEN, INNER, COUNT = 3, 12, 8, 16, 4


@pytest.fixture(autouse=True)
def eager():
    """Operator by operator: nothing is compiled for a handful of numbers."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def config_of(**experts: object) -> ModelConfig:
    sizes = {"num_layers": 3, "hidden_size": HIDDEN, "num_heads": 2, "ffn_hidden_size": INNER, "seq_length": LENGTH}
    fields = {**sizes, "vocab_size": 40, "compute_dtype": "fp32", "dropout_rate": 0.0}
    return ModelConfig.from_fields({**fields, "experts": {"count": COUNT, **experts}}, "test")


def layer_of(seed: int = 0, **experts: object) -> ExpertFeedForward:
    layer, random = new_expert_feed_forward(config_of(**experts), ms.float32), np.random.default_rng(seed)
    for parameter in layer.get_parameters():
        parameter.set_data(Tensor(random.normal(0, 0.5, parameter.shape).astype(np.float32)))
    return layer.set_train()


def arrays(layer: ExpertFeedForward) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().astype(np.float64) for name, parameter in layer.parameters_dict().items()}


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def plain(weights: dict[str, np.ndarray], asked, x: np.ndarray, choice: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y [B, S, d] and dropped choices a row, token by token as the papers write it."""
    y, dropped = np.zeros_like(x), np.zeros(len(x))
    for row, tokens in enumerate(x):
        wanted = []
        for place, token in enumerate(tokens):
            if asked.has_router:
                logits = token @ weights["router.weight"]
                p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
                first = np.argsort(-p, kind="stable")[: asked.choices]
                gates = p[first] if asked.choices == 1 else p[first] / p[first].sum()
            else:
                first, gates = np.array([choice[row, place]]), np.ones(1)
            wanted.append((first, gates))
        limit = math.inf
        if asked.capacity_factor is not None:
            limit = math.ceil(asked.choices * len(tokens) * asked.capacity_factor / asked.count)
        taken = np.zeros(asked.count, int)
        for rank in range(asked.choices):
            for place, (first, gates) in enumerate(wanted):
                expert = first[rank]
                if taken[expert] >= limit:
                    dropped[row] += 1
                    continue
                taken[expert] += 1
                inner = gelu(
                    tokens[place] @ weights["experts.mapping.weight"][expert]
                    + weights["experts.mapping.bias"][expert, 0]
                )
                out = (
                    inner @ weights["experts.projection.weight"][expert] + weights["experts.projection.bias"][expert, 0]
                )
                y[row, place] += gates[rank] * out
        if asked.shared:
            inner = gelu(tokens @ weights["shared.mapping.weight"] + weights["shared.mapping.bias"])
            y[row] += inner @ weights["shared.projection.weight"] + weights["shared.projection.bias"]
    return y, dropped


def inputs(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(BATCH, LENGTH, HIDDEN)).astype(np.float32)
    return x, random.integers(0, COUNT, (BATCH, LENGTH)).astype(np.int32)


@pytest.mark.parametrize(
    "experts",
    [
        {"routing": "switch", "capacity_factor": 1.0},
        {"routing": "switch", "capacity_factor": None, "shared": 2},
        {"routing": "top_k", "capacity_factor": 0.7},
        {"routing": "top_k", "choices": COUNT, "capacity_factor": None},
        {"routing": "hash", "capacity_factor": 0.5},
        {"routing": "hash", "capacity_factor": None},
    ],
    ids=lambda experts: "-".join(str(value) for value in experts.values()),
)
def test_a_layer_equals_the_plain_reference_and_tells_what_it_dropped(experts: dict) -> None:
    layer, (x, choice) = layer_of(**experts), inputs()
    asked = config_of(**experts).experts
    y, penalty, told = layer(Tensor(x), Tensor(choice))
    expected, dropped = plain(arrays(layer), asked, x.astype(np.float64), choice)
    np.testing.assert_allclose(y.asnumpy(), expected, atol=2e-5)
    figures = dict(zip(parameters.ROUTING_FIGURES, told.asnumpy().T, strict=False))
    np.testing.assert_allclose(figures["dropped_share"], dropped / LENGTH / asked.choices, atol=1e-6)
    np.testing.assert_allclose(told.asnumpy()[:, 4:].sum(1), 1, atol=1e-6)
    if asked.has_router:
        weighted = asked.balance_loss * figures["balance_loss"] + asked.z_loss * figures["z_loss"]
        np.testing.assert_allclose(penalty.asnumpy(), weighted, rtol=1e-5)
    if asked.capacity_factor is not None:
        assert dropped.sum() > 0
        y, _, told = layer.set_train(False)(Tensor(x), Tensor(choice))  # outside of training nobody is dropped
        whole, _ = plain(arrays(layer), asked.model_copy(update={"capacity_factor": None}), x.astype(float), choice)
        np.testing.assert_allclose(y.asnumpy(), whole, atol=2e-5)
        assert not told.asnumpy()[:, 3].any()


def test_no_row_depends_on_its_neighbours_even_where_tokens_are_dropped() -> None:
    layer, (x, choice) = layer_of(routing="switch", capacity_factor=0.6), inputs()
    together, alone = layer(Tensor(x), Tensor(choice)), layer(Tensor(x[1:2]), Tensor(choice[1:2]))
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.asnumpy()[1:2], other.asnumpy())


@pytest.mark.parametrize(
    "experts", [{"routing": "switch"}, {"routing": "top_k"}, {"routing": "switch", "unit_gate": True}]
)
def test_the_router_learns_from_the_task(experts: dict) -> None:
    """Finite differences of the task's part; one choice, made to sum to 1, would give zeros."""
    layer, (x, choice) = layer_of(balance_loss=0.0, z_loss=0.0, capacity_factor=None, **experts), inputs()
    towards = Tensor(np.random.default_rng(2).normal(size=x.shape).astype(np.float32))
    weight = layer.router.weight

    def task(x: Tensor) -> Tensor:
        return (layer(x, Tensor(choice))[0] * towards).sum()

    gradient = ms.grad(task, None, weight)(Tensor(x)).asnumpy()
    start, direction, step = weight.asnumpy(), np.sign(gradient), 2e-4
    if experts.get("unit_gate"):
        p = ops.softmax(ops.matmul(Tensor(x), weight), -1).asnumpy()
        assert np.abs(gradient).max() > 0.1 and np.allclose(gradient.sum(1), 0, atol=1e-3) and p.shape[-1] == COUNT
        return
    values = []
    for sign in (1, -1):
        weight.set_data(Tensor((start + sign * step * direction).astype(np.float32)))
        values.append(float(task(Tensor(x)).asnumpy()))
    slope = (values[0] - values[1]) / (2 * step)
    assert abs(slope - np.abs(gradient).sum()) < 0.01 * np.abs(gradient).sum()


def test_experts_in_another_order_with_their_router_change_nothing_and_an_even_router_has_balance_one() -> None:
    layer, (x, choice) = layer_of(routing="top_k", capacity_factor=1.0), inputs()
    y, penalty, _ = layer(Tensor(x), Tensor(choice))
    order = [2, 0, 3, 1]
    for name, parameter in layer.parameters_dict().items():
        value = parameter.asnumpy()
        parameter.set_data(Tensor(value[:, order] if name == "router.weight" else value[order]))
    again, same_penalty, _ = layer(Tensor(x), Tensor(choice))
    np.testing.assert_allclose(again.asnumpy(), y.asnumpy(), atol=1e-6)
    np.testing.assert_allclose(same_penalty.asnumpy(), penalty.asnumpy(), rtol=1e-6)
    layer.router.weight.set_data(Tensor(np.zeros((HIDDEN, COUNT), np.float32)))
    _, _, told = layer(Tensor(x), Tensor(choice))
    np.testing.assert_allclose(told.asnumpy()[:, 0], 1, atol=1e-6)
    np.testing.assert_allclose(told.asnumpy()[:, 2], math.log(COUNT), atol=1e-6)


def test_blocks_without_a_limit_hold_every_load() -> None:
    for tokens, count, choices in ((1, 8, 1), (1, 8, 2), (7, 3, 1), (64, 8, 2), (5, 64, 1)):
        blocks, size = blocks_without_limit(tokens, count, choices)
        worst = np.zeros(count, int)
        worst[: min(count, tokens * choices) - 1] = 1
        worst[min(count, tokens * choices) - 1] = tokens * choices - worst.sum()
        assert sum(-(-load // size) for load in worst) <= blocks
        assert blocks * size <= 2 * tokens * choices + size


@pytest.mark.parametrize(
    ("experts", "said"),
    [
        ({"count": 1}, "experts.count"),
        ({"choices": 5, "routing": "top_k"}, "nearest: 4"),
        ({"choices": 2}, "routing top_k takes more"),
        ({"layers": [2]}, "there is no block 2"),
        ({"layers": [1, 0]}, "in order"),
        ({"layers": []}, "each once"),
        ({"capacity_factor": 0}, "experts.capacity_factor"),
        ({"routing": "swich"}, "switch"),
        ({"routing": "hash", "balance_loss": 0.1}, "no router"),
        ({"routing": "domain", "domains": ["a", "b"]}, "as many domains as experts"),
        ({"routing": "domain", "domains": list("abcd"), "capacity_factor": 1.0}, "has no limit"),
        ({"routing": "random_routed", "domains": list("abc")}, "multiple of the 3 domains"),
        ({"routing": "random_routed"}, "multiple of the 0 domains"),
        ({"domains": ["a"]}, "go with routing domain"),
        ({"shared": -1}, "experts.shared"),
        ({"unit_gate": True, "routing": "hash"}, "goes with routing switch"),
        ({"experts": 3}, "experts.experts"),
    ],
)
def test_a_wrong_field_is_one_line_that_says_what_is_right(experts: dict, said: str) -> None:
    with pytest.raises(UserError) as failure:
        config_of(**experts)
    assert said in str(failure.value) and "\n" not in str(failure.value)


def test_the_table_of_names_has_every_parameter_and_the_formula_its_number() -> None:
    dense = config_of().model_copy(update={"experts": None})
    for experts in ({}, {"routing": "hash", "layers": [1]}, {"shared": 2, "layers": [0]}):
        config = config_of(**experts)
        shape = config.expert_shape
        found = {parameter.name: parameter.shape for parameter in weights_of(build(config))}
        assert found == parameters.shapes(config)
        one = 2 * HIDDEN * INNER + INNER + HIDDEN
        shared = shape.shared * (2 * HIDDEN * INNER + INNER) + (HIDDEN if shape.shared else 0)
        a_layer = (COUNT - 1) * one + (HIDDEN * COUNT if shape.has_router else 0) + shared
        assert parameters.count(config) == parameters.count(dense) + len(shape.layers) * a_layer
        assert ModelConfig.parse(config.dump(), "test") == config


def test_tables_share_tokens_out_evenly() -> None:
    counts = np.array([50, 40, 30, 20, 10, 10, 0, 0])
    table = balanced(counts, 2)
    assert np.bincount(table).tolist() == [4, 4] and abs(np.bincount(table, counts)[0] - 80) <= 10
    random = expert_table(config_of(routing="random_routed", domains=["a", "b"]), seed=1)
    assert random.shape == (2, 40)
    assert [sorted(set(row)) for row in random] == [[0, 1], [2, 3]]
    assert [np.bincount(row.astype(int)).max() for row in random] == [20, 20]


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = packed_corpus.write(tmp_path_factory.mktemp("corpus") / "packed")
    for split, samples in (("train", 40), ("heldout", 8)):
        pieces = [
            (sample, offset, source) for sample in range(samples) for offset, source in ((0, "laws"), (7, "poems"))
        ]
        columns = zip(("sample", "offset", "source"), zip(*pieces, strict=True), strict=True)
        pq.write_table(
            pa.table({name: list(values) for name, values in columns}), folder / f"{split}-00000.documents.parquet"
        )
    return folder


def run_of(corpus: Path, out: Path, experts: dict, **changes: object):
    ms.set_context(mode=ms.GRAPH_MODE)
    config = configuration(corpus, out, steps=2, evaluate_every=4, checkpoint_every=1, **changes)
    Path(config.model).write_text(packed_corpus.MODEL + f"experts: {json.dumps(experts)}\n")
    return config


def test_a_run_in_parts_goes_on_with_the_same_bits_and_tells_of_its_experts(corpus: Path, tmp_path: Path) -> None:
    config = run_of(corpus, tmp_path / "whole", {"count": 4, "routing": "switch"}, accumulate=2)
    train(config)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/step-00000002")
    train(config.model_copy(update={"out": str(tmp_path / "stopped")}))
    last = "checkpoints/step-00000002"
    for name in (f"{last}/{WEIGHTS}", f"{last}/{OPTIMIZER}", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
    record = read_metrics(tmp_path / "whole")[0]
    assert np.array(record["expert_loads"]).shape == (1, 4) and record["balance_loss"] > 0.9
    assert 1 < record["router_entropy"] < math.log(4) and 0 <= record["dropped_share"] < 0.7
    weights = load_file(tmp_path / "whole" / last / WEIGHTS)
    assert weights["backbone.blocks.0.output.experts.mapping.weight"].shape == (4, 16, 32)
    page = body(tmp_path / "whole", "whole")
    assert "Experts: dropped" in page and "Router entropy" in page and "expert 3" in page


def test_parts_of_a_batch_have_the_sums_of_the_whole() -> None:
    network = build(config_of(routing="switch", capacity_factor=1.0)).set_train()
    loss = ToldLoss(network, CausalBatch(packed_corpus.END, packed_corpus.PAD))
    rows, seed = np.random.default_rng(3).integers(0, 40, (4, LENGTH + 1)).astype(np.int32), Tensor(0, ms.int32)
    whole, told = loss(Tensor(rows), seed)
    parts = [loss(Tensor(rows[i : i + 2]), seed) for i in (0, 2)]
    np.testing.assert_allclose(sum(float(part) for part, _ in parts), float(whole), rtol=1e-6)
    np.testing.assert_allclose(sum(told.asnumpy() for _, told in parts), told.asnumpy(), rtol=1e-5)
    plain = Loss(network.set_train(), CausalBatch(packed_corpus.END, packed_corpus.PAD))(Tensor(rows), seed)
    np.testing.assert_allclose(float(plain), float(told[0]), rtol=1e-6)
    assert float(whole) > float(plain)


def test_penalties_that_only_reach_the_gradient_have_the_gradient_of_summed_ones() -> None:
    """Pipelines have this form. Compiled, as they compile it; rows have different numbers of predictions."""
    ms.set_context(mode=ms.GRAPH_MODE)
    config = config_of(routing="top_k", balance_loss=0.5, z_loss=0.1, layers=[1])
    network = build(config, random_weights(config)).set_train()
    rows = np.random.default_rng(3).integers(0, 40, (3, LENGTH + 1)).astype(np.int32)
    rows[1, 4:] = packed_corpus.PAD
    fed = Tensor(rows), Tensor(8.0, ms.float32), Tensor(0, ms.int32)
    values, gradients = [], []
    for kind in (ToldLoss, StagedLoss, Loss):
        loss = ScaledLoss(kind(network, CausalBatch(packed_corpus.END, packed_corpus.PAD)))
        told = kind is ToldLoss
        value, found = ms.value_and_grad(loss, None, network.trainable_params(), has_aux=told)(*fed)
        values.append(float(value[1][0]) * 8 if told else float(value))
        gradients.append(
            {one.name: each.asnumpy() for one, each in zip(network.trainable_params(), found, strict=True)}
        )
    summed, attached, without = gradients
    for name, gradient in summed.items():
        np.testing.assert_allclose(attached[name], gradient, atol=1e-6 * np.abs(gradient).max(), err_msg=name)
    router = "backbone.blocks.1.output.router.weight"
    assert np.abs(without[router] - summed[router]).max() > 0.1 * np.abs(summed[router]).max()
    np.testing.assert_allclose(values[1:], values[0], rtol=1e-6)


def test_a_run_by_domain_reads_sources_and_keeps_its_table(corpus: Path, tmp_path: Path) -> None:
    rows = next(with_domains(PackedData.load(corpus).split("train"), ["poems", "laws"]).read(np.array([3, 1]), 2))
    assert rows.shape == (2, 34) and rows[0, 17:].tolist() == [1] * 7 + [0] * 10
    with pytest.raises(UserError, match="'laws' is none of"):
        with_domains(PackedData.load(corpus).split("train"), ["poems", "law"])
    experts = {"count": 4, "routing": "random_routed", "domains": ["laws", "poems"]}
    train(run_of(corpus, tmp_path / "run", experts).model_copy(update={"steps": 1, "document_reset": False}))
    records = read_metrics(tmp_path / "run")
    assert sum(records[0]["expert_loads"][0][:2]) == pytest.approx(7 / 16, abs=1e-3)
    weights = load_file(tmp_path / "run/checkpoints/step-00000001" / WEIGHTS)
    assert weights[parameters.EXPERT_TABLE].shape == (2, 64) and "heldout_loss" in records[-1]
    assert not any(
        name.endswith(parameters.EXPERT_TABLE)
        for name in load_file(tmp_path / "run/checkpoints/step-00000001" / OPTIMIZER)
    )


# --- generation ------------------------------------------------------------------------------------------------------


def random_weights(config: ModelConfig, seed: int = 6) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = {
        name: random.normal(name.endswith("gamma"), 0.3, shape).astype(np.float32)
        for name, shape in parameters.shapes(config).items()
    }
    if parameters.EXPERT_TABLE in weights:
        weights[parameters.EXPERT_TABLE] = expert_table(config, seed=3)
    return weights


@pytest.mark.parametrize(
    ("experts", "changes"),
    [
        ({"routing": "switch", "shared": 2}, {}),
        ({"routing": "top_k", "layers": [1]}, {"query_layer": False, "num_layers": 2}),
        ({"routing": "random_routed", "domains": ["a", "b"]}, {}),
        ({"routing": "domain", "domains": list("abcd"), "layers": [0]}, {}),
    ],
    ids=lambda value: str(value.get("routing", "")),
)
def test_the_compiled_engine_computes_the_full_forward(experts: dict, changes: dict) -> None:
    config = ModelConfig.from_fields({**config_of(**experts).model_dump(), **changes}, "test")
    weights = random_weights(config)
    ids = np.random.default_rng(8).integers(0, 40, (2, LENGTH)).astype(np.int32)
    expected = forward(config, weights, ids, np.array([[1], [0]], np.int32))
    batch = CompiledNetwork(config, weights, threads=2).open(2, 128)
    domains = [1, 0] if config.experts.by_domain else [None, None]
    parts = [RowTokens(row, ids[row, :7].tolist(), 7, domain=domains[row]) for row in (0, 1)]
    found = [logits[None] for logits in batch.read(parts)]
    for place in range(7, LENGTH):
        for row in (0, 1):
            (logits,) = batch.read([RowTokens(row, [int(ids[row, place])], domain=domains[row])])
            found[row] = np.concatenate([found[row], logits[None]], 1)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scheme", ["int8", "int4-g32"])
def test_quantised_experts_are_what_both_readers_compute_with(tmp_path: Path, scheme: str) -> None:
    sizes = {"hidden_size": 32, "ffn_hidden_size": 64}
    config = ModelConfig.from_fields({**config_of(routing="switch", shared=1).model_dump(), **sizes}, "test")
    save_file(random_weights(config), tmp_path / "full.safetensors", metadata_of(config))
    arguments = ["convert", str(tmp_path / "full.safetensors"), "--to", "safetensors", "--quantize", scheme]
    assert main([*arguments, "--out", str(tmp_path / "small.safetensors")]) == 0
    _, full, _ = load_for_inference(tmp_path / "small.safetensors")
    _, stored, _ = load_for_inference(tmp_path / "small.safetensors", as_stored=True)
    name = "backbone.blocks.0.output.experts.mapping.weight"
    assert stored[name].dtype.itemsize == 1 and full[name].shape == (COUNT, 32, 64)
    largest = np.abs(random_weights(config)[name] - full[name]).max()
    assert 0 < largest <= (0.02 if scheme == "int8" else 0.2)
    ids = np.random.default_rng(8).integers(0, 40, (1, LENGTH)).tolist()[0]
    rows = [
        CompiledNetwork(config, weights, threads=1).open(1, 128).read([RowTokens(0, ids, LENGTH)])[0]
        for weights in (full, stored)
    ]
    # the output matrix is quantised as well, the word table is not
    np.testing.assert_allclose(*rows, atol=0.05 * np.abs(rows[0]).max())
    with pytest.raises(UserError, match="not for a network with experts"):
        quantize_in_memory(config, random_weights(config), Quantization.of("int8", "gptq"), np.array([ids]))


def test_fine_tuning_drops_nothing_and_says_what_it_cannot() -> None:
    assert without_limit(config_of()).experts.capacity_factor is None
    with pytest.raises(UserError, match="cut a domain out"):
        without_limit(config_of(routing="domain", domains=list("abcd")))
    with pytest.raises(UserError, match="take no adapters"):
        layers_of(config_of(), ("q_proj", "c_fc"))


def forward(config: ModelConfig, weights: dict, ids: np.ndarray, domains: np.ndarray | None = None) -> np.ndarray:
    network = build(config, weights).set_train(False)
    positions, bias = CausalMask()(Tensor(ids))
    by_domain = config.experts is not None and config.experts.by_domain
    more = [Tensor(np.broadcast_to(domains, ids.shape).astype(np.int32))] if by_domain else []
    return network(Tensor(ids), positions, positions, bias, Tensor(0, ms.int32), *more).asnumpy()


def test_an_unknown_domain_is_a_mixture_weighed_by_what_was_read() -> None:
    config = config_of(routing="domain", domains=list("abcd"))
    weights, ids = random_weights(config), np.random.default_rng(8).integers(0, 40, LENGTH).astype(np.int32)
    each = np.stack([forward(config, weights, ids[None], np.array([[domain]]))[0] for domain in range(COUNT)])
    each = (each - np.logaddexp.reduce(each.astype(float), -1)[..., None]).astype(float)
    batch = make_network(config, weights, "compiled", 1).open(2, 128)
    found = [*batch.read([RowTokens(1, ids[:8].tolist(), 8)])[0]]
    batch.read([RowTokens(1, [3, 4])])
    batch.rewind(1, 8)
    found += [batch.read([RowTokens(1, [int(token)])])[0][0] for token in ids[8:]]
    evidence = np.zeros(COUNT)
    for place in range(LENGTH):
        if place:
            evidence = evidence + each[:, place - 1, ids[place]]
        posterior = np.exp(evidence - np.logaddexp.reduce(evidence))
        np.testing.assert_allclose(np.exp(found[place]), posterior @ np.exp(each[:, place]), atol=1e-5)
    assert posterior.max() > 0.9  # it knows by now


# --- conversions -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    """Weights of a small dense network, with their network in the header."""
    config = config_of().model_copy(update={"experts": None})
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    save_file(random_weights(config), path, metadata_of(config))
    return path


def logits_of(path: Path, domains: np.ndarray | None = None) -> np.ndarray:
    config, weights, _ = load_for_inference(path)
    ids = np.random.default_rng(8).integers(0, 40, (2, LENGTH)).astype(np.int32)
    return forward(config, weights, ids, domains)


@pytest.mark.parametrize("routing", ["switch", "top_k", "random_routed", "domain"])
def test_upcycled_weights_compute_what_the_dense_ones_did(dense: Path, tmp_path: Path, routing: str) -> None:
    out, by_domain = tmp_path / "experts.safetensors", routing in ("random_routed", "domain")
    count = "2" if routing == "domain" else "4"
    options = ["--experts", count, "--routing", routing, *(["--domains", "laws,poems"] if by_domain else [])]
    assert main(["convert", str(dense), "--to", "safetensors", "--out", str(out), *options]) == 0
    domains = np.array([[0], [1]])
    difference = np.abs(logits_of(out, domains) - logits_of(dense)).max()
    assert difference <= (0 if by_domain else 1e-6)
    if by_domain:
        cut = tmp_path / "laws.safetensors"
        arguments = ["convert", str(out), "--to", "safetensors", "--out", str(cut), "--cut-domain", "laws"]
        assert main(arguments) == 0
        np.testing.assert_array_equal(logits_of(cut), logits_of(dense))
        assert (load_for_inference(cut)[0].experts is None) == (routing == "domain")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--experts", "1"], "experts.count"),
        (["--experts", "4", "--routing", "hash", "--choices", "2"], "takes 1"),
        (["--experts", "4", "--expert-layers", "0,x"], "numbers of blocks"),
        (["--experts", "4", "--expert-layers", "7"], "no block 7"),
        (["--experts", "4", "--noise", "nan"], "0 to 1"),
        (["--routing", "hash"], "goes with --experts"),
        (["--experts", "4", "--routing", "domain"], "as many domains"),
        (["--cut-domain", "laws"], "no experts by domain"),
        (["--experts", "4", "--keep-optimizer"], "new moments"),
    ],
)
def test_conversions_that_cannot_be_are_one_line(dense: Path, tmp_path: Path, capsys, options, said: str) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["convert", str(dense), "--to", "safetensors", "--out", str(out), *options]) == 2
    assert said in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("routing", ["top_k", "hash"])
def test_mindspores_engine_computes_the_full_forward(routing: str) -> None:
    config = config_of(routing=routing, layers=[1])
    weights, ids = random_weights(config), np.random.default_rng(8).integers(0, 40, (2, LENGTH)).astype(np.int32)
    expected = forward(config, weights, ids)
    batch = MindSporeNetwork(config, weights).open(2, 128)
    found = [batch.prefill(ids[:, :9].tolist()), *(batch.step(ids[:, place]) for place in (9, 10))]
    np.testing.assert_allclose(np.stack(found, 1), expected[:, 8:11], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "experts",
    [
        {"routing": "domain", "domains": list("abcd")},
        {"routing": "random_routed", "domains": ["a", "b"], "layers": [0]},
    ],
    ids=["domain", "random_routed"],
)
def test_mindspores_engine_mixes_no_domains_and_a_named_one_is_the_compiled_engines(experts: dict) -> None:
    config = config_of(**experts)
    weights, ids = random_weights(config), np.random.default_rng(8).integers(0, 40, (1, LENGTH)).astype(np.int32)
    with pytest.raises(UserError, match="say a domain"):
        MindSporeNetwork(config, weights)
    with pytest.raises(UserError, match="the domains are a, b"):
        without_others(weights, config, "c?", "here")
    cut, own = without_others(weights, config, "b", "here")
    expected = forward(config, weights, ids, np.array([[1]]))[0]
    batch = MindSporeNetwork(cut, own).open(1, 128)
    found = np.concatenate([batch.prefill(ids[:, :9].tolist()), batch.step(ids[:, 9]), batch.step(ids[:, 10])])
    np.testing.assert_allclose(found, expected[8:11], atol=1e-5 * np.abs(expected).max())
    of_whole = CompiledNetwork(config, weights, threads=1).open(1, 128)
    (beside,) = of_whole.read([RowTokens(0, ids[0, :11].tolist(), 3, domain=1)])
    np.testing.assert_allclose(found, beside, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("experts", [{"routing": "switch"}, {"routing": "top_k"}])
def test_masks_dispatch_as_lookups_do_and_have_the_same_gradients(experts: dict) -> None:
    """Devices other than a CPU dispatch by products, which a strategy can split."""
    layer, (x, choice) = layer_of(capacity_factor=0.8, **experts), inputs()
    towards = Tensor(np.random.default_rng(2).normal(size=x.shape).astype(np.float32))
    layer.masked = MaskedDispatch(COUNT)
    results = []
    for by_masks in (False, True):
        layer.by_masks = by_masks

        def task(x: Tensor) -> Tensor:
            y, penalty, told = layer(x, Tensor(choice))
            return (y * towards).sum() + penalty.sum(), told

        (value, told), (first, rest) = ms.value_and_grad(task, 0, layer.trainable_params(), has_aux=True)(Tensor(x))
        results.append([value, told, first, *rest])
    for by_lookup, by_mask in zip(*results, strict=True):
        scale = np.abs(by_lookup.asnumpy()).max()
        np.testing.assert_allclose(by_mask.asnumpy(), by_lookup.asnumpy(), atol=2e-6 * scale)
