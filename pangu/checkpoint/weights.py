"""Weights of any form with the network that they belong to, for those who compute with them.

The network is what the user says; else what the weights' own file says; else the model.yaml beside it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pangu.checkpoint.open import MODEL_FILE, STATE, meant_checkpoint, open_checkpoint
from pangu.config import ModelConfig, load_size
from pangu.formats import names
from pangu.formats.conversion import check_head
from pangu.formats.data_types import BF16, FP32, cast
from pangu.formats.huggingface.gpt2 import CONFIG, Gpt2Source, model_in_config
from pangu.formats.mapped_file import map_tensors
from pangu.formats.model_metadata import TOKENIZER_KEY, model_in
from pangu.formats.model_shape import tell_shape
from pangu.formats.open_source import open_source
from pangu.formats.source import FileSource, Source
from pangu.foundation.best_effort import warn
from pangu.foundation.errors import UserError
from pangu.quantization.convert_quantized import DequantizedSource, in_full_precision
from pangu.tokenizer import Tokenizer


def model_of(path: Path, source: Source | None = None) -> ModelConfig | None:
    """Return the network of some weights, as they or what lies with them say; None where nothing does.

    path: a checkpoint directory, another directory, or a file. source: the same, opened.
    """
    if (path / STATE).is_file():
        return open_checkpoint(path, verify=False).model
    told = model_in(source.metadata, str(path)) if source else None
    if told is not None:
        return told
    folder = path if path.is_dir() else path.parent
    if (folder / MODEL_FILE).is_file():
        model = ModelConfig.load(folder / MODEL_FILE)
    elif (folder / CONFIG).is_file() and isinstance(source, Gpt2Source):
        found = model_in_config(folder / CONFIG)
        if found is None:
            return None
        model = found
    else:
        return None
    return model if source is None or fits(source, model) else None


def fits(source: Source, model: ModelConfig) -> bool:
    """Return whether weights have the sizes of a network."""
    try:
        found = names.sorted_names_of(source)
        infos = {ours: source.tensors[name].shape for name, ours in found.weights.items()}
        if found.is_torch:
            infos = {ours: shape[::-1] if names.is_transposed(ours) else shape for ours, shape in infos.items()}
        tell_shape(infos, str(source.path)).check(model, str(source.path))
    except UserError:
        return False
    return True


def open_weights(path: Path) -> Source:
    """Open weights of any form; a training checkpoint is compared with its checksums, and its moments are left out."""
    if not (path / STATE).is_file():
        return in_full_precision(open_source(path))
    from pangu.checkpoint.reshard import open_source_of

    return open_source_of(path, None)


def read_weights(source: Source) -> dict[str, np.ndarray]:
    """Read every weight, under the released names and in their orientation; bf16 becomes fp32. Raises UserError."""
    where = str(source.path)
    found = names.sorted_names_of(source)
    if found.foreign:
        raise UserError(f"{where}: {found.foreign[0]!r} is no parameter of PanGu-α ({len(found.foreign)} such)")
    weights = {}
    with source:
        check_head(source, found)
        for name, ours in found.weights.items():
            data_type = source.tensors[name].data_type
            if data_type is None or not data_type.is_float:
                raise UserError(f"{where}: {name!r} holds no floating-point numbers")
            array = source.read(name)
            array = cast(array, BF16, FP32) if data_type == BF16 else array
            turned = found.is_torch and names.is_transposed(ours)
            weights[ours] = np.ascontiguousarray(array.T) if turned else array
    tell_shape({name: array.shape for name, array in weights.items()}, where)
    return weights


def stored_weights(source: Source) -> dict[str, np.ndarray]:
    """Return every weight as it is stored, by released name, mapped into memory where it lies in one piece.

    bf16 is uint16; quantised matrices come with their scales (`pangu.quantization.quantized_file`).
    """
    if isinstance(source, DequantizedSource):
        return dict(source.stored)
    if not isinstance(source, FileSource):
        return read_weights(source)
    found = names.sorted_names_of(source)
    if found.foreign:
        return read_weights(source)  # says what is wrong
    with source:
        check_head(source, found)
    tensors = map_tensors(source)
    return {
        ours: tensors[name].T if found.is_torch and names.is_transposed(ours) else tensors[name]
        for name, ours in found.weights.items()
    }


def check_finite(weights: Mapping[str, np.ndarray], where: str) -> None:
    """Raise UserError that names the weights that hold NaN or infinity."""
    bad = {}
    for name, weight in weights.items():
        wrong = np.count_nonzero(~np.isfinite(np.asarray(weight)))
        if wrong:
            bad[name] = wrong
    if bad:
        name, count = next(iter(bad.items()))
        more = f", and {len(bad) - 1} more weights" if len(bad) > 1 else ""
        raise UserError(f"{where}: {name} holds {count:,} numbers that are NaN or infinite{more}; take other weights")


def load_for_inference(
    path: Path | str, model: Path | str | None = None, tokenizer: Path | str | None = None, as_stored: bool = False
) -> tuple[ModelConfig, dict[str, np.ndarray], Path | None]:
    """Return configuration, weights by released name, and the tokenizer's place (None where none is known).

    path: a run directory (its newest whole checkpoint), a checkpoint directory, or weights of any form that `convert`
    reads. model: a model.yaml or the name of a size, where nothing that lies with the weights says it.
    as_stored: `stored_weights`, not copies in full precision.
    """
    path = meant_checkpoint(Path(path))
    source = open_weights(path)
    config = load_size(str(model)) if model else model_of(path, source)
    if config is None:
        raise UserError(f"{path}: does not say its network: give --model, a model.yaml or the name of a size")
    place = Path(tokenizer) if tokenizer else tokenizer_of(path)
    if tokenizer and place and place.exists():
        told = tokenizer_fingerprint(path, source)
        if told not in (None, Tokenizer.load(place).fingerprint):
            warn(f"warning: {path}: was trained with another tokenizer than {place}: its texts will make no sense")
    return config, stored_weights(source) if as_stored else read_weights(source), place


def tokenizer_fingerprint(path: Path, source: Source | None = None) -> str | None:
    """Return the fingerprint of the tokenizer that weights were trained with; None where nothing says it."""
    if (path / STATE).is_file():
        told = open_checkpoint(path, verify=False).tokenizer
    else:
        told = (source or open_source(path)).metadata.get(TOKENIZER_KEY)
    if told is not None:
        return told
    place = tokenizer_of(path)
    return Tokenizer.load(place).fingerprint if place else None


def tokenizer_of(path: Path) -> Path | None:
    """Return where the tokenizer of some weights lies: in their run, beside them, or with them."""
    if (path / STATE).is_file():
        places = [path.absolute().parent.parent / "tokenizer"]
    else:
        folder = path if path.is_dir() else path.parent
        places = [folder / "tokenizer", folder / "vocab.model"]
    return next((place for place in places if place.exists()), None)
