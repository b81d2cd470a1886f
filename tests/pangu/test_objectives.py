"""Objectives: what a row reads, is asked and may see; no label is ever visible, and the natural order is `causal`."""

import itertools
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file

from pangu.config import ModelConfig, ObjectivesConfig, TrainConfig
from pangu.foundation.errors import UserError
from pangu.model.network import build, load_weights, read_weights
from pangu.parameters import TARGET_TABLE
from pangu.training.loss import Loss
from pangu.training.objectives.causal import CausalBatch
from pangu.training.objectives.kinds import ObjectiveIds, infilled, shuffled
from pangu.training.objectives.mixture import Mixture
from pangu.training.objectives.row_steps import (
    FIELDS,
    StepsBatch,
    causal_steps,
    check_order,
    documents_of,
    read_in_order,
)
from tests.pangu import packed_corpus

END, PAD, MASK, SIZE = 9, 6, 7, 1000


def mixture(end_of_document: int | None = END, **shares: dict) -> Mixture:
    config = ObjectivesConfig.model_validate(shares)
    return Mixture(config, ObjectiveIds(SIZE, MASK, (50, 60)), end_of_document, PAD, seed=3, batch_size=4)


def rows_of_documents(count: int, length: int = 33) -> np.ndarray:
    """Rows whose ids are all different but for the ends of documents and the padding."""
    random, rows = np.random.default_rng(5), []
    for _ in range(count):
        row = random.permutation(np.arange(10, 900))[:length]
        row[random.random(length) < 0.1] = END
        row[length - int(random.integers(0, 8)) :] = PAD
        rows.append(row)
    return np.array(rows, np.int32)


def network_of(vocabulary: int, length: int, spread: float):
    sizes = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "ffn_hidden_size": 64}
    fields = {**sizes, "seq_length": length, "vocab_size": vocabulary, "compute_dtype": "fp32", "dropout_rate": 0.0}
    network = build(ModelConfig.from_fields(fields, "test"))
    random = np.random.default_rng(4)
    load_weights(
        network,
        {
            parameter.name: random.normal(parameter.name.endswith("gamma"), spread, parameter.shape)
            for parameter in network.trainable_params()
        },
    )
    network.set_train(False)
    return network


def log_probabilities(network, steps: np.ndarray) -> np.ndarray:
    """[B, S, V] of what each step predicts."""
    ids, _, _, positions, queries, bias = StepsBatch()(Tensor(steps))
    logits = network(ids, positions, queries, bias, Tensor(0, ms.int32)).asnumpy().astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def in_orders(rows: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The steps of rows, each one document, in given orders."""
    result = []
    for row, order in zip(rows, orders, strict=True):
        (document,) = documents_of(row[:-1], None, -1)
        steps = causal_steps(row, [document], -1)
        read_in_order(steps, row, document, order)
        result.append(np.stack([steps[name] for name in FIELDS]))
    return np.array(result, np.int32)


@pytest.mark.parametrize("end_of_document", [END, None])
def test_the_natural_order_is_bit_for_bit_the_causal_objective(end_of_document: int | None) -> None:
    rows = rows_of_documents(4)
    prepared = mixture(end_of_document).prepare(rows, 0)
    network = network_of(SIZE, 32, 0.3)
    parameters = network.trainable_params()
    results = []
    for cell, given in ((CausalBatch(end_of_document, PAD), rows), (StepsBatch(), prepared)):
        for left, right in zip(cell(Tensor(given)), CausalBatch(end_of_document, PAD)(Tensor(rows)), strict=True):
            np.testing.assert_array_equal(left.asnumpy(), right.asnumpy())
        loss, gradients = ms.value_and_grad(Loss(network, cell), None, parameters)(Tensor(given), Tensor(0, ms.int32))
        results.append([loss.asnumpy(), *(gradient.asnumpy() for gradient in gradients)])
    for left, right in zip(*results, strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_probabilities_of_all_continuations_sum_to_one_in_any_order() -> None:
    """One later token that a step sees breaks this."""
    network = network_of(6, 5, 0.5)
    rows = np.array([(2, *rest) for rest in itertools.product(range(6), repeat=4)], np.int32)
    for order in ([0, 1, 2, 3, 4], [0, 3, 1, 2, 4], [0, 2, 3, 1, 4]):
        steps = in_orders(rows, np.tile(order, (len(rows), 1)))
        found = np.take_along_axis(log_probabilities(network, steps), steps[:, 1, :, None], 2)[..., 0]
        assert np.exp(found.sum(1)).sum() == pytest.approx(1, abs=1e-6)


def test_steps_in_their_order_equal_rows_in_theirs_with_a_permuted_mask() -> None:
    """XLNet's form: the row stands as it is, and a token sees those that come no later in the order."""
    length, random = 8, np.random.default_rng(1)
    network = network_of(13, length, 0.15)
    rows = random.integers(0, 13, (4, length + 1)).astype(np.int32)
    orders = np.array([[0, *(1 + random.permutation(length - 1)), length] for _ in rows])
    permuted = log_probabilities(network, in_orders(rows, orders))
    rank = np.argsort(orders, 1)
    following = np.take_along_axis(orders, np.minimum(rank + 1, length), 1)[:, :length]
    hidden = rank[:, None, None, :length] > rank[:, None, :length, None]
    positions = np.tile(np.arange(length), (len(rows), 1))
    given = (rows[:, :length], positions, following - 1)
    bias = Tensor(np.where(hidden, np.float32(-10000), np.float32(0)))
    logits = network(*(Tensor(one.astype(np.int32)) for one in given), bias, Tensor(0, ms.int32)).asnumpy()
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    in_rows = np.take_along_axis(permuted, rank[:, :length, None], 1)
    np.testing.assert_allclose(in_rows, expected, rtol=0, atol=1e-5)


def test_what_a_step_must_not_see_has_a_gradient_of_exactly_zero() -> None:
    length = 8
    network = network_of(13, length, 0.3)
    steps = in_orders(np.arange(length + 1)[None] % 13, np.array([[0, 5, 2, 7, 1, 4, 6, 3, 8]]))
    _, _, _, positions, queries, bias = StepsBatch()(Tensor(steps))
    backbone, no_seed = network.backbone, Tensor(0, ms.int32)

    def predicted(hidden: Tensor, step: int) -> Tensor:
        for block in backbone.blocks:
            hidden = block(hidden, bias, no_seed)
        asked = backbone.top_query_layer(
            backbone.layernorm(hidden), backbone.top_query_embedding(queries), bias, no_seed
        )
        return network.logits(asked)[:, step, 3].sum()

    hidden = backbone.embed(Tensor(steps[:, 0]), positions, no_seed)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for step in (0, 3, 6):
        gradient = np.abs(ms.grad(predicted)(hidden, step).asnumpy()).max(axis=(0, 2))
        assert (gradient[step + 1 :] == 0).all() and (gradient[: step + 1] > 0).all()
    ms.set_context(mode=ms.GRAPH_MODE)


def test_a_network_that_is_told_its_targets_begins_as_the_one_that_is_not() -> None:
    network = network_of(13, 8, 0.3)
    weights = read_weights(network)
    told = build(network.config.model_copy(update={"target_in_trunk": True}), weights)
    told.set_train(False)
    steps = in_orders(np.arange(9)[None] % 13, np.array([[0, 5, 2, 7, 1, 4, 6, 3, 8]]))
    np.testing.assert_array_equal(log_probabilities(told, steps), log_probabilities(network, steps))
    random = np.random.default_rng(0)
    load_weights(told, weights | {TARGET_TABLE: random.normal(size=(8, 32)).astype(np.float32)})
    assert (log_probabilities(told, steps) != log_probabilities(network, steps)).any()


SHARES = {
    "permuted": {"permuted": {"share": 1}},
    "prefix": {"prefix": {"share": 1}},
    "bidirectional": {"bidirectional": {"share": 1}},
    "all": {"permuted": {"share": 0.3}, "prefix": {"share": 0.3}, "bidirectional": {"share": 0.3}},
}


@pytest.mark.parametrize("name", SHARES)
def test_no_counted_step_sees_its_label_or_another_document(name: str) -> None:
    rows = rows_of_documents(60)
    counted = kept = 0
    for row, steps in zip(rows, mixture(**SHARES[name]).prepare(rows, 0), strict=True):
        one = dict(zip(FIELDS, steps, strict=True))
        documents = documents_of(row[:-1], END, PAD)
        for step in np.flatnonzero(one["weights"]):
            label = int(one["labels"][step])
            document = next(d for d in documents if d.first <= step < d.end)
            assert document.first <= one["first"][step] <= step <= one["last"][step] < document.end
            assert one["positions"][step] < document.end - document.first
            seen = one["ids"][one["first"][step] : one["last"][step] + 1]
            # The query row asks for the label's own place: one more than the row's number, within the document.
            if label not in (END, PAD):
                place = document.first + int(one["query_positions"][step]) + 1
                assert row[place] == label
                is_kept = name in ("bidirectional", "all") and one["ids"][step] == label
                assert is_kept or label not in seen
                kept += is_kept
            counted += 1
    assert counted > 200 and kept < counted * 0.2


def test_texts_with_gaps_and_shuffled_sentences_are_the_prefix_of_what_they_were() -> None:
    source, random = np.arange(10, 210).astype(np.int32), np.random.default_rng(2)
    gaps = infilled(source, random, ObjectiveIds(SIZE, MASK))
    assert 0.55 * len(source) < (gaps != MASK).sum() < 0.85 * len(source) and (gaps == MASK).sum() > 5
    assert (np.diff(gaps[gaps != MASK]) > 0).all()
    mixed = shuffled(source, random, ObjectiveIds(SIZE, MASK, (50, 60, 100)))
    assert sorted(mixed) == source.tolist() and (mixed != source).any()
    assert [int(mixed[np.flatnonzero(mixed == end)[0] - 1]) for end in (50, 60, 100)] == [49, 59, 99]
    rows = np.arange(10, 43)[None].astype(np.int32)
    for corruption in ({"infilling": 1}, {"sentence_shuffle": 1}):
        (steps,) = mixture(prefix={"share": 1, **corruption}).prepare(rows, 0)
        one = dict(zip(FIELDS, steps, strict=True))
        counted = np.flatnonzero(one["weights"])
        np.testing.assert_array_equal(one["labels"][counted], rows[0, :16])  # the first half, whole and in order
        assert (one["last"][counted] == counted).all() and (np.diff(counted) == 1).all()


def test_gaps_are_read_last_and_what_is_known_in_its_own_order() -> None:
    rows = np.tile(np.arange(10, 43, dtype=np.int32), (200, 1))
    ascending = []
    for steps in mixture(None, permuted={"share": 1, "gaps": 1}).prepare(rows, 0):
        one = dict(zip(FIELDS, steps, strict=True))
        order = np.append(one["positions"], one["query_positions"][-1] + 1)
        check_order(order, 32)
        ascending.append(int(np.argmax(np.diff(order) < 0)) + 1 if (np.diff(order) < 0).any() else 32)
    # any number of gaps; of a random order three places or so ascend
    assert min(ascending) < 6 and max(ascending) > 26 and 12 < np.mean(ascending) < 22
    random = mixture(None, permuted={"share": 1}).prepare(rows, 0)
    np.testing.assert_array_equal(random, mixture(None, permuted={"share": 1, "gaps": 0}).prepare(rows, 0))
    half = mixture(None, permuted={"share": 1, "gaps": 0.5}).prepare(rows, 0)
    assert 0.3 < (half == random).all(axis=(1, 2)).mean() < 0.7


def test_what_is_drawn_depends_on_the_seed_and_the_row_alone() -> None:
    rows, asked = rows_of_documents(12), mixture(**SHARES["all"])
    whole = asked.prepare(rows, 0)
    np.testing.assert_array_equal(asked.prepare(rows[5:], 5), whole[5:])
    assert (asked.prepare(rows[5:], 6) != whole[5:]).any()


def test_shares_rise_until_their_ramp_is_over() -> None:
    asked = mixture(permuted={"share": 0.5, "ramp_steps": 100})
    drawn = np.linspace(0, 1, 1000, endpoint=False)
    found = [np.mean([asked.kind(one, step) == "permuted" for one in drawn]) for step in (0, 49, 99, 500)]
    np.testing.assert_allclose(found, [0.005, 0.25, 0.5, 0.5], atol=1e-3)


@pytest.mark.parametrize("order", [[0, 1, 1, 3], [1, 0, 2, 3], [0, 3, 1, 2], [0, 1, 2, 3, 4]])
def test_what_is_no_order_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="an order"):
        check_order(np.array(order), 3)


def configuration(folder: Path, out: str, **fields: object) -> TrainConfig:
    if not (folder / "packed").is_dir():
        packed_corpus.write(folder / "packed")
        (folder / "model.yaml").write_text(packed_corpus.MODEL)
    places = {"data": str(folder / "packed"), "out": str(folder / out), "model": str(folder / "model.yaml")}
    settings = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "learning_rate": {"decay_steps": 4}}
    return TrainConfig.from_fields({**places, **settings, **fields}, "test")


def test_a_run_of_mixed_objectives_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    from pangu.training.run import train

    shares = {"permuted": {"share": 0.4, "ramp_steps": 3}, "bidirectional": {"share": 0.3}}
    whole = train(configuration(tmp_path, "whole", objectives=shares))
    train(configuration(tmp_path, "parts", objectives=shares, steps=2))
    parts = train(configuration(tmp_path, "parts", objectives=shares))
    causal = train(configuration(tmp_path, "causal"))
    found = [load_file(Path(run.checkpoint) / "model.safetensors") for run in (whole, parts, causal)]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert any((found[0][name] != found[2][name]).any() for name in found[0])


def test_what_a_model_or_a_corpus_cannot_do_is_named(tmp_path: Path) -> None:
    from pangu.config import load_size
    from pangu.training.data import PackedData
    from pangu.training.objectives.choice import objective_of

    config = configuration(tmp_path, "run", objectives={"permuted": {"share": 0.5}})
    data, model = PackedData.load(config.data), load_size(config.model)
    with pytest.raises(UserError, match="query_layer: false"):
        objective_of(model.model_copy(update={"query_layer": False}), config, data)
    for shares, message in (
        ({"bidirectional": {"share": 0.5}, "mask_id": 64}, "ids end at 63"),
        ({"prefix": {"share": 0.5, "sentence_shuffle": 1}}, "needs its tokenizer"),
    ):
        with pytest.raises(UserError, match=message):
            objective_of(model, configuration(tmp_path, "run", objectives=shares), data)
    with pytest.raises(UserError, match="together: 1 at most"):
        configuration(tmp_path, "run", objectives={"permuted": {"share": 0.6}, "prefix": {"share": 0.6}})
