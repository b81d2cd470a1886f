"""The network and the tokenizer of weights, inside their file: in a safetensors header, or as strings in a `.ckpt`.

Weights alone do not tell the heads, the activation, the place of the final norm or the types of the computation. So
every file that this project writes says them, under one key, as JSON; and the fingerprint of the tokenizer.
"""

import json
from collections.abc import Mapping

from pangu.config import ModelConfig
from pangu.foundation.errors import UserError

KEY, TOKENIZER_KEY = "model_config", "tokenizer_fingerprint"


def metadata_of(model: ModelConfig | None, tokenizer: str | None = None, file_format: str = "ms") -> dict[str, str]:
    """Return what a safetensors header says besides the tensors.

    model, tokenizer: None where they are not known; of the tokenizer it is the fingerprint. file_format: what the
    loaders of a framework look for, `ms` or `pt`.
    """
    metadata = {"format": file_format}
    if tokenizer is not None:
        metadata[TOKENIZER_KEY] = tokenizer
    if model is not None:
        fields = model.model_dump(mode="json")
        metadata |= {"final_norm": fields["final_norm"], KEY: json.dumps(fields)}
    return metadata


def model_in(metadata: Mapping[str, str], where: str) -> ModelConfig | None:
    """Return the network that a header describes; None where it says nothing. Raises UserError where it is damaged."""
    if KEY not in metadata:
        return None
    try:
        fields = json.loads(metadata[KEY])
    except ValueError as error:
        raise UserError(f"{where}: its {KEY} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where}: its {KEY} must be a JSON object")
    return ModelConfig.from_fields(fields, f"{where}: {KEY}")
