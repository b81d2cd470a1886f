"""The sizes that weights themselves tell, and whether the weights are whole. The heads are told by none of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pangu import parameters
from pangu.config import ModelConfig, load_size, size_names
from pangu.formats import names
from pangu.foundation.errors import UserError

MOST_LISTED = 8


@dataclass(frozen=True)
class ModelShape:
    """Sizes as in `model.yaml`, but num_blocks does not count the query layer."""

    num_blocks: int
    hidden_size: int
    ffn_hidden_size: int
    seq_length: int
    vocab_size: int
    query_layer: bool
    target_in_trunk: bool = False
    expert_shape: parameters.ExpertShape | None = None

    @property
    def num_layers(self) -> int:
        return self.num_blocks + int(self.query_layer)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {canonical name: shape} of every weight, in canonical order."""
        return parameters.shapes(self)

    def check(self, model: ModelConfig, where: str) -> None:
        """Raise UserError where the weights have other sizes than the network that is said to be theirs."""
        for name in (
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "seq_length",
            "vocab_size",
            "query_layer",
            "target_in_trunk",
            "expert_shape",
        ):
            told, said = getattr(self, name), getattr(model, name)
            if told != said:
                raise UserError(f"{where}: the weights have {name} {told}, the model is said to have {said}")

    def config(self, heads: int | None, final_norm: str) -> ModelConfig:
        """Return the model's configuration. heads None: those of the known size with the same layers and widths."""
        if self.expert_shape is not None:
            raise UserError("weights do not tell how their experts are chosen: give --model, a model.yaml that says it")
        if heads is None:
            known = [load_size(name) for name in size_names()]
            same = {
                size.num_heads
                for size in known
                if (size.num_layers, size.hidden_size, size.ffn_hidden_size)
                == (self.num_layers, self.hidden_size, self.ffn_hidden_size)
            }
            if len(same) != 1:
                raise UserError(
                    f"the number of heads cannot be told from weights, and {len(same) or 'no'} known sizes have "
                    f"{self.num_layers} layers of {self.hidden_size} and {self.ffn_hidden_size}: give --model, a "
                    "model.yaml that says everything, or give --heads where the rest is as in the released models"
                )
            (heads,) = same
        fields = {
            "num_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "num_heads": heads,
            "ffn_hidden_size": self.ffn_hidden_size,
            "seq_length": self.seq_length,
            "vocab_size": self.vocab_size,
            "query_layer": self.query_layer,
            "target_in_trunk": self.target_in_trunk,
            "final_norm": final_norm,
        }
        return ModelConfig.from_fields(fields, "the model of these weights")


def listed(items: list[str]) -> str:
    """Return the first few, and how many more."""
    shown = ", ".join(items[:MOST_LISTED])
    return shown + (f" and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else "")


def tell_experts(found: Mapping[str, tuple[int, ...]], blocks: int, where: str) -> parameters.ExpertShape | None:
    """Return what weights tell of experts; None: they have none. shared is 1 for any number of them."""
    prefixes = [parameters.BLOCK.format(number) for number in range(blocks)]
    bias = next(name for name in parameters.EXPERTS if name.endswith("mapping.bias"))
    layers = tuple(number for number, prefix in enumerate(prefixes) if prefix + bias in found)
    if not layers:
        return None
    first, table = prefixes[layers[0]], found.get(parameters.EXPERT_TABLE, (0,))
    if len(found[first + bias]) != 3:
        raise UserError(f"{where}: {first + bias} has the shape {list(found[first + bias])}; right: [experts, 1, ffn]")
    shared = int(first + "output.shared.mapping.bias" in found)
    return parameters.ExpertShape(
        found[first + bias][0], layers, shared, first + parameters.ROUTER in found, table[0] if table else 0
    )


def tell_shape(found: Mapping[str, tuple[int, ...]], where: str) -> ModelShape:
    """Return the sizes of a model from {canonical name: shape}. Raises UserError: what is missing, what does not
    fit."""
    numbers = {number for number in map(names.block_number, found) if number is not None}
    query_layer = parameters.QUERY_TABLE in found or any(name.startswith(parameters.QUERY_LAYER) for name in found)
    if not numbers:
        raise UserError(f"{where}: holds no weights of PanGu-α (names like backbone.blocks.0.… or transformer.h.0.…)")
    gaps = sorted(set(range(min(max(numbers) + 1, 2 * len(numbers) + MOST_LISTED))) - numbers)
    if gaps:
        raise UserError(f"{where}: no weights of blocks {listed([str(number) for number in gaps])}")
    target = parameters.TARGET_TABLE in found
    experts = tell_experts(found, len(numbers), where)
    order = parameters.canonical_order(len(numbers), query_layer, target, experts)
    missing = [name for name in order if name not in found]
    if missing:
        raise UserError(f"{where}: {len(missing)} weights are missing: {listed(missing)}")
    known = set(order)
    extra = [name for name in found if name not in known]
    if extra:
        raise UserError(f"{where}: {len(extra)} weights belong to no layer of this network: {listed(extra)}")
    odd = [name for name in (parameters.WORD_TABLE, parameters.POSITION_TABLE) if len(found[name]) != 2]
    bias = f"{parameters.FEED_FORWARD}{'experts.' if experts and 0 in experts.layers else ''}mapping.bias"
    mapping_bias = parameters.BLOCK.format(0) + bias
    odd += [mapping_bias] if len(found[mapping_bias]) != 1 + 2 * ("experts" in bias) else []
    if not odd:
        (vocab_size, hidden), (seq_length, _) = found[parameters.WORD_TABLE], found[parameters.POSITION_TABLE]
        ffn = found[mapping_bias][-1]
        if experts and experts.shared:
            widths = found[parameters.BLOCK.format(experts.layers[0]) + "output.shared.mapping.bias"]
            experts = replace(experts, shared=max(1, widths[0] // max(1, ffn)) if widths else 1)
        shape = ModelShape(len(numbers), hidden, ffn, seq_length, vocab_size, query_layer, target, experts)
        expected = shape.shapes()
        odd = [name for name in expected if expected[name] != found[name] or 0 in found[name]]
    if odd:
        described = [f"{name} {list(found[name])}" for name in odd]
        raise UserError(f"{where}: the shapes of {len(odd)} weights do not fit together: {listed(described)}")
    return shape
