"""MindSpore's strategy files, written without MindSpore.

Parameter strategy (protobuf, `node_strategy.proto` of package mindspore.straspb, syntax proto2):

    ParallelStrategyMap       {1 current_stage, 2 parallel_strategy_item*, 3 parallel_layout_item*}
    parallel_strategy_item    {1 node_name, 2 {1 stage, 2 parallel_strategy* {1 dim*}}}
    parallel_layout_item      {1 param_name, 2 {1 dev_matrix {1 dim*}, 2 tensor_map {1 dim*}, 3 param_split_shape,
                               4 indices_offset, 5 field, 6 opt_weight_shard_step, 7 opt_weight_shard_size}}

The same as JSON, whose operators are named after their parameters, is what `strategy_ckpt_config` loads. The operator
strategy JSON of `load_operator_strategy_file` names operators by their place in the compiled graph, so it is made from
a skeleton (`skeleton`), which has those names.
"""

import json
from dataclasses import dataclass
from typing import Literal

from pangu.foundation.errors import UserError
from pangu.foundation.protobuf import encode_message, encode_number, encode_numbers
from parallel_strategy.mindspore.device_matrix import Split
from parallel_strategy.mindspore.layouts import Layout, parameter_layouts
from parallel_strategy.mindspore.limits import check_propagated
from parallel_strategy.mindspore.operator_splits import OperatorSplits, operator_splits
from parallel_strategy.mindspore.pangu_network import WORD_TABLE, OwnedParameter, blocks_of_scopes, owned_parameters
from parallel_strategy.mindspore.pipeline_stages import places_of_layers
from parallel_strategy.mindspore.skeleton import VERSION
from parallel_strategy.spec.strategy import Setup

# The released files were written by MindSpore 1.2 of a network whose norms were products and sums.
Dialect = Literal["2.10", "released"]
MOMENTS = ("adam_m.", "adam_v.")


@dataclass(frozen=True)
class OperatorStrategy:
    """`node_name`: the operator's kind and its parameter, `MatMul_backbone.blocks.0.attention.dense1.weight`."""

    node_name: str
    stage: int
    in_strategy: Split


def operator_strategies(setup: Setup, dialect: Dialect = "2.10") -> list[OperatorStrategy]:
    """Return one for each parameter that an operator takes; MindSpore names a LayerNorm after its first one only."""
    splits, places = operator_splits(setup), places_of_layers(setup)
    found = []
    for owned in owned_parameters(setup.model):
        split = splits.of(owned.path)
        assert split is not None, owned.path
        kind, inputs = owned.operator, split.inputs
        if dialect == "2.10" and kind == "LayerNorm" and owned.operand > 1:
            continue
        if dialect == "released":
            kind, inputs = as_released(owned, inputs)
        found.append(OperatorStrategy(f"{kind}_{owned.parameter}", places[owned.layer].stage, inputs))
    return found


def as_released(owned: OwnedParameter, inputs: Split) -> tuple[str, Split]:
    """Return kind and split in the released files: LayerNorm is Mul by gamma and TensorAdd of beta, only the biases of
    queries, keys and values are BiasAdd, and positions were looked up as one row of ids."""
    if owned.operator == "LayerNorm":
        return ("Mul" if owned.parameter.endswith("gamma") else "TensorAdd"), (inputs[0], inputs[owned.operand])
    if owned.operator == "BiasAdd" and ".dense" not in owned.parameter:
        return "TensorAdd", inputs
    if owned.operator == "Gather":
        ids = inputs[1] if owned.parameter == WORD_TABLE else inputs[1][:1]
        return "GatherV2", (inputs[0], ids)
    return owned.operator, inputs


def all_layouts(setup: Setup, stage: int | None = None) -> dict[str, Layout]:
    """Return weights and Adam's moments, of one stage or of all."""
    weights = {
        name: layout for name, layout in parameter_layouts(setup).items() if stage is None or stage in layout.stages
    }
    return weights | {prefix + name: layout for prefix in MOMENTS for name, layout in weights.items()}


def parameter_strategy_protobuf(setup: Setup, stage: int, dialect: Dialect = "2.10") -> bytes:
    """Return what MindSpore's `save_param_strategy_file` writes on a rank of this stage."""
    parts = [encode_number(1, stage if dialect == "2.10" else 1)]
    for operator in operator_strategies(setup, dialect):
        if operator.stage == stage:
            splits = b"".join(encode_message(2, encode_numbers(split)) for split in operator.in_strategy)
            placed = encode_message(2, encode_number(1, stage) + splits)
            parts.append(encode_message(2, encode_message(1, operator.node_name) + placed))
    for name, layout in all_layouts(setup, stage).items():
        matrix, tensor_map = encode_numbers(layout.device_matrix), encode_numbers(layout.tensor_map)
        body = encode_message(1, matrix) + encode_message(2, tensor_map)
        body += encode_message(3, b"") + encode_message(4, b"") + encode_number(5, 0)
        body += encode_number(6, layout.optimizer_shard_step) + encode_number(7, layout.optimizer_shard_size)
        parts.append(encode_message(3, encode_message(1, name) + encode_message(2, body)))
    return b"".join(parts)


def parameter_named_json(setup: Setup, stage: int) -> bytes:
    """Return the same for `strategy_ckpt_config={"load_file": ...}`, which needs no skeleton."""
    operators = {
        operator.node_name: {"parallel_strategy": operator.in_strategy, "stage": stage}
        for operator in operator_strategies(setup)
        if operator.stage == stage
    }
    layouts = {
        name: {
            "dev_matrix": layout.device_matrix,
            "field": 0,
            "opt_weight_shard_size": layout.optimizer_shard_size,
            "opt_weight_shard_step": layout.optimizer_shard_step,
            "param_split_shape": [],
            "tensor_map": layout.tensor_map,
            "tensor_shape": layout.shape,
        }
        for name, layout in all_layouts(setup, stage).items()
    }
    document = {"current_stage": stage, "parallel_layout_item": layouts, "parallel_strategy_item": operators}
    return json.dumps(document, indent=1).encode()


def operator_strategy_json(skeleton: bytes, setup: Setup) -> bytes:
    """Return a file for `load_operator_strategy_file`: the split of every operator that the skeleton names.

    Raises UserError where the skeleton is none, or of a network with other operators.
    """
    check_propagated(setup)
    splits = operator_splits(setup)
    try:
        document = json.loads(skeleton)
        operators = document["operators"]
        known = document["version"] == VERSION
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError("the skeleton is none that `python -m parallel_strategy compile FILE --skeleton FILE` wrote")
    layers = blocks_of_scopes(operators)
    if layers != set(range(setup.model.num_layers - setup.model.query_layer)):
        raise UserError(f"the skeleton has {len(layers)} blocks, the model {setup.model.num_layers} layers")
    items = {}
    for name, fields in operators.items():
        split = fields.get("strategy")
        if split is None:
            split = _split_of_one(fields["operators"], splits)
        items[name] = {"parallel_strategy": split, "stage": 0}
    return json.dumps({"current_stage": 0, "parallel_strategy_item": items}, indent=1).encode()


def _split_of_one(paths: list[str], splits: OperatorSplits) -> Split:
    """Return the split of a name that stands for one of these operators, which the compiler alone tells apart."""
    found = {path: splits.of(path) for path in paths}
    if missing := [path for path, split in found.items() if split is None]:
        raise UserError(f"the skeleton names the operator {missing[0]}, which this network has not")
    different = {split.inputs for split in found.values() if split is not None}
    if len(different) > 1:
        raise UserError(f"overrides: MindSpore's names do not tell {' and '.join(paths)} apart: split them alike")
    return different.pop()
