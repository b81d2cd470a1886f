"""Sizes, configurations, and what the parameters start as."""

import json
import math

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pangu.cli import main
from pangu.config import ModelConfig, TrainConfig, load_size, size_names
from pangu.foundation.errors import UserError
from pangu.model.network import build

COUNTS = {
    "350M": 345_368_576,
    "1.3B": 1_294_716_928,
    "1.3B-legacy": 244_598_784,
    "2.6B": 2_625_295_360,
    "13B": 12_800_870_400,
    "200B": 206_861_008_896,
    "gpt3-base": 116_562_432,
    "gpt3-large": 344_320_000,
    "gpt3-1.3B": 1_292_619_776,
    "gpt3-2.7B": 2_622_673_920,
    "gpt3-13B": 12_795_627_520,
    "gpt3-30B": 29_893_556_224,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_shapes(name: str) -> None:
    assert load_size(name).num_parameters == COUNTS[name]


@pytest.mark.parametrize("query_layer", [True, False])
def test_the_formula_counts_what_the_network_has(query_layer: bool) -> None:
    config = ModelConfig(
        num_layers=3, hidden_size=24, num_heads=3, ffn_hidden_size=40, seq_length=12, vocab_size=50,
        query_layer=query_layer, compute_dtype="fp32",
    )  # fmt: skip
    parameters = build(config).trainable_params()
    assert sum(parameter.size for parameter in parameters) == config.num_parameters


def test_defaults_are_those_of_the_released_models() -> None:
    config = load_size("2.6B")
    assert (config.final_norm, config.activation, config.softmax_dtype) == ("before_query", "gelu_tanh", "fp32")
    assert (config.compute_dtype, config.initializer, config.dropout_rate) == ("fp16", "released", 0.1)


@pytest.mark.parametrize("scheme", ["released", "master"])
def test_parameters_start_as_the_scheme_says(scheme: str) -> None:
    config = ModelConfig(
        num_layers=2, hidden_size=128, num_heads=2, ffn_hidden_size=256, seq_length=64, vocab_size=300,
        initializer=scheme, compute_dtype="fp32",
    )  # fmt: skip
    weights = {parameter.name: parameter.asnumpy() for parameter in build(config).trainable_params()}
    deep = 0.02 / math.sqrt(2 * config.num_layers)
    expected = {
        "backbone.word_embedding.embedding_table": (0.02, 0.01),
        # A normal cut at two deviations has 0.88 of its deviation.
        "backbone.position_embedding.embedding_table": (0.02 * 0.8796, 0.01),
        "backbone.top_query_embedding.embedding_table": (0.02 * 0.8796, 0.01),
        "backbone.blocks.0.attention.dense1.weight": (0.01, 0.01),
        "backbone.top_query_layer.attention.projection.weight": (deep, 0.01),
        "backbone.blocks.0.output.mapping.weight": (0.02, 0.01),
        "backbone.top_query_layer.output.projection.weight": (deep, 0.01),
    }
    for name, (released, master) in expected.items():
        deviation = released if scheme == "released" else master
        assert weights[name].std() == pytest.approx(deviation, rel=0.05), name
    if scheme == "released":
        assert np.abs(weights["backbone.position_embedding.embedding_table"]).max() <= 0.04
    for name, value in weights.items():
        if name.endswith(("bias", "beta")):
            assert not value.any(), name
        if name.endswith("gamma"):
            assert (value == 1).all(), name


def test_the_seed_decides_the_start() -> None:
    config = load_size("tiny").model_copy(update={"vocab_size": 50, "num_layers": 2})
    first, same, other = (
        {parameter.name: parameter.asnumpy() for parameter in build(config, seed=seed).trainable_params()}
        for seed in (1, 1, 2)
    )
    name = "backbone.word_embedding.embedding_table"
    np.testing.assert_array_equal(first[name], same[name])
    assert (first[name] != other[name]).any()
    assert ms.get_context("mode") in (ms.GRAPH_MODE, ms.PYNATIVE_MODE)


def test_the_table_of_sizes(capsys) -> None:
    assert main(["sizes", "--json"]) == 0
    rows = {row["size"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == set(size_names())
    assert rows["2.6B"]["parameters"] == COUNTS["2.6B"]
    assert rows["200B"]["weights_fp32_gib"] == pytest.approx(206_861_008_896 * 4 / 2**30, abs=0.01)
    assert main(["sizes"]) == 0
    assert "2,625,295,360" in capsys.readouterr().out


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.dictionaries(st.text(max_size=6), x)))
def test_no_yaml_content_breaks_the_reader(fields: object) -> None:
    text = json.dumps(fields)
    for schema in (ModelConfig, TrainConfig):
        try:
            schema.parse(text, "file.yaml")
        except UserError as error:
            assert "\n" not in str(error) and "file.yaml" in str(error)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_head": 2}, "did you mean 'num_heads'"),
        ({"hidden_size": "big"}, "field 'hidden_size': 'big' is not a whole number"),
        ({"activation": "gelu"}, "is not one of gelu_tanh, gelu_erf, fast_gelu"),
        ({"num_heads": 3}, "the nearest that is: 9"),
        ({"num_layers": 1}, "at least 2"),
        ({"query_layer": False, "final_norm": "after_query"}, "needs query_layer: true"),
    ],
)
def test_a_wrong_model_is_one_line(change: dict, complaint: str) -> None:
    fields = {"num_layers": 2, "hidden_size": 8, "num_heads": 2, "ffn_hidden_size": 8} | change
    with pytest.raises(UserError) as error:
        ModelConfig.from_fields(fields, "model.yaml")
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_init_writes_what_train_reads(tmp_path, capsys) -> None:
    file = tmp_path / "train.yaml"
    assert main(["init", str(file), "--set", "learning_rate.peak", "3e-4", "--set", "steps", "7"]) == 0
    config = TrainConfig.load(file)
    assert config.steps == 7 and config.learning_rate.peak == 3e-4 and config.optimizer.beta2 == 0.95
    assert TrainConfig.parse(config.dump(), "dump") == config
    assert main(["init", str(file)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["init", str(file), "--force", "--set", "stepz", "7"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
