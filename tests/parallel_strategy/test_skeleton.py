"""MindSpore's names of operators, and which operators of the network they are."""

import json
from pathlib import Path

import pytest

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.skeleton import skeleton_json, skeleton_setup
from parallel_strategy.mindspore.strategy_file import operator_strategy_json
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.strategies import setup_of

MODEL = ModelSpec(
    num_layers=2, hidden_size=64, num_heads=8, ffn_hidden_size=256, seq_length=32, vocab_size=512, query_layer=True
)
STEP = "Default/network-FedByParameters/step-TrainStep"
LOSS = f"{STEP}/loss-ScaledLoss/network-Loss"
ATTENTION = f"{LOSS}/network-PanguAlpha/backbone-Decoder/blocks-CellList/0-Block/attention-Attention"
PATH = "backbone.blocks.0.attention"
# name, the operator's path, its split for dp 4 x tp 2
NAMES = (
    ("Default/_VirtualDataset-op0", None, [[1, 1], [], []]),
    (f"{STEP}/StridedSlice-op0", None, [[1, 1]]),
    (f"{LOSS}/ReduceSum-op0", "sum", [[4]]),
    (f"{LOSS}/network-PanguAlpha/MatMul-op0", "head", [[4, 1], [2, 1]]),
    (f"{ATTENTION}/Transpose-op0", f"{PATH}.split_transpose", [[4, 1, 2, 1]]),
    (f"{ATTENTION}/Transpose-op3", f"{PATH}.merge_transpose", [[4, 2, 1, 1]]),
    (f"{ATTENTION}/projection-Linear/Reshape-op1", None, [[1, 1]]),
    (f"{ATTENTION}/projection-Linear/affine-Affine/MatMul-op0", f"{PATH}.projection.affine.matmul", [[4, 2], [2, 1]]),
)
OPERATORS = [
    *((path, name.rpartition("/")[2].rpartition("-")[0]) for name, path, _ in NAMES if path),
    (f"{PATH}.projection.reshape", "Reshape"),
]


def asked(**fields) -> Setup:
    return setup_of(MODEL, "cloudbrain2-2048", "mindspore", **{"batch": {"global": 8, "micro": 1}, **fields})


def saved(splits: dict | None = None) -> bytes:
    items = {name: {"parallel_strategy": (splits or {}).get(name, split), "stage": 0} for name, _, split in NAMES}
    return json.dumps({"current_stage": 0, "parallel_strategy_item": items}).encode()


def test_operators_of_one_kind_are_told_apart_by_their_split_and_filled_in() -> None:
    small = skeleton_setup(asked(mesh={"dp": 2, "tp": 8}))
    assert (small.strategy.mesh.dp, small.strategy.mesh.tp, small.strategy.micro_batches) == (4, 2, 4)
    skeleton = skeleton_json(saved(), OPERATORS, small)
    paths = {name: fields.get("operators") for name, fields in json.loads(skeleton)["operators"].items()}
    assert paths == {name: [path] if path else None for name, path, _ in NAMES}
    lookup = {"operator": "backbone.word_embedding.gather", "strategy": [[1, 8], [2, 1]]}
    overrides = [{"operator": "head", "strategy": [[2, 8], [1, 8]]}, lookup]
    filled = json.loads(operator_strategy_json(skeleton, asked(mesh={"dp": 2, "tp": 8}, overrides=overrides)))
    splits = {name: fields["parallel_strategy"] for name, fields in filled["parallel_strategy_item"].items()}
    assert list(splits.values()) == [
        [[1, 1], [], []],
        [[1, 1]],
        [[2]],
        [[2, 8], [1, 8]],
        [[2, 1, 8, 1]],
        [[2, 8, 1, 1]],
        [[1, 1]],
        [[2, 8], [8, 1]],
    ]


def test_operators_that_no_name_tells_apart_are_overridden_alike() -> None:
    both = [(f"{PATH}.scale_{name}", "Mul") for name in ("queries", "keys")]
    item = {"parallel_strategy": [[4, 1, 2], []], "stage": 0}
    file = json.dumps({"parallel_strategy_item": {f"{ATTENTION}/Mul-op{n}": item for n in (0, 1)}}).encode()
    skeleton = skeleton_json(file, both, skeleton_setup(asked(mesh={"dp": 8})))
    operator = {"operator": "*.attention.scale_*", "strategy": [[8, 1, 1]]}

    def filled(operator: dict) -> bytes:
        return operator_strategy_json(skeleton, asked(mesh={"dp": 2, "tp": 4}, batch={"global": 16, "micro": 8},
                                                      overrides=[operator]))  # fmt: skip

    items = json.loads(filled(operator))["parallel_strategy_item"]
    assert [one["parallel_strategy"] for one in items.values()] == [[[8, 1, 1], []]] * 2
    with pytest.raises(UserError, match=r"do not tell .*scale_queries and .*scale_keys apart: split them alike"):
        filled({**operator, "operator": "*.attention.scale_keys"})


def test_a_name_that_the_network_does_not_have_is_said() -> None:
    small = skeleton_setup(asked(mesh={"dp": 8}))
    with pytest.raises(UserError, match=r"operator .*Transpose-op3 .* is none of the network's"):
        skeleton_json(saved({f"{ATTENTION}/Transpose-op3": [[2, 2, 2, 1]]}), OPERATORS, small)


def test_a_skeleton_of_another_network_is_said(tmp_path: Path) -> None:
    skeleton = skeleton_json(saved(), OPERATORS, skeleton_setup(asked(mesh={"dp": 8})))
    with pytest.raises(UserError, match="the skeleton has 1 blocks, the model 4 layers"):
        wider = asked(mesh={"dp": 8}).model_copy(update={"model": MODEL.model_copy(update={"num_layers": 4})})
        operator_strategy_json(skeleton, wider)
    with pytest.raises(UserError, match="names the operator difference, which this network has not"):
        operator_strategy_json(skeleton.replace(b'"sum"', b'"difference"'), asked(mesh={"dp": 8}))
