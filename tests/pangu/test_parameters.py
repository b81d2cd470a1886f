"""The one table of names and shapes is what the network is made of, and what every other spelling maps to."""

import pytest

from pangu import parameters
from pangu.config import ModelConfig
from pangu.formats.names import is_transposed, recognise, torch_names
from pangu.model.network import build

SIZES = {"num_layers": 3, "hidden_size": 8, "num_heads": 2, "ffn_hidden_size": 24, "seq_length": 5, "vocab_size": 11}


@pytest.mark.parametrize(
    "fields", [{}, {"query_layer": False}, {"target_in_trunk": True}], ids=["query", "plain", "target"]
)
def test_the_network_has_exactly_the_parameters_of_the_table(fields: dict) -> None:
    config = ModelConfig.from_fields({**SIZES, "compute_dtype": "fp32", **fields}, "test")
    found = {parameter.name: parameter.shape for parameter in build(config).trainable_params()}
    assert found == parameters.shapes(config)
    assert parameters.count(config) == sum(parameter.size for parameter in build(config).trainable_params())


def test_every_linear_layer_of_the_table_says_how_it_is_stored() -> None:
    matrices = {part.removesuffix(".weight") for part in parameters.LAYER if part.endswith(".weight")}
    assert matrices == parameters.LINEAR_LAYERS.keys()


def test_every_name_has_one_spelling_in_the_pytorch_port_and_comes_back() -> None:
    spellings = torch_names(2, query_layer=True)
    assert len(set(spellings.values())) == len(spellings)
    for ours, theirs in spellings.items():
        assert recognise(ours) == (ours, "mindspore")
        block = ours.replace(parameters.QUERY_LAYER, parameters.BLOCK.format(2))  # told apart with all names at hand
        assert recognise(theirs) == (block, "torch")
    assert is_transposed("backbone.blocks.0.output.mapping.weight")
    assert not is_transposed("backbone.top_query_layer.attention.dense1.weight")
