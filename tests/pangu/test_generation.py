"""Generation with a KV cache: every step equals the full forward, and what is asked for is what comes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.decoding_batch import EngineName, RowTokens
from pangu.generation.mindspore_decoder import CHUNK
from pangu.model.attention_mask import CausalMask
from pangu.model.network import build
from pangu.tokenizer.tokenizer import SpecialIds
from tests.pangu import oracle, small_model

CONTEXT = 150
GREEDY = GenerationOptions(max_new_tokens=12, temperature=0)
NETWORKS: dict[str, dict[str, object]] = {
    "released": {"final_norm": "before_query", "activation": "gelu_tanh"},
    "pipeline": {"final_norm": "after_query", "activation": "fast_gelu"},
    "no query layer": {"query_layer": False, "activation": "gelu_erf"},
}


class Network:
    """Random weights, far enough from zero that nothing is lost in symmetry, and both ways to compute with them."""

    def __init__(self, engine: EngineName = "compiled", **fields: object) -> None:
        sizes = {"num_layers": 3, "hidden_size": 24, "num_heads": 3, "ffn_hidden_size": 48, "vocab_size": 60}
        settings = {"seq_length": CONTEXT, "compute_dtype": "fp32", **sizes, **fields}
        self.config = ModelConfig.from_fields(settings, "test")
        self.weights, _ = small_model.network_of(self.config)
        self.engine = engine
        self.generator = Generator(self.config, self.weights, batch_size=4, engine=engine)
        self.random = np.random.default_rng(6)

    def prompt(self, length: int) -> list[int]:
        return self.random.integers(0, self.config.vocab_size, length).tolist()

    def full(self, ids: np.ndarray, weights: dict | None = None, hidden_token: int | None = None) -> np.ndarray:
        """log p [B, S, V] of the network itself. hidden_token: one that the tokens after it do not see."""
        network = build(self.config, weights or self.weights)
        network.set_train(False)
        tokens = Tensor(ids.astype(np.int32))
        positions, penalty = CausalMask()(tokens)
        if hidden_token is not None:
            changed = penalty.asnumpy().copy()
            changed[:, :, hidden_token + 1 :, hidden_token] = -10000
            penalty = Tensor(changed)
        return log_softmax(network(tokens, positions, positions, penalty, Tensor(0, ms.int32)).asnumpy())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module", autouse=True)
def graph_mode() -> Iterator[None]:
    ms.set_context(mode=ms.GRAPH_MODE)
    yield


@pytest.fixture(scope="module", params=["compiled", "mindspore"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    return request.param


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, engine: EngineName) -> Network:
    return Network(engine, **NETWORKS[request.param])


@pytest.fixture(scope="module")
def released(engine: EngineName) -> Network:
    return Network(engine, **NETWORKS["released"])


def test_every_step_equals_the_full_forward(network: Network) -> None:
    """Rows of different lengths together, from their prompts to the end of the context."""
    lengths = [1, 40, CHUNK, 140]
    ids = np.array([network.prompt(CONTEXT) for _ in lengths])
    expected = network.full(ids)
    batch = network.generator.open(len(lengths), CONTEXT)
    got = list(batch.prefill([row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]))
    position = np.array(lengths)
    rows = [0, 1, 2, 3]
    while rows:
        for row, logits in zip(rows, got, strict=True):
            wanted = expected[row, position[row] - 1]
            np.testing.assert_allclose(log_softmax(logits).reshape(-1), wanted, rtol=0, atol=1e-5)
        rows = [row for row in rows if position[row] < CONTEXT]
        got = batch.read([RowTokens(row, [int(ids[row, position[row]])]) for row in rows]) if rows else []
        position += 1


def test_every_prompt_length_equals_the_full_forward(released: Network) -> None:
    ids = np.array([released.prompt(CONTEXT)])
    expected = released.full(ids)[0]
    lengths = np.arange(1, CONTEXT + 1)
    batch = released.generator.open(4, CONTEXT)
    for four in np.array_split(released.random.permutation(lengths), 38):
        got = log_softmax(batch.prefill([ids[0, :length].tolist() for length in four]))
        np.testing.assert_allclose(got, expected[four - 1], rtol=0, atol=1e-5)


def test_not_the_original_mistakes(released: Network) -> None:
    """The original forgot the last prompt token's keys and values, and asked with query row 0 for every new token."""
    prompt, new = released.prompt(10), released.prompt(1)
    ids = np.array([prompt + new])
    batch = released.generator.open(4, CONTEXT)
    batch.prefill([prompt])
    got = log_softmax(batch.read([RowTokens(0, new)])[0])[0]
    np.testing.assert_allclose(got, released.full(ids)[0, -1], rtol=0, atol=1e-5)
    table = "backbone.top_query_embedding.embedding_table"
    first_row = released.weights | {table: np.tile(released.weights[table][:1], (CONTEXT, 1))}
    assert np.abs(got - released.full(ids, first_row)[0, -1]).max() > 0.01
    assert np.abs(got - released.full(ids, hidden_token=9)[0, -1]).max() > 0.01


def test_half_precision_equals_its_full_forward() -> None:
    network = Network("mindspore", compute_dtype="fp16", seq_length=80)
    ids = np.array([network.prompt(80)])
    expected = network.full(ids)[0]
    batch = network.generator.open(1, 80)
    got = [batch.prefill([ids[0, :70].tolist()])[0]]
    got += [batch.step(ids[:, position].astype(np.int32))[0] for position in range(70, 80)]
    np.testing.assert_allclose(log_softmax(np.array(got)), expected[69:], rtol=0, atol=5e-2)


def test_operator_by_operator() -> None:
    """PyNative mode, no graph."""
    released = Network("mindspore", **NETWORKS["released"])
    prompts = [released.prompt(5), released.prompt(70)]
    compiled = released.generator.generate(prompts, GREEDY)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        got = Generator(released.config, released.weights, engine="mindspore").generate(prompts, GREEDY)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
    assert [result.ids for result in got] == [result.ids for result in compiled]


@pytest.mark.parametrize(("name", "frequency", "presence"), [("nopenalty", 0.0, 0.0), ("default", 1.5, 0.3)])
def test_greedy_ids_of_the_original(
    shared: Path, engine: EngineName, name: str, frequency: float, presence: float
) -> None:
    """The original was asked for 8 tokens and gave 7."""
    config, weights, _, _ = oracle.load(shared / "oracle" / "pangu_tiny_fp32_gelu.npz")
    arrays = np.load(shared / "oracle" / "pangu_tiny_generate.npz")
    prompt, expected = arrays[f"greedy_{name}/prompt"][0], arrays[f"greedy_{name}/output_ids"]
    options = GenerationOptions(7, temperature=0, frequency_penalty=frequency, presence_penalty=presence)
    [result] = Generator(config, weights, engine=engine).generate([prompt.tolist()], options)
    assert result.prompt_ids + result.ids == expected.tolist()


@pytest.mark.parametrize("count", [1, 2, 17])
def test_exactly_as_many_tokens_as_asked_for(released: Network, count: int) -> None:
    results = released.generator.generate([released.prompt(3)] * 4, GenerationOptions(max_new_tokens=count))
    assert [(len(result.ids), result.finish) for result in results] == [(count, "length")] * 4


def test_the_same_text_alone_and_in_any_batch(released: Network) -> None:
    prompts = [released.prompt(length) for length in (4, 66, 9, 1, 30, 5)]
    options = GenerationOptions(max_new_tokens=20, temperature=1.5, top_k=0, seed=3)
    together = [result.ids for result in released.generator.generate(prompts, options)]
    order = [3, 1, 5, 0, 2, 4]
    shuffled = released.generator.generate([prompts[index] for index in order], options)
    assert [result.ids for result in shuffled] == [together[index] for index in order]
    alone = Generator(released.config, released.weights, batch_size=1, engine=released.engine)
    assert [result.ids for result in alone.generate(prompts, options)] == together
    other_seed = released.generator.generate(prompts, GenerationOptions(20, temperature=1.5, top_k=0, seed=4))
    assert all(a.ids != b for a, b in zip(other_seed, together, strict=True))


def test_a_prompt_beyond_the_context(released: Network) -> None:
    generate = released.generator.generate
    long, fitting = released.prompt(CONTEXT + 5), released.prompt(CONTEXT - 11)
    with pytest.raises(UserError, match="prompt 2: has 155 tokens, the context 150"):
        generate([[1], long], GREEDY)
    assert len(generate([fitting], GREEDY)[0].ids) == 12  # the last token needs no position
    with pytest.raises(UserError, match="ask for at most 11 new tokens"):
        generate([[1, *fitting]], GREEDY)
    truncate = GenerationOptions(12, temperature=0, overflow="truncate")
    [cut] = generate([long], truncate)
    assert cut.prompt_ids == long[-(CONTEXT - 11) :]
    assert cut.ids == generate([cut.prompt_ids], GREEDY)[0].ids
    with pytest.raises(UserError, match="no room"):
        generate([[1]], GenerationOptions(CONTEXT + 1, overflow="truncate"))


def test_sliding_goes_on_with_the_newer_half(engine: EngineName) -> None:
    """After the context is full, each step equals the full forward over what is left of the text."""
    network = Network(engine, seq_length=16, num_layers=2)
    prompts = [network.prompt(3), network.prompt(20), network.prompt(15)]
    options = GenerationOptions(30, temperature=0, overflow="slide")
    rows, ends, chosen = [], [], []
    for prompt, result in zip(prompts, network.generator.generate(prompts, options), strict=True):
        assert len(result.ids) == 30
        seen = prompt[-16:]
        for token in result.ids:
            if len(seen) > 16:
                seen = seen[-8:]
            rows.append(seen + [0] * (16 - len(seen)))
            ends.append(len(seen) - 1)
            chosen.append(token)
            seen = [*seen, token]
    every = np.arange(len(rows))
    expected = network.full(np.array(rows))[every, ends]
    assert (expected[every, chosen] > expected.max(axis=-1) - 1e-4).all()


class Letters:
    """A tokenizer of 50 ids, a letter each; fewer than the network has."""

    vocab_size = 50
    special = SpecialIds(0, 1, 2, 3, 6, 5, end_of_document=9)
    byte_ids: tuple[int, ...] = ()

    def stream_decoder(self) -> "Letters":
        return self

    def push(self, token_id: int) -> str:
        return self.decode([token_id])

    def finish(self) -> str:
        return ""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(0x4E00 + token_id) for token_id in ids)


def test_stop_ids_and_stop_strings(released: Network) -> None:
    tokenizer = Letters()
    generator = Generator(released.config, released.weights, tokenizer, 2, released.engine)  # type: ignore[arg-type]
    prompts, free = [released.prompt(4), released.prompt(8)], GenerationOptions(24, temperature=2, top_k=0)
    first, second = generator.generate(prompts, free)
    assert max(first.ids + second.ids) < tokenizer.vocab_size
    assert (first.text, second.text) == (tokenizer.decode(first.ids), tokenizer.decode(second.ids))
    stop_id = first.ids[9]
    place = first.ids.index(stop_id)
    stopped, other = generator.generate(prompts, GenerationOptions(24, 2, 0, stop_ids=(stop_id,)))
    assert (stopped.ids, stopped.finish) == (first.ids[:place], "stop_id")
    assert stopped.text == first.text[:place] and second.text.startswith(other.text)

    string = first.text[7:10]
    place = first.text.index(string)
    options = GenerationOptions(24, 2, 0, stop_strings=(string, "没有"))
    pieces = [piece for piece in generator.stream(prompts, options) if piece.sequence == 0]
    assert "".join(piece.text for piece in pieces) == first.text[:place]
    assert pieces[-1].finish == "stop_string" and len(pieces) == place + 3
    with pytest.raises(UserError, match="need a tokenizer"):
        released.generator.generate(prompts, options)


def test_without_a_prompt_a_text_goes_on_from_its_first_token_as_from_a_prompt(released: Network) -> None:
    """That token is drawn behind an end of a document, which the text does not see; the context is full in the end."""
    generator = Generator(released.config, released.weights, Letters(), 3, released.engine)  # type: ignore[arg-type]
    options = replace(GREEDY, max_new_tokens=CONTEXT + 5, overflow="slide", repetition_penalty=1.2)
    sampled = replace(GREEDY, temperature=1.0, seed=3)
    prompts, each = [[], [9], [1, 2, 3], []], [options, GREEDY, GREEDY, sampled]
    results = generator.generate(prompts, each)
    ids = [result.ids for result in results]
    assert [result.prompt_ids for result in results] == [[9], [9], [1, 2, 3], [9]] and len(ids[0]) == CONTEXT + 5
    assert ids[1][0] == int(generator.open(1, 1).prefill([[9]])[0, :50].argmax())
    assert ids[1][1:] == generator.generate([ids[1][:1]], replace(GREEDY, max_new_tokens=11))[0].ids
    for prompt, one, wanted in zip(prompts, each, ids, strict=True):
        assert generator.generate([prompt], one)[0].ids == wanted
    # Seen, the end would change the text: the test could tell.
    batch = generator.open(1, 2)
    behind = [batch.prefill([[9, ids[1][0]]])[0], batch.prefill([ids[1][:1]])[0]]
    assert np.abs(behind[0] - behind[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "prompt 1: is empty"), ([60], "id 60 is outside 0..59"), ([-1], "id -1")]
)
def test_prompts_that_mean_nothing_are_named(released: Network, prompt: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        released.generator.generate([prompt], GREEDY)


def test_no_prompts_no_results(released: Network) -> None:
    assert released.generator.generate([], GREEDY) == []


def test_weights_that_do_not_fit_are_named(released: Network) -> None:
    weights, name = released.weights, "backbone.layernorm.beta"
    cases = {
        "lack 'backbone.layernorm.beta'": {key: value for key, value in weights.items() if key != name},
        "has no 'backbone.more'": weights | {"backbone.more": weights[name]},
        r"beta: the weights have shape \[2\], the model \[24\]": weights | {name: weights[name][:2]},
    }
    for message, wrong in cases.items():
        with pytest.raises(UserError, match=message):
            Generator(released.config, wrong, engine=released.engine)
    with pytest.raises(UserError, match="50 ids and the model 40"):
        smaller = released.config.model_copy(update={"vocab_size": 40})
        Generator(smaller, weights, Letters(), engine=released.engine)  # type: ignore[arg-type]


def test_damaged_weights_are_named_and_leave_nothing_behind() -> None:
    released = Network("mindspore", **NETWORKS["released"])
    gamma = released.generator.network.layers.final_norm.gamma
    good = gamma.asnumpy().copy()
    gamma.set_data(Tensor(np.full_like(good, np.nan)))
    with pytest.raises(UserError, match="not finite"):
        released.generator.generate([[1, 2]], GREEDY)
    gamma.set_data(Tensor(good))
    assert len(released.generator.generate([[1, 2]], GREEDY)[0].ids) == 12
