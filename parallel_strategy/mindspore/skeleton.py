"""Which operator of the network each name of MindSpore's operator strategy file is.

MindSpore names an operator after the cells around it, its kind and a number that counts from the output backwards:
`Default/network-.../blocks-CellList/0-Block/attention-Attention/Transpose-op3`. Nothing but its compiler knows the
numbers. So it compiles the network once with our splits on a small mesh, whose two axes have different sizes, and
writes names with splits; the split says which of a cell's operators of one kind it is. The skeleton keeps that: names
with our paths of operators, from which `strategy_file.operator_strategy_json` writes the file of any strategy. What is
not of the network (the cutting of micro-batches) or follows others (reshapes) has no split in any strategy.
"""

import json
from collections.abc import Iterable

from pangu.foundation.errors import UserError
from parallel_strategy.mindspore.device_matrix import Split
from parallel_strategy.mindspore.limits import check_propagated
from parallel_strategy.mindspore.operator_splits import OperatorSplits, operator_splits
from parallel_strategy.spec.strategy import Mesh, Setup, Tensor, Zero

VERSION = 2


def skeleton_setup(setup: Setup) -> Setup:
    """Return the strategy on 4 x 2 devices: other names come of micro-batches and recomputation, not of sizes."""
    check_propagated(setup)
    model, strategy = setup.model, setup.strategy
    if model.num_heads % 2 or model.ffn_hidden_size % 2:
        raise UserError(f"a skeleton is compiled with heads in two parts, the model has {model.num_heads}")
    mesh = Mesh(dp=4, tp=2)
    changes = {
        "mesh": mesh,
        "batch": strategy.batch.model_copy(update={"global_": mesh.dp * strategy.micro_batches, "micro": 1}),
        "tensor": Tensor(vocab="whole" if model.vocab_size % mesh.tp else "split"),
        "zero": Zero(),
        "overrides": [],
    }
    return setup.model_copy(update={"strategy": strategy.model_copy(update=changes)})


def skeleton_json(saved: bytes, operators: Iterable[tuple[str, str]], setup: Setup) -> bytes:
    """Return `saved`: what MindSpore wrote of `setup`; `operators`: (path, kind) of the network's. Raises UserError for
    a name that is none of them."""
    splits = operator_splits(setup)
    found: dict[str, dict[str, object]] = {}
    by_kind: dict[tuple[str, str], list[str]] = {}
    for path, kind in operators:
        cell = path.rpartition(".")[0]
        by_kind.setdefault((cell, kind), []).append(path)
    for name, fields in json.loads(saved)["parallel_strategy_item"].items():
        cell, kind = _cell_and_kind(name)
        split = tuple(tuple(parts) for parts in fields["parallel_strategy"])
        paths = [path for path in by_kind.get((cell, kind), []) if _inputs(path, splits) == split]
        if paths:
            found[name] = {"operators": paths}
        elif all(parts == 1 for dimensions in split for parts in dimensions):
            found[name] = {"strategy": split}
        else:
            raise UserError(f"operator {name} of MindSpore's file with {split} is none of the network's")
    return json.dumps({"version": VERSION, "operators": found}, indent=1).encode()


def _inputs(path: str, splits: OperatorSplits) -> Split | None:
    split = splits.of(path)
    return split.inputs if split is not None else None


def _cell_and_kind(name: str) -> tuple[str, str]:
    """Return `backbone.blocks.0.attention`, `Transpose`. The network within the loss is left out, as in
    `apply.operators`."""
    *scopes, operator = name.split("/")
    attributes = [scope.rpartition("-")[0] for scope in scopes]
    inside = attributes[attributes.index("loss") + 1 :] if "loss" in attributes else []
    cell = ".".join(attribute for attribute in inside if attribute != "network")
    return cell, operator.rpartition("-")[0]
