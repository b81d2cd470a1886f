"""A plain decoder (`query_layer: false`) has GPT-2's architecture: its weights under GPT-2's names, and back.

GPT-2 holds query, key and value in one matrix [d, 3d], and every matrix as [in, out].
"""

import json
import re
from pathlib import Path

import numpy as np

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats import names
from pangu.formats.data_types import TensorInfo, bytes_of
from pangu.formats.source import Source
from pangu.foundation.errors import UserError
from pangu.foundation.small_file import read_small
from pangu.foundation.yaml_document import shown

JOINED = re.compile(r"(?:transformer\.)?h\.(\d{1,6})\.attn\.c_attn\.(weight|bias)")
PARTS = ("dense1", "dense2", "dense3")
# What GPT-2's configuration calls our activations.
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu_erf": "gelu", "fast_gelu": "quick_gelu"}
OUR_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
CONFIG = "config.json"
# What of GPT-2's configuration changes the numbers, and the only value that is computed here, which is its default.
FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def config_of(model: ModelConfig, end_of_document: int | None) -> dict[str, object]:
    """Return GPT-2's config.json of a plain decoder."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.seq_length,
        "n_ctx": model.seq_length,
        "n_embd": model.hidden_size,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": model.ffn_hidden_size,
        "activation_function": ACTIVATIONS[model.activation],
        "resid_pdrop": model.dropout_rate,
        "embd_pdrop": model.dropout_rate,
        "attn_pdrop": model.dropout_rate,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
    }


def model_in_config(path: Path) -> ModelConfig | None:
    """Return the network that a GPT-2's config.json describes; None for another model's. Raises UserError."""
    try:
        fields = json.loads(read_small(path))
        if fields.get("model_type") != "gpt2":
            return None
        activation = OUR_ACTIVATIONS.get(fields.get("activation_function", "gelu_new"))
        if activation is None:
            raise UserError(f"{path}: field 'activation_function': this network has {', '.join(OUR_ACTIVATIONS)} only")
        for name, ours in FIXED.items():
            if fields.get(name, ours) != ours:
                given = shown(fields[name])
                raise UserError(f"{path}: field {name!r}: is {given}; this network has {shown(ours)} only")
        hidden = fields["n_embd"]
        sizes = {
            "num_layers": fields["n_layer"],
            "hidden_size": hidden,
            "num_heads": fields["n_head"],
            "ffn_hidden_size": fields.get("n_inner") or 4 * hidden,
            "seq_length": fields["n_positions"],
            "vocab_size": fields["vocab_size"],
        }
        dropout = float(fields.get("resid_pdrop", 0.1))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: is no configuration of GPT-2: {type(error).__name__} {error}") from None
    more = {"query_layer": False, "activation": activation, "compute_dtype": "fp32", "dropout_rate": dropout}
    return ModelConfig.from_fields(sizes | more, str(path))


def gpt2_weights(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights of a plain decoder (released names) under GPT-2's."""
    result: dict[str, np.ndarray] = {}
    blocks = {number for number in map(names.block_number, weights) if number is not None}
    torch = names.torch_names(len(blocks), query_layer=False)
    for number in sorted(blocks):
        prefix, theirs = f"{parameters.BLOCK.format(number)}attention.", f"transformer.h.{number}.attn.c_attn."
        result[f"{theirs}weight"] = np.concatenate([weights[f"{prefix}{part}.weight"] for part in PARTS]).T
        result[f"{theirs}bias"] = np.concatenate([weights[f"{prefix}{part}.bias"] for part in PARTS])
    for ours, weight in weights.items():
        if not any(f".{part}." in ours for part in PARTS):
            result[torch[ours]] = weight  # the other matrices are [in, out] with us as well
    return {name: np.ascontiguousarray(weight) for name, weight in result.items()}


class Gpt2Source(Source):
    """GPT-2's weights under the released names. inner: the file as it is."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.places: dict[str, tuple[str, int]] = {}  # our name -> (GPT-2's, which of the three parts)
        tensors: dict[str, TensorInfo] = {}
        for name, info in inner.tensors.items():
            match = JOINED.fullmatch(name)
            if match is None:
                recognised, _ = names.recognise(name)
                tensors[recognised or name] = info
                self.places[recognised or name] = (name, 0)
                continue
            width = info.shape[-1] // 3
            if info.shape[-1] != 3 * width or (match[2] == "weight" and info.shape[0] != width):
                raise UserError(f"{inner.path}: {name!r} of shape {list(info.shape)} does not hold three parts")
            for number, part in enumerate(PARTS):
                ours = f"{parameters.BLOCK.format(int(match[1]))}attention.{part}.{match[2]}"
                tensors[ours] = TensorInfo(info.data_type, (width,) * len(info.shape))
                self.places[ours] = (name, number)
        super().__init__(inner.path, f"GPT-2, {inner.form}", tensors, inner.files)
        self.metadata = dict(inner.metadata)

    def fill(self, name: str, first: int, last: int, view: memoryview) -> None:
        theirs, number = self.places[name]
        if not JOINED.fullmatch(theirs):
            self.inner.fill(theirs, first, last, view)
            return
        width = self.tensors[name].shape[0]
        columns = (number * width + first, number * width + last)
        rows = [(0, width)] if len(self.tensors[name].shape) == 2 else []
        part = self.inner.read_region(theirs, [*rows, columns])
        view[:] = bytes_of(np.ascontiguousarray(part.T))

    def __exit__(self, *arguments: object) -> None:
        self.inner.open_files.close()


def is_gpt2(source: Source) -> bool:
    """Return whether weights have GPT-2's names."""
    return any(JOINED.fullmatch(name) for name in source.tensors)
