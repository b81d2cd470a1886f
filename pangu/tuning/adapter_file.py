"""Read and write what fine-tuning leaves: a directory that PEFT reads too where PEFT has the method.

    OUT/adapter_config.json        as PEFT writes it (LoRA; `pangu.tuning.soft_prompt`: prefix, prompt, P-tuning)
    OUT/adapter_model.safetensors  lora_A [r, in] and lora_B [out, r] under the PyTorch port's names (LoRA)
    OUT/trained.safetensors        trained weights under the released names (full, bitfit, adapter)
    OUT/tuning.json                method, template, the base's path and digest, settings, figures
    OUT/tokenizer/

The formula of LoRA (Hu et al. 2021, arXiv 2106.09685): W + alpha/r · B A, with W [out, in].
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pangu import parameters
from pangu.checkpoint.open import file_digest
from pangu.checkpoint.weights import check_finite
from pangu.config import ModelConfig
from pangu.formats.data_types import BF16, FP32, cast
from pangu.formats.names import is_transposed, torch_names
from pangu.formats.open_source import open_source
from pangu.formats.safetensors_file import write_tensors
from pangu.foundation.atomic_file import atomic_file, write_whole
from pangu.foundation.errors import UserError
from pangu.foundation.json_text import dumps, loads
from pangu.foundation.settings import nearest_name
from pangu.foundation.small_file import read_small
from pangu.foundation.yaml_document import shown
from pangu.generation.additions import Bottleneck
from pangu.tuning.template import TEMPLATES, Template, template_of

TUNING, CONFIG, MATRICES, TRAINED = (
    "tuning.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "trained.safetensors",
)
VERSION = 1
PEFT_PREFIX = "base_model.model."
# What users call the six matrices of a layer (PEFT's target_modules) -> the released names.
MODULES = {
    "q_proj": "attention.dense1",
    "k_proj": "attention.dense2",
    "v_proj": "attention.dense3",
    "attn.c_proj": "attention.projection",
    "c_fc": "output.mapping",
    "mlp.c_proj": "output.projection",
}
DEFAULT_MODULES = ("q_proj", "v_proj")
ALL = "all"
# Behind the names of the two linear layers that write into the residual: an adapter's own weights.
BOTTLENECK = "adapter"
BEHIND = ("attention.projection", "output.projection")
MINDFORMERS = "adapter_model.ckpt"  # a checkpoint of MindFormers, in the place of adapter_model.safetensors
# What of PEFT's settings of LoRA changes the numbers, and the only value that is computed here.
SUPPORTED: dict[str, Any] = {
    "fan_in_fan_out": False,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
_MINDFORMERS = re.compile(r"(.+)\.mindpet_delta_lora_([ab])")


@dataclass(frozen=True)
class LoraMatrices:
    """{name of a linear layer, e.g. backbone.blocks.0.attention.dense1: (A [r, in], B [out, r])}."""

    matrices: dict[str, tuple[np.ndarray, np.ndarray]]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """Return alpha / r."""
        return self.alpha / self.rank


def module_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Return modules by name, `all` for the six. Raises UserError with the nearest name."""
    if given == (ALL,):
        return tuple(MODULES)
    for name in given:
        if name not in MODULES:
            raise UserError(f"module {name!r} is unknown{nearest_name(name, list(MODULES))}; or {ALL}")
        if given.count(name) > 1:
            raise UserError(f"module {name!r} is there twice; give it once")
    return given


def layers_of(config: ModelConfig, modules: tuple[str, ...]) -> list[str]:
    """Return the names of the linear layers that modules mean, layer by layer, the query layer last."""
    prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
    inner = [module for module in modules if MODULES[module].startswith(parameters.FEED_FORWARD)]
    if config.experts is not None and inner:
        raise UserError(f"module {inner[0]!r}: has experts in this network, which take no adapters; leave it out")
    return [f"{prefix}{MODULES[module]}" for prefix in prefixes for module in modules]


def bottleneck_places(config: ModelConfig) -> list[str]:
    """Return the names of the linear layers that have an adapter behind them."""
    prefixes = parameters.layer_prefixes(config.num_blocks, config.query_layer)
    return [f"{prefix}{place}" for prefix in prefixes for place in BEHIND]


def read_bottlenecks(folder: Path, config: ModelConfig) -> dict[str, Bottleneck]:
    """Read the adapters behind every layer's projections. Raises UserError."""
    found, hidden = read_tensors(folder / TRAINED), config.hidden_size
    width = next((len(array) for name, array in found.items() if name.endswith(".down")), 0)
    shapes = {"down": (width, hidden), "down_bias": (width,), "up": (hidden, width), "up_bias": (hidden,)}
    wanted = {
        f"{place}.{BOTTLENECK}.{name}": shape for place in bottleneck_places(config) for name, shape in shapes.items()
    }
    if not width or {name: array.shape for name, array in found.items()} != wanted:
        raise UserError(f"{folder / TRAINED}: does not hold an adapter behind each of {len(wanted) // 4} layers")
    return {
        place: Bottleneck(*(found[f"{place}.{BOTTLENECK}.{name}"].astype(np.float32) for name in shapes))
        for place in bottleneck_places(config)
    }


def sizes_of(config: ModelConfig, layer: str) -> tuple[int, int]:
    """Return (in, out) of a linear layer."""
    shape = parameters.shapes(config)[f"{layer}.weight"]
    return (shape[0], shape[1]) if is_transposed(f"{layer}.weight") else (shape[1], shape[0])


def digest_of(weights: Mapping[str, np.ndarray]) -> str:
    """Return a digest of weights by their values in fp32, whatever file they come from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        array = weights[name]
        if array.dtype == np.uint16:  # bf16 as it is stored
            array = cast(array, BF16, FP32)
        digest.update(np.ascontiguousarray(array, np.float32).view(np.uint8).data)
    return digest.hexdigest()


def peft_name(config: ModelConfig, layer: str) -> str:
    """Return the PyTorch port's name of a layer, e.g. transformer.h.0.attn.q_proj."""
    return torch_names(config.num_blocks, config.query_layer)[f"{layer}.weight"].removesuffix(".weight")


def write_lora(folder: Path, config: ModelConfig, lora: LoraMatrices, base: str, modules: tuple[str, ...]) -> None:
    """Write LoRA matrices as PEFT does."""
    tensors = {}
    for layer, (first, second) in lora.matrices.items():
        name = PEFT_PREFIX + peft_name(config, layer)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = first, second
    save_tensors(folder / MATRICES, tensors, {"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "fan_in_fan_out": False,
        "bias": "none",
        "inference_mode": True,
    }
    write_whole(folder / CONFIG, json.dumps(settings, indent=2) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with atomic_file(path) as file:
        write_tensors(file, tensors, metadata)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file. Raises UserError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    check_finite(tensors, str(path))
    return tensors


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read a checkpoint of MindSpore. Raises UserError."""
    source = open_source(path)
    with source:
        tensors = {name: source.read(name) for name in source.tensors}
    check_finite(tensors, str(path))
    return tensors


def read_lora(folder: Path, config: ModelConfig) -> LoraMatrices:
    """Read LoRA matrices: PEFT's directory, or with MindFormers' names, also as its checkpoint. Raises UserError.

    Such a checkpoint says neither rank nor alpha: adapter_config.json does. It may hold the base's weights too.
    """
    settings = read_json(folder / CONFIG)
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    has_rank = isinstance(rank, int) and rank >= 1
    has_alpha = isinstance(alpha, int | float) and math.isfinite(alpha)
    if settings.get("peft_type") != "LORA" or not has_rank or not has_alpha:
        raise UserError(f"{folder / CONFIG}: must have peft_type LORA, r of 1 and more, and a number lora_alpha")
    for name, wanted in SUPPORTED.items():
        if settings.get(name) not in (None, wanted):
            raise UserError(
                f"{folder / CONFIG}: field {name!r}: {shown(settings[name])} is not supported; only {shown(wanted)} is"
            )
    names = {peft_name(config, layer): layer for layer in layers_of(config, tuple(MODULES))}
    halves: dict[str, dict[str, np.ndarray]] = {}
    is_peft = True
    place = folder / MATRICES
    if not place.is_file() and (folder / MINDFORMERS).is_file():
        place = folder / MINDFORMERS
    ours = parameters.shapes(config)
    for name, array in (read_tensors(place) if place.name == MATRICES else read_checkpoint(place)).items():
        found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        old = _MINDFORMERS.fullmatch(name)
        if found and found[1] in names:
            halves.setdefault(names[found[1]], {})[found[2]] = array
        elif old and old[1] in names.values():
            halves.setdefault(old[1], {})[old[2].upper()] = array
            is_peft = False  # its configuration names the modules in another way
        elif name not in ours or place.name == MATRICES:
            raise UserError(f"{place}: {name!r} is no LoRA matrix of this model")
    if not halves:
        raise UserError(f"{place}: holds no LoRA matrix")
    if is_peft:
        check_targets(folder / CONFIG, settings, names, set(halves), place)
    matrices = {}
    for layer, pair in halves.items():
        inputs, outputs = sizes_of(config, layer)
        if set(pair) != {"A", "B"} or pair["A"].shape != (rank, inputs) or pair["B"].shape != (outputs, rank):
            raise UserError(f"{place}: {layer}: must be A [{rank}, {inputs}] and B [{outputs}, {rank}]")
        matrices[layer] = (pair["A"].astype(np.float32), pair["B"].astype(np.float32))
    return LoraMatrices(matrices, settings["r"], float(settings["lora_alpha"]))


def check_targets(
    where: Path, settings: Mapping[str, Any], names: Mapping[str, str], present: set[str], place: Path
) -> None:
    """Raise UserError where the modules that a configuration names are not those that have matrices.

    names: {PEFT's name of a linear layer: ours}. As PEFT does, a list means the ends of names, a text is an expression,
    and layers_to_transform leaves out the layers, the query layer among them, that it does not name.
    """
    targets, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if targets is None:
        return
    numbers = [layers] if isinstance(layers, int) else layers
    try:
        meant = {ours for name, ours in names.items() if is_target(name, targets, numbers)}
    except (TypeError, AttributeError, re.error):
        raise UserError(
            f"{where}: field 'target_modules': {shown(targets)} is neither names nor an expression"
        ) from None
    theirs = {ours: name for name, ours in names.items()}
    for layer in sorted(meant ^ present):
        if layer in meant:
            raise UserError(f"{place}: lacks matrices of {theirs[layer]}, which target_modules of {where.name} names")
        raise UserError(f"{place}: has matrices of {theirs[layer]}, which target_modules of {where.name} leaves out")


def is_target(name: str, targets: Any, numbers: Any) -> bool:
    """Return whether a linear layer is meant by PEFT's target_modules and layers_to_transform."""
    if isinstance(targets, str):
        return targets == "all-linear" or re.fullmatch(targets, name) is not None
    number = re.search(r"\.(\d+)\.", name)
    is_layer = not numbers or (number is not None and int(number[1]) in numbers)
    return is_layer and any(name == one or name.endswith("." + one) for one in targets)


def merged(weights: Mapping[str, np.ndarray], lora: LoraMatrices) -> dict[str, np.ndarray]:
    """Return weights with LoRA added, W + alpha/r · B A; the product is in float64. `weights` stay as they are."""
    result = dict(weights)
    for layer, (first, second) in lora.matrices.items():
        name = f"{layer}.weight"
        delta = lora.scale * (second.astype(np.float64) @ first.astype(np.float64))
        base = np.asarray(result[name], np.float32)
        result[name] = (base + (delta.T if is_transposed(name) else delta)).astype(np.float32)
    return result


def low_rank(
    folder: Path, config: ModelConfig, weights: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {linear layer: (A, alpha/r · B)}, to add to a base without merging. Raises UserError.

    weights: of the base, as stored. Quantised ones cannot be compared with those that the adapter was made for.
    """
    if not is_adapter(folder):
        raise UserError(f"{folder}: is no adapter: it has neither {TUNING} nor {CONFIG}")
    said = read_tuning(folder) if (folder / TUNING).is_file() else {}
    is_peft = (folder / CONFIG).is_file()
    kind = str(read_json(folder / CONFIG).get("peft_type") if is_peft else said.get("method"))
    if kind != "LORA":
        raise UserError(f"{folder}: is of method {kind.lower()}; only lora stands beside others: load it as a model")
    is_quantized = any(array.dtype.itemsize == 1 for array in weights.values())
    if said and not is_quantized and said.get("base_digest") != digest_of(weights):
        raise UserError(f"{folder}: was made for other weights; give its own base")
    lora = read_lora(folder, config)
    return {layer: (first, np.float32(lora.scale) * second) for layer, (first, second) in lora.matrices.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError."""
    try:
        value = loads(read_small(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a JSON object")
    return value


def write_tuning(folder: Path, fields: dict[str, Any]) -> None:
    """Write tuning.json."""
    write_whole(folder / TUNING, dumps({"version": VERSION, **fields}, ensure_ascii=False, indent=1) + "\n")


def read_tuning(folder: Path) -> dict[str, Any]:
    """Read tuning.json. Raises UserError for a later version."""
    fields = read_json(folder / TUNING)
    if not isinstance(fields.get("version"), int) or fields["version"] > VERSION:
        raise UserError(f"{folder / TUNING}: version {shown(fields.get('version'))} is not one of 1 to {VERSION}")
    return fields


def is_adapter(path: Path) -> bool:
    """Return whether a path is what `finetune` leaves, or a directory of PEFT's."""
    return (path / TUNING).is_file() or (path / CONFIG).is_file()


def contents(folder: Path) -> dict[str, str]:
    """Return digests of what an adapter adds, and of the base that it was made for."""
    said = read_tuning(folder) if (folder / TUNING).is_file() else {}
    files = [folder / name for name in (CONFIG, MATRICES, MINDFORMERS, TRAINED) if (folder / name).is_file()]
    fields = {name: str(said.get(name, "")) for name in ("base_digest", "position_offset", "template")}
    return {file.name: file_digest(file) for file in files} | fields


def template_of_model(path: Path) -> Template:
    """Return the template that a model answers by: an adapter's own, else the paper's form of questions."""
    if (path / TUNING).is_file():
        return template_of(read_tuning(path).get("template"), str(path / TUNING))
    return TEMPLATES["qa"]


def base_of(folder: Path, given: Path | str | None = None) -> Path:
    """Return where an adapter's base is: what is given, else what the adapter says. Raises UserError."""
    said = read_tuning(folder) if (folder / TUNING).is_file() else {}
    place = given or said.get("base") or read_json(folder / CONFIG).get("base_model_name_or_path")
    if not place or not Path(place).exists():
        raise UserError(
            f"{folder}: its base {shown(place, 200)} is not there; say where it is (--model; merge: --base)"
        )
    return Path(place)
