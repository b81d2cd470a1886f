"""Quantise a model layer by layer: the tensors of a quantised file, in order, with one layer in memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats.data_types import BY_NAME, FP32, TensorInfo
from pangu.foundation.errors import UserError
from pangu.quantization import gptq, smooth
from pangu.quantization.calibration import INPUTS, Calibration, InputStatistics
from pangu.quantization.quantized_file import LAYER_MATRICES, OUTPUT_MATRIX, SCALE, Quantization, is_quantized_matrix
from pangu.quantization.rounding import GROUP, Quantized, check_groups, dequantize, round_to_nearest

# By released name, fp32, in the form of a file of full precision.
Read = Callable[[str], np.ndarray]
# The norm that makes each input of matrices, where there is one to fold a factor into.
NORMS = {"attention_input": "layernorm1", "feed_forward_input": "layernorm2"}
TABLES = (
    parameters.WORD_TABLE,
    parameters.POSITION_TABLE,
    parameters.QUERY_TABLE,
    parameters.TARGET_TABLE,
    parameters.EXPERT_TABLE,
)


def stored_tensors(shape: parameters.Sizes, quantization: Quantization) -> list[tuple[str, TensorInfo]]:
    """Return names and types of all tensors of a quantised file, in the order in which they are made."""
    shapes = parameters.shapes(shape)
    result: list[tuple[str, TensorInfo]] = []

    def add(name: str, size: tuple[int, ...]) -> None:
        if not is_quantized_matrix(name):
            result.append((name, TensorInfo(FP32, size)))
            return
        *outputs, inputs = size
        if name != OUTPUT_MATRIX and quantization.bits == 4:
            check_groups(inputs, name)
            result.append((name, TensorInfo(BY_NAME["uint8"], (*outputs, inputs // 2))))
            result.append((name + SCALE, TensorInfo(BY_NAME["fp16"], (*outputs, inputs // GROUP))))
        else:
            result.append((name, TensorInfo(BY_NAME["int8"], size)))
            result.append((name + SCALE, TensorInfo(FP32, tuple(outputs))))

    for name in TABLES:
        if name in shapes:
            add(name, shapes[name])
    add(OUTPUT_MATRIX, shapes[parameters.WORD_TABLE])
    for layer, prefix in enumerate(parameters.layer_prefixes(shape.num_blocks, shape.query_layer)):
        for part in parameters.layer_parts(shape.expert_shape, layer):
            size = shapes[prefix + part]
            add(prefix + part, (*size[:-2], *size[:-3:-1]) if LAYER_MATRICES.get(part) else size)
    for name in parameters.NORM:
        add(parameters.FINAL_NORM + name, shapes[parameters.FINAL_NORM + name])
    return result


@dataclass
class LayerQuantizer:
    """Quantises the weights of one layer after the other. calibration None: round to nearest."""

    shape: parameters.Sizes
    quantization: Quantization
    read: Read
    config: ModelConfig | None = None
    ids: np.ndarray | None = None
    """int [rows, tokens] of sample text, for the methods that look at inputs"""

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield all tensors of the file, as `stored_tensors` lists them."""
        tables = {name: self.read(name) for name in TABLES if name in parameters.shapes(self.shape)}
        yield from tables.items()
        output = round_to_nearest(tables[parameters.WORD_TABLE], 8, parameters.WORD_TABLE)
        yield OUTPUT_MATRIX, output.codes
        yield OUTPUT_MATRIX + SCALE, output.scales
        calibration = None
        if self.quantization.method != "rtn":
            if self.shape.expert_shape:
                raise UserError(f"--method {self.quantization.method}: not for a network with experts; take rtn")
            assert self.config is not None and self.ids is not None
            calibration = Calibration.begin(self.config, self.ids, tables)
        del tables, output
        final_norm = {name: self.read(parameters.FINAL_NORM + name) for name in parameters.NORM}
        for number, prefix in enumerate(parameters.layer_prefixes(self.shape.num_blocks, self.shape.query_layer)):
            is_query_layer = prefix == parameters.QUERY_LAYER
            if calibration and is_query_layer and calibration.config.final_norm == "before_query":
                calibration.norm_before_query(**final_norm)
            parts = parameters.layer_parts(self.shape.expert_shape, number)
            yield from self.layer(prefix, parts, is_query_layer, calibration)
        yield from ((parameters.FINAL_NORM + name, value) for name, value in final_norm.items())

    def layer(
        self, prefix: str, parts: Mapping[str, str], is_query_layer: bool, calibration: Calibration | None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the tensors of one layer."""
        weights = {}
        for part in parts:
            weight = self.read(prefix + part)
            turned = LAYER_MATRICES.get(part)
            weights[part] = np.ascontiguousarray(weight.swapaxes(-1, -2)) if turned else weight
        statistics: Mapping[str, InputStatistics] = {}
        if calibration:
            calibration.watch(weights, is_query_layer)
            statistics = calibration.statistics
        if self.quantization.method == "smooth":
            smooth_layer(weights, statistics, is_query_layer)
        codes = {
            part: self.matrix(prefix + part, weights[part], statistics_of(part, statistics, is_query_layer))
            for part in LAYER_MATRICES
            if part in weights
        }
        if calibration:
            rounded = {part: dequantize(quantized) for part, quantized in codes.items()}
            calibration.advance(weights | rounded, is_query_layer)
        for part in parts:
            if part in codes:
                yield prefix + part, codes[part].codes
                yield prefix + part + SCALE, codes[part].scales
            else:
                yield prefix + part, weights[part]

    def matrix(self, name: str, weight: np.ndarray, statistics: InputStatistics | None) -> Quantized:
        """Return one matrix [out, in]."""
        bits: Literal[8, 4] = 8 if self.quantization.bits == 8 else 4
        if self.quantization.method == "gptq":
            assert statistics is not None
            return gptq.quantize(weight, statistics.hessian, bits, name)
        flat = round_to_nearest(weight.reshape(-1, weight.shape[-1]), bits, name)  # experts: all their rows
        codes, scales = (array.reshape(*weight.shape[:-1], *array.shape[1:]) for array in (flat.codes, flat.scales))
        return Quantized(codes, scales)


def statistics_of(part: str, statistics: Mapping[str, InputStatistics], is_query_layer: bool) -> InputStatistics | None:
    """Return the statistics of what a matrix of a layer reads. The query layer's queries come from a table of their
    own."""
    if is_query_layer and part == "attention.dense1.weight":
        return statistics.get("query_input")
    sources = (name for name, matrices in INPUTS.items() if part.removesuffix(".weight") in matrices)
    return statistics.get(next(sources, ""))


def smooth_layer(
    weights: dict[str, np.ndarray], statistics: Mapping[str, InputStatistics], is_query_layer: bool
) -> None:
    """Fold factors into the norms of a layer and into the matrices behind them, in place."""
    for source, norm in NORMS.items():
        readers = [f"{name}.weight" for name in INPUTS[source]]
        if is_query_layer:
            readers = [name for name in readers if name != "attention.dense1.weight"]
        scale = smooth.factors(statistics[source].largest, [weights[name] for name in readers])
        for name in readers:
            weights[name] = weights[name] * scale
        for name in (f"{norm}.gamma", f"{norm}.beta"):
            weights[name] = weights[name] / scale


def quantize_in_memory(
    config: ModelConfig, weights: Mapping[str, np.ndarray], quantization: Quantization, ids: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return all tensors of a quantised file of these weights (released names, full precision)."""
    quantizer = LayerQuantizer(config, quantization, lambda name: np.asarray(weights[name], np.float32), config, ids)
    return dict(quantizer.tensors())
