"""The compiled engine: the same bits in any company, every way of storing weights, adapters, given positions."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats.data_types import BF16, FP32, cast
from pangu.foundation.compiled_sources import digest_of
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.compiled import phases
from pangu.generation.compiled.compiled_network import CompiledBatch, CompiledNetwork, LowRankAdapter, stored_as
from pangu.generation.compiled.phases import work_on
from pangu.generation.decoding_batch import DecodingBatch, RowTokens
from pangu.generation.likelihood import score
from pangu.generation.speculation import Draft
from pangu.quantization.layers import quantize_in_memory
from pangu.quantization.quantized_file import (
    OUTPUT_MATRIX,
    SCALE,
    Quantization,
    dequantized,
    is_quantized_matrix,
    is_stored_turned,
)
from tests.conftest import REPOSITORY

CONTEXT = 100
Weights = Mapping[str, np.ndarray]


def config_of(**fields: object) -> ModelConfig:
    sizes = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_hidden_size": 96, "vocab_size": 90}
    return ModelConfig.from_fields({"seq_length": CONTEXT, "compute_dtype": "fp32", **sizes, **fields}, "test")


def random_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    weights = {}
    for name, shape in parameters.shapes(config).items():
        values = random.standard_normal(shape, np.float32) * np.float32(0.2)
        weights[name] = values + 1 if name.endswith("gamma") else values
    return weights


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return config_of()


@pytest.fixture(scope="module")
def weights(config: ModelConfig) -> Weights:
    return random_weights(config)


@pytest.fixture(scope="module")
def network(config: ModelConfig, weights: Weights) -> CompiledNetwork:
    return CompiledNetwork(config, weights, threads=2)


IDS = np.random.default_rng(1).integers(0, 90, CONTEXT).tolist()
OTHER = np.random.default_rng(2).integers(0, 90, CONTEXT).tolist()


def all_logits(network: CompiledNetwork, ids: list[int]) -> np.ndarray:
    """Of every token, read in one go."""
    [logits] = network.open(1, 128).read([RowTokens(0, ids, wanted=len(ids))])
    return logits


def one_by_one(batch: DecodingBatch, row: int, ids: list[int]) -> np.ndarray:
    return np.concatenate([batch.read([RowTokens(row, [token])])[0] for token in ids])


def test_the_bits_do_not_depend_on_company_threads_or_where_a_prompt_is_cut(
    config: ModelConfig, weights: Weights, network: CompiledNetwork
) -> None:
    expected = all_logits(network, IDS)
    for threads in (1, 2, 3):
        batch = CompiledNetwork(config, weights, threads=threads).open(4, 128)
        np.testing.assert_array_equal(one_by_one(batch, 2, IDS), expected)
        # A row is admitted, and released, while another decodes; prompt and single tokens in one call.
        batch.release(2)
        got = [batch.read([RowTokens(2, IDS[:30], wanted=30)])[0]]
        for start in range(30, CONTEXT, 7):
            parts = [
                RowTokens(0, OTHER[:start]),
                RowTokens(2, IDS[start : start + 7], wanted=7),
                RowTokens(3, [start % 90]),
            ]
            got.append(batch.read(parts)[1])
            batch.release(0)
        np.testing.assert_array_equal(np.concatenate(got), expected)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize(
    "widths", [(640, 4, 1024), (528, 6, 1100), (8, 2, 12), (64, 2, 4096), (96, 2, 4448), (32, 2, 4106)], ids=str
)
def test_a_prompt_of_any_width_has_the_bits_of_its_tokens(widths: tuple[int, int, int], kind: str) -> None:
    """A prompt is multiplied in parts of 512 inputs, by 16; heads of 160, 88 and 4 are no multiples of 64."""
    hidden, heads, inner = widths
    if kind == "int4" and inner % 32:
        hidden, heads, inner = 544, 4, 1056
    config = config_of(num_layers=2, hidden_size=hidden, num_heads=heads, ffn_hidden_size=inner)
    weights = random_weights(config)
    if kind in ("int8", "int4"):
        weights = quantize_in_memory(config, weights, Quantization.of({"int4": "int4-g32"}.get(kind, kind), "rtn"))
    else:
        weights = stored_as(weights, kind)
    network = CompiledNetwork(config, weights, threads=2)
    expected = all_logits(network, IDS)
    assert np.isfinite(expected).all() and expected.std() > 0
    np.testing.assert_array_equal(one_by_one(network.open(1, 112), 0, IDS), expected)


@pytest.mark.parametrize("slots", [1, CONTEXT])
def test_rows_of_numbers_begin_at_cache_lines(network: CompiledNetwork, slots: int) -> None:
    batch = network.open(2, slots)
    widths = {"STREAM", "Q", "K", "V", "ATTENDED", "INNER_ROWS", "SCRATCH", "KEY_CACHE", "VALUE_CACHE"}
    for name in widths:
        array = batch.arrays[name]
        assert array.ctypes.data % 64 == 0 and array.strides[-2] % 64 == 0, name


def test_a_released_row_remembers_nothing(network: CompiledNetwork) -> None:
    batch = network.open(1, 128)
    batch.read([RowTokens(0, OTHER)])
    batch.release(0)
    np.testing.assert_array_equal(one_by_one(batch, 0, IDS[:20]), all_logits(network, IDS[:20]))


STORED = {
    "fp16": lambda weights: stored_as(weights, "fp16"),
    "bf16": lambda weights: stored_as(weights, "bf16"),
    "int8": lambda weights: quantize_in_memory(config_of(), weights, Quantization.of("int8", "rtn")),
    "int4": lambda weights: quantize_in_memory(config_of(), weights, Quantization.of("int4-g32", "rtn")),
}


def widened(stored: Weights) -> dict[str, np.ndarray]:
    """The same weights in fp32; the output matrix, where it is stored apart, becomes the word table's rows."""
    wide = {
        name: cast(tensor, BF16, FP32) if tensor.dtype == np.uint16 else tensor.astype(np.float32)
        for name, tensor in (dequantized(stored) if OUTPUT_MATRIX in stored else stored).items()
    }
    return wide


@pytest.mark.parametrize("kind", STORED)
def test_weights_stored_small_are_those_numbers_in_fp32(config: ModelConfig, weights: Weights, kind: str) -> None:
    stored = STORED[kind](weights)
    network = CompiledNetwork(config, stored, threads=1)
    got = all_logits(network, IDS)
    np.testing.assert_array_equal(one_by_one(network.open(2, 128), 1, IDS), got)
    if OUTPUT_MATRIX in stored:
        full = CompiledNetwork(config, widened(stored) | {}, threads=1)
        full.matrices[phases.HEAD - phases.TABLES] = full.matrix(
            stored[OUTPUT_MATRIX].astype(np.float32) * stored[OUTPUT_MATRIX + SCALE][:, None], None, None
        )
    else:
        full = CompiledNetwork(config, widened(stored), threads=1)
    # A scale multiplies a sum here and each weight there; everything else is the same arithmetic.
    np.testing.assert_allclose(got, all_logits(full, IDS), rtol=0, atol=1e-5 if OUTPUT_MATRIX in stored else 0)


def test_adapters_kept_apart_equal_merged_ones_and_change_no_other_row(config: ModelConfig, weights: Weights) -> None:
    random, names = np.random.default_rng(3), {}
    merged = dict(weights)
    for name, weight in weights.items():
        if is_quantized_matrix(name):
            matrix = weight.T if is_stored_turned(name) else weight
            first = random.standard_normal((4, matrix.shape[1]), np.float32) * np.float32(0.1)
            second = random.standard_normal((matrix.shape[0], 4), np.float32) * np.float32(0.1)
            names[name.removesuffix(".weight")] = (first, second)
            product = second @ first
            merged[name] = weight + (product.T if is_stored_turned(name) else product)
    some = {name: pair for name, pair in names.items() if "dense" in name}
    network = CompiledNetwork(config, weights, [LowRankAdapter(some), LowRankAdapter(names)], threads=2)
    batch = network.open(3, 128)
    parts = [RowTokens(0, IDS[:40], 40), RowTokens(1, IDS[:24], 24, adapter=1), RowTokens(2, IDS[:5], 5, adapter=0)]
    plain, adapted, _ = batch.read(parts)
    np.testing.assert_array_equal(plain, all_logits(network, IDS[:40]))
    expected = all_logits(CompiledNetwork(config, merged, threads=1), IDS[:24])
    np.testing.assert_allclose(adapted, expected, rtol=0, atol=1e-4)
    assert np.abs(adapted - plain[:24]).max() > 0.01
    with pytest.raises(UserError, match="no linear layer"):
        CompiledNetwork(
            config, weights, [LowRankAdapter({"backbone.more": names["backbone.blocks.0.attention.dense1"]})]
        )


def test_positions_and_query_positions_are_what_is_asked_for(config: ModelConfig, weights: Weights) -> None:
    """Moved rows of the tables at moved positions give the same numbers."""
    shift = 7
    moved = dict(weights)
    for table in ("position_embedding", "top_query_embedding"):
        name = f"backbone.{table}.embedding_table"
        moved[name] = np.roll(weights[name], shift, axis=0)
    expected = all_logits(CompiledNetwork(config, weights, threads=1), IDS[:20])
    places = list(range(shift, shift + 20))
    batch = CompiledNetwork(config, moved, threads=1).open(1, 128)
    [got] = batch.read([RowTokens(0, IDS[:20], 20, positions=places)])
    np.testing.assert_array_equal(got, expected)
    asks_elsewhere = [places[-1]] * 20
    batch.release(0)
    [other] = batch.read([RowTokens(0, IDS[:20], 20, positions=places, query_positions=asks_elsewhere)])
    np.testing.assert_array_equal(other[-1], expected[-1])
    # The first token sees one slot, whatever it asks with.
    assert np.abs(other[1:-1] - expected[1:-1]).max(axis=-1).min() > 0.001


def test_a_free_row_takes_the_next_prompt_and_texts_stay_the_same(config: ModelConfig, weights: Weights) -> None:
    prompts = [IDS[:length] for length in (3, 50, 1, 12, 7)]
    options = GenerationOptions(20, temperature=1.3, top_k=0, stop_ids=(5, 6, 7, 8), seed=2)
    alone = Generator(config, weights, batch_size=1, threads=1).generate(prompts, options)
    together = Generator(config, weights, batch_size=2).generate(prompts, options)
    assert [result.ids for result in together] == [result.ids for result in alone]
    assert len({len(result.ids) for result in alone}) > 1


@pytest.mark.parametrize(
    "part",
    [
        RowTokens(0, [90]),
        RowTokens(0, [-1]),
        RowTokens(0, []),
        RowTokens(2, [1]),
        RowTokens(0, [1] * 101),
        RowTokens(0, [1], positions=[100]),
        RowTokens(0, [1], query_positions=[-1]),
        RowTokens(0, [1, 2], positions=[1]),
        RowTokens(0, [1], adapter=0),
    ],
)
def test_nothing_outside_the_tables_is_read(network: CompiledNetwork, part: RowTokens) -> None:
    with pytest.raises(ValueError, match="does not fit 2 rows"):
        network.open(2, 128).read([part])


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("overflow", ["refuse", "slide"])
def test_a_draft_changes_no_token(config: ModelConfig, weights: Weights, temperature: float, overflow: str) -> None:
    """A good draft (int4 weights of the model itself), and one that is another model."""
    options = GenerationOptions(
        40 if overflow == "refuse" else 130,
        temperature,
        top_k=0,
        repetition_penalty=1.1,
        stop_ids=(5,) if overflow == "refuse" else (),
        overflow=overflow,  # type: ignore[arg-type]
    )
    prompts = [IDS[:20], OTHER[:1], IDS[40:70], OTHER[:7]]

    class Begins(Generator):
        nothing = OTHER[2:3]  # as the end of a document, of which no tokenizer speaks here

    plain = Begins(config, weights)
    expected, begun = ([result.ids for result in plain.generate(asked, options)] for asked in (prompts, [[]]))
    for guessing in (
        STORED["int4"](weights),
        random_weights(config) | {"backbone.layernorm.beta": np.ones(64, np.float32)},
    ):
        calls = 0

        class Counting(CompiledNetwork):
            def open(self, rows: int, slots: int) -> CompiledBatch:
                batch = super().open(rows, slots)
                read = batch.read

                def counted(parts: list[RowTokens]) -> list[np.ndarray]:
                    nonlocal calls
                    calls += 1
                    return read(parts)

                batch.read = counted  # type: ignore[method-assign, assignment]
                return batch

        generator = Begins(config, weights, batch_size=2)
        generator.network = Counting(config, weights)
        generator.draft = Draft(config, CompiledNetwork(config, guessing), count=3)
        assert [result.ids for result in generator.generate(prompts, options)] == expected
        if temperature == 0 and OUTPUT_MATRIX in guessing:
            assert calls < max(map(len, expected))
        assert generator.generate([[]], options)[0].ids == begun[0]
    with pytest.raises(UserError, match="no shorter context"):
        Draft(config_of(seq_length=CONTEXT + 1), CompiledNetwork(config, weights))


def test_weights_that_do_not_fit_are_named(config: ModelConfig, weights: Weights) -> None:
    name = "backbone.blocks.0.output.mapping.weight"
    stored = STORED["int4"](weights)
    cases = {
        "type int8 cannot": dict(weights) | {name: weights[name].astype(np.int8)},
        "type float64 cannot": dict(weights) | {name: weights[name].astype(np.float64)},
        "lack": {key: value for key, value in stored.items() if key != name},
    }
    for message, wrong in cases.items():
        with pytest.raises(UserError, match=message):
            CompiledNetwork(config, wrong)
    with pytest.raises(UserError, match="multiples of 32"):
        small = config_of(hidden_size=48, num_heads=4)
        CompiledNetwork(small, quantized_columns(random_weights(small)))
    with pytest.raises(UserError, match="softmax_dtype fp16"):
        CompiledNetwork(config_of(softmax_dtype="fp16"), weights)
    with pytest.raises(UserError, match=r"1e\+06 is beyond fp16"):
        stored_as(dict(weights) | {name: weights[name] + 1e6}, "fp16")
    with pytest.raises(UserError, match="quantised"):
        stored_as(stored, "fp32")


def quantized_columns(weights: Weights) -> dict[str, np.ndarray]:
    """int4 codes of rows that are no whole groups, which no file of ours holds."""
    result = dict(weights)
    for name, weight in weights.items():
        if is_quantized_matrix(name):
            matrix = weight.T if is_stored_turned(name) else weight
            result[name] = np.zeros((matrix.shape[0], matrix.shape[1] // 2), np.uint8)
            result[name + SCALE] = np.ones((matrix.shape[0], 1), np.float16)
    return result


def test_a_change_in_any_file_of_compiled_code_compiles_again() -> None:
    """numba itself looks at the file of the outermost function only."""
    assert digest_of(Path(phases.__file__)) in work_on._cache._cache_file._source_stamp


def test_both_engines_score_several_contexts_alike(config: ModelConfig, weights: Weights) -> None:
    requests = [([3, 4, 5], [6, 7, 8]), ([9], [1]), ([9], [2, 3]), ([1, 2], [3, 4])]
    found = [score(Generator(config, weights, engine=engine), requests) for engine in ("compiled", "mindspore")]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, rtol=0, atol=1e-5)


def test_damaged_weights_are_an_error_and_no_text(config: ModelConfig, weights: Weights) -> None:
    name = "backbone.blocks.1.output.projection.bias"
    damaged = dict(weights) | {name: np.full_like(weights[name], np.nan)}
    with pytest.raises(UserError, match="not finite"):
        Generator(config, damaged).generate([[1, 2]], GenerationOptions(3))


def test_generating_and_serving_import_no_mindspore() -> None:
    program = (
        "import importlib.util, sys\n"
        "from pangu.commands import generate, serve\n"
        "if importlib.util.find_spec('starlette') and importlib.util.find_spec('uvicorn'):\n"
        "    from pangu.serving import application, connection\n"
        "from pangu.generation import Generator\n"
        "from pangu.generation.compiled.compiled_network import CompiledNetwork\n"
        "from pangu.checkpoint.weights import load_for_inference\n"
        "print(sorted(name for name in ('mindspore', 'torch') if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
