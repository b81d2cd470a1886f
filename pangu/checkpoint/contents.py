"""What texts and scores depend on, as digests of what lies on the disk: weights, network, tokenizer."""

from pathlib import Path

from pangu.checkpoint.description import digest_of
from pangu.checkpoint.open import STATE, file_digest, meant_checkpoint, open_checkpoint
from pangu.checkpoint.weights import model_of, open_weights, tokenizer_of
from pangu.config import load_size
from pangu.tokenizer import Tokenizer
from pangu.tuning import adapter_file


def contents_of(path: Path, model: str | None, tokenizer: str | None, adapter: str | None = None) -> dict[str, str]:
    """Return digests of weights, network and tokenizer as they lie on the disk now. Raises UserError.

    adapter: one that is kept beside the weights.
    """
    state, source = path / STATE, None
    if adapter_file.is_adapter(path):
        weights = adapter_file.contents(path)
        if not (path / adapter_file.TUNING).is_file():  # it does not say which weights its base has
            base = meant_checkpoint(adapter_file.base_of(path, model))
            weights = weights | {"base": contents_of(base, None, None)["weights"]}
        model = None  # says where the base is
    elif state.is_file():
        weights = open_checkpoint(path).digests
    else:
        source = open_weights(path)
        with source:
            weights = {file.name: file_digest(file) for file in source.files}
    if adapter:
        weights = weights | {"adapter": digest_of(adapter_file.contents(Path(adapter)))}
    network = load_size(model) if model else model_of(path, source)
    place = Path(tokenizer) if tokenizer else tokenizer_of(path)
    return {
        "weights": digest_of(weights),
        "network": digest_of(network.model_dump(mode="json") if network else None),
        "tokenizer": Tokenizer.load(place).fingerprint if place else "",
    }
