"""Small numbers: rounding within half a step, GPTQ better, the file format, and the way back."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pangu import parameters
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.formats.mapped_file import map_safetensors
from pangu.foundation.errors import UserError
from pangu.generation import GenerationOptions, Generator
from pangu.generation.compiled.compiled_network import CompiledNetwork
from pangu.generation.decoding_batch import RowTokens
from pangu.quantization import gptq
from pangu.quantization.calibration import Calibration
from pangu.quantization.layers import quantize_in_memory, smooth_layer
from pangu.quantization.quantized_file import METADATA, OUTPUT_MATRIX, SCALE, Quantization, dequantized, read_quantized
from pangu.quantization.rounding import GROUP, dequantize, pack, round_to_nearest, unpack

CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    ffn_hidden_size=128,
    seq_length=48,
    vocab_size=100,
    compute_dtype="fp32",
)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    result = {}
    for name, shape in parameters.shapes(CONFIG).items():
        values = random.standard_normal(shape, np.float32) * np.float32(0.2)
        result[name] = values + 1 if name.endswith("gamma") else values
    return result


@pytest.fixture
def file(weights: dict[str, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(weights, path, {"format": "ms", "final_norm": "before_query"})
    (tmp_path / "model.yaml").write_text(CONFIG.dump(), encoding="utf-8")
    return path


@given(st.integers(0, 2**32), st.floats(-40, 4), st.sampled_from([8, 4]))
def test_no_weight_moves_by_more_than_half_a_step(seed: int, exponent: float, bits: int) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((5, 64)) * 10.0**exponent).astype(np.float32)
    weight[1] = 0
    weight[2, :40] = 0
    weight[3] *= random.integers(0, 2, 64)
    quantized = round_to_nearest(weight, bits, "w")  # type: ignore[arg-type]
    scales = quantized.scales.astype(np.float64)
    scales = np.repeat(scales, GROUP, axis=1) if bits == 4 else scales[:, None]
    error = np.abs(weight.astype(np.float64) - dequantize(quantized))
    assert (error <= scales / 2 * (1 + 1e-5)).all()
    assert (scales[1] == 1).all() and not dequantize(quantized)[1].any()
    codes = quantized.codes if bits == 8 else unpack(quantized.codes)
    assert np.abs(codes.astype(int)).max() <= (127 if bits == 8 else 7)
    assert quantized.codes.nbytes * 8 == weight.size * bits


def test_codes_are_packed_and_unpacked() -> None:
    codes = np.random.default_rng(1).integers(-7, 8, (3, 96)).astype(np.int8)
    packed = pack(codes)
    np.testing.assert_array_equal(unpack(packed), codes)
    assert packed.shape == (3, 48) and packed[0, 0] == (codes[0, 0] + 8) | (codes[0, 16] + 8) << 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_named(weights: dict[str, np.ndarray], value: float) -> None:
    name = "backbone.blocks.0.output.mapping.weight"
    damaged = weights | {name: weights[name].copy()}
    damaged[name][3, 5] = value
    with pytest.raises(UserError, match=rf"{name}: holds -?(nan|inf) at \[5, 3\]"):
        quantize_in_memory(CONFIG, damaged, Quantization.of("int8", "rtn"))


@pytest.mark.parametrize("bits", [8, 4])
def test_gptq_leaves_a_third_less_error_in_the_outputs(bits: int) -> None:
    random = np.random.default_rng(2)
    # Inputs of a trained network lie near a space of fewer dimensions.
    inputs = random.standard_normal((500, 24)) @ random.standard_normal((24, 96))
    inputs = (inputs + 0.3 * random.standard_normal(inputs.shape)).astype(np.float32)
    weight = random.standard_normal((40, 96)).astype(np.float32)
    hessian = 2 * inputs.T @ inputs

    def error(quantized) -> float:  # type: ignore[no-untyped-def]
        return float(((inputs @ (weight - dequantize(quantized)).T) ** 2).sum())

    nearest = error(round_to_nearest(weight, bits, "w"))  # type: ignore[arg-type]
    assert error(gptq.quantize(weight, hessian, bits, "w")) < nearest * 2 / 3  # type: ignore[arg-type]
    # What calibration has never seen is rounded all the same.
    assert np.isfinite(dequantize(gptq.quantize(weight, np.zeros_like(hessian), bits, "w"))).all()  # type: ignore[arg-type]


IDS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (4, 48))


def test_the_calibration_pass_is_the_network(weights: dict[str, np.ndarray]) -> None:
    """Its residual stream after the last layer gives the logits; smoothing changes none of them."""
    for smoothed in (False, True):
        rows = Calibration.begin(CONFIG, IDS, weights)
        for prefix in parameters.layer_prefixes(CONFIG.num_blocks, CONFIG.query_layer):
            is_query_layer = "query" in prefix
            parts = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
            parts = {
                name: value.T if name.endswith(("projection.weight", "mapping.weight")) else value
                for name, value in parts.items()
            }
            if is_query_layer:
                rows.norm_before_query(weights["backbone.layernorm.gamma"], weights["backbone.layernorm.beta"])
            rows.watch(parts, is_query_layer)
            if smoothed:
                before = dict(parts)
                smooth_layer(parts, rows.statistics, is_query_layer)
                assert any(np.abs(parts[name] - before[name]).max() > 0.01 for name in parts)
            rows.advance(parts, is_query_layer)
        logits = rows.stream @ weights["backbone.word_embedding.embedding_table"].T
        batch = CompiledNetwork(CONFIG, weights, threads=1).open(4, 128)
        expected = batch.read([RowTokens(row, ids.tolist(), 48) for row, ids in enumerate(IDS)])
        np.testing.assert_allclose(logits, np.array(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheme", ["int8", "int4-g32"])
def test_a_file_is_quantised_used_and_turned_back(
    file: Path, weights: dict[str, np.ndarray], scheme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = file.with_name("small.safetensors")
    assert main(["convert", str(file), "--to", "safetensors", "--out", str(out), "--quantize", scheme, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert json.loads(summary["quantization"])["bits"] == (8 if scheme == "int8" else 4)
    tensors, metadata = map_safetensors(out)
    expected = quantize_in_memory(CONFIG, weights, Quantization.of(scheme, "rtn"))  # type: ignore[arg-type]
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor)
    assert metadata[METADATA] == summary["quantization"] and out.stat().st_size < file.stat().st_size

    back = file.with_name("back.safetensors")
    assert main(["convert", str(out), "--to", "safetensors", "--out", str(back)]) == 0
    full = load_file(back)
    assert full.keys() == weights.keys()
    for name, tensor in dequantized(tensors).items():
        np.testing.assert_array_equal(full[name], tensor)
    pytorch = file.with_name("torch.safetensors")
    assert main(["convert", str(out), "--to", "pytorch", "--out", str(pytorch)]) == 0
    name = "transformer.h.0.mlp.c_fc.weight"
    np.testing.assert_array_equal(load_file(pytorch)[name].T, full["backbone.blocks.0.output.mapping.weight"])

    # Every reader gets what it can use: the compiled engine the small numbers, the others full precision.
    prompt, options = IDS[0, :9].tolist(), GenerationOptions(8, temperature=0)
    [small] = Generator.load(out).generate([prompt], options)
    assert len(small.ids) == 8
    _, loaded, _ = load_for_inference(out)
    np.testing.assert_array_equal(loaded["backbone.blocks.0.output.mapping.weight"], full[name_of_mapping()])


def name_of_mapping() -> str:
    return "backbone.blocks.0.output.mapping.weight"


def test_a_file_is_read_only_where_its_header_says_what_it_is(file: Path) -> None:
    out = file.with_name("small.safetensors")
    assert main(["convert", str(file), "--to", "safetensors", "--out", str(out), "--quantize", "int4-g32"]) == 0
    tensors, metadata = map_safetensors(out)
    tensors = dict(tensors)
    name = name_of_mapping()
    wrong = Quantization.of("int8", "rtn").dump()
    cases = [
        ("is no parameter of PanGu", tensors, {}),
        ("not stored as its header says", tensors, {METADATA: wrong}),
        ("is damaged", tensors, {METADATA: "{"}),
        ("this version reads", tensors, {METADATA: metadata[METADATA].replace('"bits": 4', '"bits": 3')}),
        ("not stored as", {key: tensors[key] for key in tensors if key != name + SCALE}, metadata),
        ("not finite", tensors | {name + SCALE: np.full_like(tensors[name + SCALE], np.inf)}, metadata),
        ("excludes it", tensors | {"backbone.layernorm.beta": np.zeros(64, np.int8)}, metadata),
    ]
    for message, content, header in cases:
        save_file(content, file.with_name("wrong.safetensors"), header)
        with pytest.raises(UserError, match=message):
            load_for_inference(file.with_name("wrong.safetensors"), file.with_name("model.yaml"), as_stored=True)
    assert read_quantized(file) is None


MISTAKES = {
    "--method goes with --quantize": ["--method", "gptq"],
    "--dtype does not go": ["--quantize", "int8", "--dtype", "fp16"],
    "need --calibrate CORPUS": ["--quantize", "int8", "--method", "gptq"],
    "rtn looks at no corpus": ["--quantize", "int8", "--calibrate", "corpus"],
    "none: is no packed corpus": ["--quantize", "int8", "--method", "gptq", "--calibrate", "none"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(message: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = file.with_name("small.safetensors")
    assert main(["convert", str(file), "--to", "safetensors", "--out", str(out), *MISTAKES[message]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not out.exists()
    assert not list(file.parent.glob(".*partial"))


def test_the_room_of_small_numbers_is_what_is_asked_of_a_disk(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """int4 takes a part of fp32's room: it is written where fp32 would not fit, and a dry run tells its own."""
    out = file.with_name("small.safetensors")
    command = ["convert", str(file), "--to", "safetensors", "--out", str(out)]
    free = file.stat().st_size * 2 // 3
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    assert main(command) == 2 and "GB are free there" in capsys.readouterr().err
    assert main([*command, "--quantize", "int4-g32", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["bytes"]
    assert main([*command, "--quantize", "int4-g32"]) == 0
    assert told == sum(array.nbytes for array in load_file(out).values()) < free


@pytest.mark.parametrize("method", ["gptq", "smooth"])
def test_the_methods_that_look_at_text_make_the_same_file_format(weights: dict[str, np.ndarray], method: str) -> None:
    quantization = Quantization.of("int4-g32", method)  # type: ignore[arg-type]
    tensors = quantize_in_memory(CONFIG, weights, quantization, IDS)
    nearest = quantize_in_memory(CONFIG, weights, Quantization.of("int4-g32", "rtn"))
    assert [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()] == [
        (name, tensor.shape, tensor.dtype) for name, tensor in nearest.items()
    ]

    def logits(stored: dict[str, np.ndarray]) -> np.ndarray:
        return CompiledNetwork(CONFIG, stored, threads=1).open(1, 128).read([RowTokens(0, IDS[0].tolist(), 48)])[0]

    exact = logits(weights)
    errors = [np.square(logits(stored) - exact).mean() for stored in (tensors, nearest)]
    assert errors[0] < errors[1] * (0.9 if method == "gptq" else 1.5)
    assert OUTPUT_MATRIX in tensors
