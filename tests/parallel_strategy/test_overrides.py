"""An override means the same to every verb: priced, set on the network, in layouts and in files, or refused by all."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pangu.foundation.errors import UserError
from parallel_strategy.cli import main
from parallel_strategy.cost.sharding import block_of
from parallel_strategy.mindspore.layouts import parameter_layouts
from parallel_strategy.mindspore.operator_splits import operator_splits
from parallel_strategy.mindspore.pangu_network import (
    ADAPTER_ROWS,
    ANSWERS_ROWS,
    FOLLOWERS,
    HEAD,
    LAYER_OPERATORS,
    OTHER_KINDS,
    TABLE_COPY,
    WORD_LOOKUP,
    WORD_TABLE,
    layer_path,
    operators,
    owned_parameters,
    row_of,
)
from parallel_strategy.mindspore.strategy_file import operator_strategies, operator_strategy_json
from parallel_strategy.predict import Prediction
from parallel_strategy.spec.model import Experts, ModelSpec
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.strategies import setup_of

TINY = ModelSpec(
    num_layers=2, hidden_size=64, num_heads=8, ffn_hidden_size=256, seq_length=32, vocab_size=512, query_layer=True
)
QUERY = "attention.dense1.affine.matmul"


def asked(*overrides: tuple[str, list[list[int]]], model: ModelSpec = TINY, **fields) -> Setup:
    written = [{"operator": operator, "strategy": strategy} for operator, strategy in overrides]
    fields = {"batch": {"global": 16, "micro": 8}, "mesh": {"dp": 2, "tp": 4}, **fields}
    return setup_of(model, "atlas-800t-a2-910b1", "mindspore-2.10", overrides=written, **fields)


@pytest.mark.parametrize("operator", ["*", "objective.*", "nll.*", "*embedding*"])
@pytest.mark.parametrize("split", [[[1]], [[2, 2, 2]], []])
def test_a_pattern_of_many_operators_is_taken_or_one_line(operator: str, split: list[list[int]]) -> None:
    try:
        operator_splits(asked((operator, split)))
    except UserError as error:
        assert "overrides" in str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def build():
    """Return the loss over the network as it is built for Ascend, by its activation."""
    import mindspore as ms
    from mindspore.nn.utils import no_init_parameters

    from pangu.distributed.compile_step import model_config
    from pangu.model import PanguAlpha
    from pangu.training.loss import Loss
    from pangu.training.objectives.causal import CausalBatch
    from pangu.training.objectives.row_steps import StepsBatch
    from pangu.training.step import ScaledLoss

    def built(model: ModelSpec, causal: bool = True):
        with pytest.MonkeyPatch.context() as patch, no_init_parameters():
            patch.setattr(ms, "get_context", lambda name: {"device_target": "Ascend"}[name])
            objective = CausalBatch(9, 6) if causal else StepsBatch()
            return ScaledLoss(Loss(PanguAlpha(model_config(model.model_dump())), objective))

    return built


def test_every_operator_of_the_network_has_a_row_and_every_row_an_operator(build) -> None:
    from parallel_strategy.mindspore.apply import operators as operators_of_network

    seen: dict[str, set[str]] = {}
    for activation, causal in (("gelu_tanh", True), ("gelu_erf", True), ("fast_gelu", True), ("gelu_tanh", False)):
        loss = build(TINY.model_copy(update={"activation": activation}), causal)
        for path, primitive in operators_of_network(loss):
            if primitive.name not in FOLLOWERS:
                seen.setdefault(path, set()).add(primitive.name)
    rows = {path: {*OTHER_KINDS.get(row.path, (row.kind,))} for path, row in operators(TINY)}
    assert seen == rows
    # and the parameters are those that the layouts are written for, in their order and with their shapes
    shapes = {parameter.name: tuple(parameter.shape) for parameter in loss.trainable_params()}
    assert shapes == {owned.parameter: owned.shape for owned in owned_parameters(TINY)}


def test_what_fine_tuning_adds_has_rows_too(build, monkeypatch: pytest.MonkeyPatch) -> None:
    import mindspore as ms

    from pangu.distributed.compile_step import model_config, tuning_loss
    from pangu.tuning.tuning_settings import Settings
    from parallel_strategy.mindspore.apply import operators as operators_of_network

    monkeypatch.setattr(ms, "get_context", lambda name: {"device_target": "Ascend"}[name])
    config, before, added = model_config(TINY.model_dump()), {path for path, _ in operators(TINY)}, {}
    for tuning in (Settings("lora", modules=("all",)), Settings("adapter")):
        network = build(TINY).network.network
        loss = tuning_loss(network, config, tuning.checked(config))
        found = {path: primitive.name for path, primitive in operators_of_network(loss)}
        added |= {path: kind for path, kind in found.items() if path not in before and kind not in FOLLOWERS}
    places = [layer_path(TINY, layer) for layer in range(TINY.num_layers)]
    rows = {f"{place}.{row.path}": row.kind for place in places for row in ADAPTER_ROWS}
    assert added == rows | {row.path: row.kind for row in ANSWERS_ROWS}


def test_the_names_that_search_prints_are_the_table_s() -> None:
    assert [operator.name for operator in block_of(asked())] == list(LAYER_OPERATORS)
    for operator in LAYER_OPERATORS.values():
        for path in operator.paths:
            row = row_of(f"backbone.blocks.0.{path}")
            assert row is not None and row.path == path


@pytest.mark.parametrize(
    ("name", "by_name", "path", "by_path"),
    [
        ("attention.query", [[8, 1], [1, 1]], f"*.{QUERY}", [[8, 1], [1, 1]]),
        ("attention.key", [[2, 2], [2, 2]], "*.attention.dense2.affine.matmul", [[2, 2], [2, 2]]),
        ("attention.value", [[4, 1], [1, 2]], "*.attention.dense3.affine.matmul", [[4, 1], [2, 1]]),
        ("attention.output", [[2, 1], [1, 4]], "*.attention.projection.affine.matmul", [[2], [1, 4]]),
        ("attention.norm", [[8, 1]], "*layernorm1.normalisation.layer_norm", [[8]]),
        ("attention.residual", [[4, 2]] * 2, "*attention_add", [[4, 1, 2]] * 2),
        ("feed_forward.norm", [[8, 1], [1], [1]], "*layernorm2.normalisation.layer_norm", [[8, 1, 1], [1], [1]]),
        ("feed_forward.up", [[2, 2], [2, 1]], "*.output.mapping.affine.matmul", [[2, 2], [2]]),
        ("feed_forward.activation", [[1, 8]], "*output.activation.*", [[1, 1, 8], [1, 1, 8]]),
        ("feed_forward.down", [[1, 8], [8, 1]], "*.output.projection.affine.matmul", [[1, 8], [8, 1]]),
        ("feed_forward.residual", [[1, 1]] * 2, "*output_add", [[1], [1]]),
    ],
)
def test_a_name_of_search_and_a_path_are_one_override(name, by_name, path, by_path) -> None:
    if name == "feed_forward.activation":  # a path has an operator's own operands: one here, two elsewhere
        path, by_path = "*output.activation.kernel", by_path[:1]
    one, other = asked((name, by_name)), asked((path, by_path))
    where = path.removeprefix("*").removeprefix(".")
    split = operator_splits(one).of(f"backbone.blocks.0.{where}")
    assert split == operator_splits(other).of(f"backbone.blocks.0.{where}") and split is not None
    assert parameter_layouts(one) == parameter_layouts(other)
    assert operator_strategies(one) == operator_strategies(other)
    assert Prediction(one).seconds == pytest.approx(Prediction(other).seconds, rel=1e-12)


PARTS = st.sampled_from([1, 1, 2, 4, 8])
PATHS = [path for path, row in operators(TINY) if any(row.operands) and path not in (WORD_LOOKUP, HEAD)]


@st.composite
def overrides(draw) -> tuple[str, list[list[int]]]:
    """An operator with a split that MindSpore may or may not take."""
    path = draw(st.sampled_from(PATHS))
    row = row_of(path)
    assert row is not None
    parts = {dimension.size: draw(PARTS) for operand in row.operands for dimension in operand}
    strategy = [[1 if d.size == "one" or d.stays_whole else parts[d.size] for d in operand] for operand in row.operands]
    return path, strategy


@settings(max_examples=150, deadline=None)
@given(overrides(), overrides())
def test_all_agree_on_an_override_or_all_refuse_it(built_once, one, other) -> None:
    from parallel_strategy.mindspore.apply import shard_operators

    loss, primitives = built_once
    under = asked(one, other)
    try:
        splits = operator_splits(under)
    except UserError as error:
        assert str(error).startswith("overrides") and "\n" not in str(error)
        for verb in (lambda: Prediction(under).seconds, lambda: parameter_layouts(under),
                     lambda: operator_strategies(under), lambda: shard_operators(under, loss, set())):  # fmt: skip
            with pytest.raises(UserError):
                verb()
        return
    assert Prediction(under).seconds > 0
    shard_operators(under, loss, set())
    items = {path: {"operators": [path]} for path in primitives}
    names = {"Default/blocks-CellList/0-Block/x": {"strategy": [[1]]}}
    skeleton = json.dumps({"version": 2, "operators": items | names}).encode()
    filled = json.loads(operator_strategy_json(skeleton, under))["parallel_strategy_item"]
    for path, primitive in primitives.items():
        split = splits.of(path)
        assert split is not None and tuple(map(tuple, primitive.in_strategy)) == split.inputs
        assert tuple(map(tuple, filled[path]["parallel_strategy"])) == split.inputs
    by_node = {strategy.node_name: strategy.in_strategy for strategy in operator_strategies(under)}
    layouts = parameter_layouts(under)
    for owned in owned_parameters(TINY):
        split, layout = splits.of(owned.path), layouts[owned.parameter]
        assert split is not None
        parts = split.inputs[owned.operand]
        assert layout.slice_shape == tuple(n // part for n, part in zip(owned.shape, parts, strict=True))
        if (node := f"{owned.operator}_{owned.parameter}") in by_node:
            assert by_node[node] == split.inputs


@pytest.fixture(scope="module")
def built_once(build):
    from parallel_strategy.mindspore.apply import operators as operators_of_network

    loss = build(TINY)
    paths = operators_of_network(loss)
    return loss, {path: primitive for path, primitive in paths if primitive.name not in FOLLOWERS}


def test_one_layer_is_priced_as_one_and_the_mesh_written_out_as_the_mesh() -> None:
    model = ModelSpec.preset("pangu-alpha-2.6b")
    plain = Prediction(asked(model=model)).seconds
    seconds = {
        where: Prediction(asked((f"backbone.{where}.{QUERY}", [[8, 1], [1, 1]]), model=model)).seconds - plain
        for where in ("blocks.3", "blocks.[34]", "blocks.*")
    }
    assert seconds["blocks.[34]"] == pytest.approx(2 * seconds["blocks.3"], rel=1e-6) and seconds["blocks.3"] > 0
    assert seconds["blocks.*"] == pytest.approx(31 * seconds["blocks.3"], rel=1e-6)
    for operator, own in (
        ("attention.query", [[2, 1], [1, 4]]),
        ("*attention.softmax", [[2, 4, 1, 1]]),
        ("nll.exp", [[2, 4]]),
    ):
        assert Prediction(asked((operator, own), model=model)).seconds == plain
    # an override of one stage slows that stage only
    staged = {"mesh": {"pp": 2, "dp": 2, "tp": 2}, "batch": {"global": 16, "micro": 4}, "model": model}
    before = Prediction(asked(**staged)).chunk_costs
    after = Prediction(asked((f"backbone.blocks.3.{QUERY}", [[4, 1], [1, 1]]), **staged)).chunk_costs
    assert after[0] > before[0] and after[1] == before[1]


@pytest.mark.parametrize(
    ("operator", "strategy"),
    [
        ("*layernorm1.normalisation.layer_norm", [[8, 1, 1], [1], [1]]),
        ("*attention_add", [[1, 8, 1], [1, 8, 1]]),
        ("*attention.softmax", [[1, 8, 1, 1]]),
        ("*output.activation.kernel", [[2, 1, 1]]),
        ("backbone.layernorm.normalisation.layer_norm", [[1, 1, 1]]),
        ("backbone.position_embedding.gather", [[1, 4], [2, 1]]),
    ],
)
def test_what_the_network_and_the_table_have_is_priced(operator: str, strategy: list[list[int]]) -> None:
    assert Prediction(asked((operator, strategy))).seconds > Prediction(asked()).seconds


def test_layers_with_experts_are_priced_too() -> None:
    model = TINY.model_copy(update={"experts": Experts(count=4, top_k=1, ffn_hidden_size=256, routing="switch")})
    query = ("*blocks.0.attention.dense1.affine.matmul", [[8, 1], [1, 1]])
    assert Prediction(asked(query, model=model)).seconds > Prediction(asked(model=model)).seconds


def test_the_word_table_has_one_split_for_both_that_read_it() -> None:
    with pytest.raises(UserError, match="read one table, and must split it alike"):
        parameter_layouts(asked((HEAD, [[2, 1], [1, 1]])))
    whole = asked((HEAD, [[2, 1], [1, 1]]), (WORD_LOOKUP, [[1, 1], [2, 1]]))
    assert parameter_layouts(whole)[WORD_TABLE].tensor_map == (-1, -1)


VERBS = (
    ["predict"], ["explain"], ["compare"], ["search"], ["prove"], ["ranks"], ["compile"], ["export", "--out", "out"],
    ["timeline", "--html", "out"],
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_an_override_that_matches_nothing_is_one_line_in_every_verb(tmp_path: Path, monkeypatch, capsys, verb) -> None:
    monkeypatch.chdir(tmp_path)
    text = "model: {preset: pangu-alpha-2.6b}\nbatch: {global: 16}\nmesh: {dp: 2, tp: 4}\n"
    text += "overrides:\n  - {operator: head, strategy: [[2, 1], [4, 1]]}\n"
    for operator, strategy, line, words in (
        ("attention.qery", [[2]], 6, "field 'overrides.1.operator': 'attention.qery' matches no operator of the "
         "network; did you mean 'attention.query'?"),
        ("*.dense1.affine.matmul", [[2, 1], [3, 1]], 6, "field 'overrides.1.strategy': "
         "backbone.blocks.0.attention.dense1.affine.matmul cannot have in_strategy [[2, 1], [3, 1]]: 3 does not divide "
         "width 2560; nearest: [[2, 1], [4, 1]]"),
    ):  # fmt: skip
        (tmp_path / "s.yaml").write_text(text + f"  - {{operator: '{operator}', strategy: {strategy}}}\n")
        files = ["s.yaml", "s.yaml"] if verb[0] == "compare" else ["s.yaml"]
        assert main([verb[0], *files, *verb[1:]]) == 2
        assert capsys.readouterr().err == f"error: s.yaml:{line}: {words}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_pangu_names_the_copy_of_the_word_table_as_the_table_does() -> None:
    from pangu.distributed.execution.semi_auto import COPY
    from pangu.parameters import WORD_TABLE as PANGU_WORD_TABLE

    assert (COPY, PANGU_WORD_TABLE) == (TABLE_COPY, WORD_TABLE)
