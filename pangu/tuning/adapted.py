"""A base with what was trained for it, for those who compute with both."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pangu import parameters
from pangu.checkpoint.weights import load_for_inference
from pangu.config import ModelConfig
from pangu.foundation.errors import UserError
from pangu.foundation.settings import nearest_name
from pangu.foundation.yaml_document import shown
from pangu.generation.additions import NOTHING, Additions
from pangu.tuning import adapter_file, soft_prompt
from pangu.tuning.adapter_file import CONFIG, TRAINED, TUNING


@dataclass(frozen=True)
class Adapted:
    """A network whose weights hold what can be merged; `additions` is the rest. tokenizer: its place, if any."""

    config: ModelConfig
    weights: dict[str, np.ndarray]
    tokenizer: Path | None
    additions: Additions = NOTHING
    method: str = ""

    @property
    def is_merged(self) -> bool:
        """Return whether the weights are all there is."""
        return self.additions is NOTHING


def load_adapted(folder: Path, base: Path | str | None = None, tokenizer: Path | str | None = None) -> Adapted:
    """Load an adapter with its base. base: None: where the adapter says.

    Raises UserError where the base is not there, or is not the one that was adapted.
    """
    said = adapter_file.read_tuning(folder) if (folder / TUNING).is_file() else {}
    place = adapter_file.base_of(folder, base)
    own = folder / "tokenizer"
    config, weights, found = load_for_inference(place, None, tokenizer or (own if own.is_dir() else None))
    if said and said.get("base_digest") != adapter_file.digest_of(weights):
        raise UserError(
            f"{folder}: was made for other weights than {place}; say where its base is (--model; merge: --base)"
        )
    if not (folder / CONFIG).is_file():
        return with_trained(folder, said, config, weights, found)
    kind = adapter_file.read_json(folder / CONFIG).get("peft_type")
    if kind == "LORA":
        return Adapted(config, adapter_file.merged(weights, adapter_file.read_lora(folder, config)), found)
    known = ("LORA", soft_prompt.PREFIX, *soft_prompt.PROMPTS)
    if kind not in known:
        said_instead = nearest_name(str(kind), list(known))
        raise UserError(f"{folder / CONFIG}: peft_type {shown(kind)} is not one of {', '.join(known)}{said_instead}")
    if config.attention.pattern != "full":
        raise UserError(
            f"{folder}: virtual tokens are seen by all; {place} has attention.pattern {config.attention.pattern}"
        )
    virtual = soft_prompt.read_virtual(folder, config)
    count = virtual.shape[2] if kind == soft_prompt.PREFIX else len(virtual)
    offset = said.get("position_offset", count)  # PEFT does not say it: there it is always so
    if offset not in (0, count):
        raise UserError(f"{folder / TUNING}: field 'position_offset': {shown(offset)} is not 0 or {count}")
    if kind in soft_prompt.PROMPTS:
        virtual = soft_prompt.keys_values(config, weights, virtual, is_shifted=offset > 0)
    config, weights = soft_prompt.shifted_tables(config, weights, offset)
    return Adapted(config, weights, found, Additions(prefix=virtual), kind.lower().replace("_", " "))


def with_trained(
    folder: Path, said: dict, config: ModelConfig, weights: dict[str, np.ndarray], tokenizer: Path | None
) -> Adapted:
    """Return the network with weights of its own that were trained, or with adapters behind its layers."""
    if said.get("method") == "adapter":
        additions = Additions(bottlenecks=adapter_file.read_bottlenecks(folder, config))
        return Adapted(config, weights, tokenizer, additions, "adapter")
    weights = {**weights, **adapter_file.read_tensors(folder / TRAINED)}
    parameters.check_weights(config, weights)
    return Adapted(config, weights, tokenizer)
