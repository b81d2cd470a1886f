"""Gaps are filled given both sides: cached decoding in any order is the full forward."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.cli import main
from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.fill import Between, GapRow, entropy, fill, score_between
from pangu.training.objectives.row_steps import StepsBatch
from tests.pangu import small_model
from tests.pangu.test_objectives import in_orders

GREEDY = GenerationOptions(temperature=0, top_k=0)
LENGTH = 12
KNOWN: list[int | None] = [5, 7, None, 3, None, None, 8, 11, None, 2]


@pytest.fixture(scope="module")
def network():
    return network_of()


def network_of(**fields: object):
    sizes = {"num_layers": 3, "hidden_size": 24, "num_heads": 3, "ffn_hidden_size": 48, "vocab_size": 60}
    config = ModelConfig.from_fields({**sizes, "seq_length": LENGTH, "compute_dtype": "fp32", **fields}, "test")
    return config, *small_model.network_of(config)


def full_forward(cell, ids: list[int], order: list[int]) -> np.ndarray:
    """Logits [S, V] of a row that is read in an order; id 0 stands behind it."""
    steps = in_orders(np.array([[*ids, 0]], np.int32), np.array([order]))
    given, _, _, positions, queries, bias = StepsBatch()(Tensor(steps))
    return cell(given, positions, queries, bias, Tensor(0, ms.int32)).asnumpy()[0]


def probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize(
    ("fields", "engine"),
    [
        ({}, "compiled"),
        ({}, "mindspore"),
        ({"target_in_trunk": True}, "compiled"),
        ({"target_in_trunk": True}, "mindspore"),
    ],
    ids=["compiled", "mindspore", "target in trunk", "target in trunk, mindspore"],
)
def test_cached_decoding_in_any_order_equals_the_full_forward(network, fields: dict, engine) -> None:
    config, weights, cell = network_of(**fields) if fields else network
    generator = Generator(config, weights, engine=engine)
    row = GapRow(generator.open(1, len(KNOWN)), KNOWN, 5)
    known, gaps = [place for place, token in enumerate(KNOWN) if token is not None], [5, 2, 8, 4]
    filled = {5: 40, 2: 41, 8: 42, 4: 43}
    ids = [filled.get(place, token or 0) for place, token in enumerate(KNOWN)]
    expected = full_forward(cell, ids, [*known, *gaps, len(KNOWN)])
    for number, gap in enumerate(gaps):
        row.ask(9 if gap == 5 else 5)  # what is asked beside changes nothing
        found = probabilities(row.ask(gap))
        np.testing.assert_allclose(found, probabilities(expected[len(known) + number - 1]), rtol=0, atol=1e-5)
        if number + 1 < len(gaps):
            row.read(filled[gap], gap, gaps[number + 1])


def test_the_surest_gap_comes_first_and_every_gap_is_the_likeliest_token(network) -> None:
    config, weights, cell = network
    generator = Generator(config, weights)
    filled = fill(generator, KNOWN, GREEDY)
    known = [place for place, token in enumerate(KNOWN) if token is not None]
    assert sorted(filled.places) == [2, 4, 5, 8] and [filled.ids[place] for place in known] == [5, 7, 3, 8, 11, 2]
    asked = {gap: full_forward(cell, filled.ids, order_of(known, gap))[len(known) - 1] for gap in (2, 4, 5, 8)}
    assert filled.places[0] == min(asked, key=lambda gap: entropy(asked[gap]))
    logits = full_forward(cell, filled.ids, [*known, *filled.places, len(KNOWN)])[len(known) - 1 : -1]
    assert [filled.ids[place] for place in filled.places] == [int(row.argmax()) for row in logits]
    assert fill(generator, KNOWN, GREEDY, "left").places == [2, 4, 5, 8]
    banned = GenerationOptions(temperature=0, top_k=0, stop_ids=(filled.ids[filled.places[0]],))
    assert fill(generator, KNOWN, banned).ids[filled.places[0]] != filled.ids[filled.places[0]]


def order_of(known: list[int], gap: int) -> list[int]:
    return [*known, gap, *(other for other in (2, 4, 5, 8) if other != gap), len(KNOWN)]


def test_what_cannot_be_filled_is_named(network) -> None:
    config, weights, _ = network
    generator = Generator(config, weights)
    for known, message in (
        ([None, 3], "begins with a gap"),
        ([3, 4], "there is no gap"),
        ([3, None] * 10, "20 tokens with its gaps, the context 12"),
        ([3, None, 60], "id 60 is outside"),
    ):
        with pytest.raises(UserError, match=message):
            fill(generator, known, GREEDY)
    with pytest.raises(UserError, match="gap_order = 'right': must be one of entropy, left"):
        fill(generator, [3, None], GREEDY, "right")
    plain = config.model_copy(update={"query_layer": False, "num_layers": 2})
    left = {name: value for name, value in weights.items() if "top_query" not in name}
    with pytest.raises(UserError, match="query_layer: false"):
        fill(Generator(plain, left), [3, None], GREEDY)


@pytest.mark.parametrize("engine", ["compiled", "mindspore"])
def test_what_stands_between_two_sides_is_scored_as_the_full_forward_does(network, engine) -> None:
    config, weights, cell = network
    generator = Generator(config, weights, engine=engine, batch_size=2)
    parts = [Between([5, 7], [9, 4, 3], [11, 2]), Between([6], [1], [8]), Between([3, 4], [5, 6], [])]
    together = score_between(generator, parts)
    for one, found in zip(parts, together, strict=True):
        left, middle, right = len(one.left), len(one.middle), len(one.right)
        end = left + middle
        order = [*range(left), *range(end, end + right), *range(left, end), end + right]
        logits = full_forward(cell, [*one.left, *one.middle, *one.right], order)[left + right - 1 :]
        expected = [probabilities(row)[token] for row, token in zip(logits, one.middle, strict=False)]
        np.testing.assert_allclose(found.log_probabilities, expected, rtol=0, atol=1e-5)
        (alone,) = score_between(generator, [one])
        assert (alone.log_probabilities == found.log_probabilities).all()
    assert score_between(generator, []) == []
    for wrong, message in (
        (Between([], [1], [2]), "left side"),
        (Between([1], [], [2]), "middle of at least one"),
        (Between([1], [2] * 6, [3] * 6), "13 tokens with its gaps, the context 12"),
        (Between([1], [99], [3]), "id 99 is outside"),
        (Between([1], [2] * 10 + [99], []), "id 99 is outside"),
    ):
        with pytest.raises(UserError, match=message):
            score_between(generator, [wrong])


def test_probabilities_of_what_stands_between_sum_to_one(network) -> None:
    config, weights, _ = network
    found = score_between(Generator(config, weights), [Between([5, 7], [one], [11, 2]) for one in range(60)])
    assert abs(sum(np.exp(one.total) for one in found) - 1) < 1e-6


def test_generate_fills_the_gaps_of_a_text(
    run_directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["generate", str(run_directory), "--fill", "北京__中国的_都", "--seed", "1"]
    assert main([*words, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert len(row["places"]) == 3 and set(row["places"]) < set(range(len(row["ids"])))
    assert main(words) == 0
    assert capsys.readouterr().out == row["text"] + "\n"
    for option in (["--samples", "2"], ["--stop", "。"], ["--max-new-tokens", "7"], ["--slide"], ["--chat"]):
        assert main([*words, *option]) == 2
        assert f"error: {option[0]}: does not go with --fill" in capsys.readouterr().err
    assert main(["generate", str(run_directory), "--prompt", "a", "--gap-order", "left"]) == 2
    assert "--gap-order: goes with --fill" in capsys.readouterr().err
    assert main(["generate", str(run_directory), "--fill", "__北京"]) == 2
    assert "begins with a gap" in capsys.readouterr().err
