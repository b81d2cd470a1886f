"""The trainer under a strategy that MindSpore's compiler splits: it compiles, and a rank holds its parts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parallel_strategy.mindspore.dryrun import stand_in
from parallel_strategy.mindspore.dryrun.compiled_collectives import KINDS, read_collectives
from parallel_strategy.mindspore.dryrun.difference import of_mindspore
from parallel_strategy.mindspore.dryrun.environment import environment
from parallel_strategy.mindspore.dryrun.graph_file import read_graph
from tests.conftest import REPOSITORY

REASON = stand_in.why_not()
MODEL = "num_layers: 2\nhidden_size: 64\nnum_heads: 8\nffn_hidden_size: 256\nseq_length: 16\nvocab_size: 64\n"
STRATEGY = "model: {file: model.yaml}\nbatch: {global: 8, micro: 2}\nmesh: {dp: 2, tp: 4}\n"
PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
from pangu.config import ModelConfig, ObjectivesConfig, TrainConfig
from pangu.distributed.process_group import World
from pangu.distributed.strategy import applied, load_strategy
from pangu.training.data import PackedData
from pangu.training.trainer import Trainer
from parallel_strategy.mindspore.apply import start

model = ModelConfig.load("model.yaml")
strategy = load_strategy("strategy.yaml", model)
start(strategy.setup)
fields = {"data": "x", "out": "y", "model": "model.yaml", "batch_size": 8, "device": "Ascend"}
config = applied(strategy, TrainConfig.from_fields(fields, "test"))
unknown = [None] * (len(dataclasses.fields(PackedData)) - 1)
data = dataclasses.replace(PackedData(Path("x"), *unknown), seq_length=16, vocab_size=64, end_of_document=9, pad=6)
if objectives := json.loads(sys.argv[1]):
    config = config.model_copy(update={"objectives": ObjectivesConfig.model_validate(objectives)})
held = Trainer(model, config, data, World(int(sys.argv[2]), 8), strategy).execution.parameters()
print(json.dumps({name: parameter.shape for name, parameter in held}))
"""


def held_by(folder: Path, rank: int, objectives: dict, graphs: Path) -> dict[str, list[int]]:
    """Compile a trainer's step for a rank; returns the shapes of what it holds."""
    variables = environment(rank, 8, graphs)
    variables["PYTHONPATH"] = f"{REPOSITORY}:{variables['PYTHONPATH']}"
    command = [sys.executable, "-c", PROGRAM, json.dumps(objectives), str(rank)]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_step_that_mindspore_splits_is_compiled_and_a_rank_holds_its_parts(tmp_path: Path) -> None:
    """Rows in other orders communicate what causal rows do, but for the ids themselves, which say more of each step."""
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "strategy.yaml").write_text(STRATEGY)
    counted = []
    for objectives in ({}, {"permuted": {"share": 0.5}, "prefix": {"share": 0.2}}):
        graphs = tmp_path / f"graphs-{len(objectives)}"
        held = held_by(tmp_path, 5, objectives, graphs)
        for prefix in ("", "adam_m.", "adam_v."):
            assert held[f"{prefix}backbone.blocks.0.attention.dense1.weight"] == [16, 64]
            assert held[f"{prefix}backbone.blocks.0.output.projection.weight"] == [64, 64]
            assert held[f"{prefix}backbone.position_embedding.embedding_table"] == [16, 64]
        graph = read_graph(sorted(graphs.glob("rank_*/*_validate_*.ir"))[-1], frozenset(KINDS))
        found = of_mindspore(read_collectives(graph, 5, 2, {}))
        counted.append({kind: times for kind, times in found.items() if kind.dtype != "int32"})
    assert counted[0] == counted[1] and sum(counted[0].values()) > 10


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_experts_are_trained_on_a_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(MODEL + "experts: {count: 4, routing: top_k}\n")
    (tmp_path / "strategy.yaml").write_text(STRATEGY.replace("{dp: 2, tp: 4}", "{pp: 2, dp: 2, ep: 2, tp: 2}"))
    held = held_by(tmp_path, 0, {}, tmp_path / "graphs")
    assert held["backbone.blocks.0.output.experts.mapping.weight"] == [2, 64, 128]
    assert not any("top_query_layer" in name for name in held)
