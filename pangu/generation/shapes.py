"""Names and shapes of a network's weights, for engines that do not build the network itself."""

from collections.abc import Mapping

from pangu.config import ModelConfig
from pangu.errors import UserError


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Released name -> shape of every weight of the network."""
    hidden, ffn = config.hidden_size, config.ffn_hidden_size
    layer: dict[str, tuple[int, ...]] = {
        "output.mapping.weight": (hidden, ffn),
        "output.mapping.bias": (ffn,),
        "output.projection.weight": (ffn, hidden),
        "output.projection.bias": (hidden,),
    }
    for name in ("dense1", "dense2", "dense3", "projection"):
        layer |= {f"attention.{name}.weight": (hidden, hidden), f"attention.{name}.bias": (hidden,)}
    for name in ("layernorm1", "layernorm2"):
        layer |= {f"{name}.gamma": (hidden,), f"{name}.beta": (hidden,)}
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.word_embedding.embedding_table": (config.vocab_size, hidden),
        "backbone.position_embedding.embedding_table": (config.seq_length, hidden),
        "backbone.layernorm.gamma": (hidden,),
        "backbone.layernorm.beta": (hidden,),
    }
    if config.query_layer:
        shapes["backbone.top_query_embedding.embedding_table"] = (config.seq_length, hidden)
    for prefix in layer_prefixes(config):
        shapes |= {f"{prefix}{name}": shape for name, shape in layer.items()}
    return shapes


def layer_prefixes(config: ModelConfig) -> list[str]:
    """How the names of each layer's weights begin, the query layer last."""
    blocks = [f"backbone.blocks.{i}." for i in range(config.num_blocks)]
    return [*blocks, "backbone.top_query_layer."] if config.query_layer else blocks


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError that names a weight which is missing, left over, or of another shape than the model's."""
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise UserError(f"the weights lack {min(missing)!r} ({len(missing)} missing): do they fit the model.yaml?")
    if foreign:
        raise UserError(f"the model has no {min(foreign)!r} ({len(foreign)} such): do the weights fit the model.yaml?")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{name}: the weights have shape {list(found[name])}, the model {list(shape)}")
