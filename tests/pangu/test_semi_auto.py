"""The trainer under a strategy that MindSpore's compiler splits: it compiles, and a rank holds its parts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parallel_strategy.mindspore.dryrun import stand_in
from parallel_strategy.mindspore.dryrun.environment import environment
from tests.conftest import REPOSITORY

REASON = stand_in.why_not()
MODEL = "num_layers: 2\nhidden_size: 64\nnum_heads: 8\nffn_hidden_size: 256\nseq_length: 16\nvocab_size: 64\n"
STRATEGY = "model: {file: model.yaml}\nbatch: {global: 8, micro: 2}\nmesh: {dp: 2, tp: 4}\n"
PROGRAM = """
import dataclasses, json
from pathlib import Path
from pangu.config import ModelConfig, TrainConfig
from pangu.distributed.process_group import World
from pangu.distributed.strategy import applied, load_strategy
from pangu.foundation.errors import UserError
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
permuted = TrainConfig.from_fields({**fields, "objectives": {"permuted": {"share": 0.5}}}, "test")
try:
    Trainer(model, permuted, data, World(5, 8), strategy)
    refused = ""
except UserError as error:
    refused = str(error)
held = Trainer(model, config, data, World(5, 8), strategy).execution.parameters()
print(json.dumps({"refused": refused, "held": {name: parameter.shape for name, parameter in held}}))
"""


@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_step_that_mindspore_splits_is_compiled_and_a_rank_holds_its_parts(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(MODEL)
    (tmp_path / "strategy.yaml").write_text(STRATEGY)
    variables = environment(5, 8, tmp_path / "graphs")
    variables["PYTHONPATH"] = f"{REPOSITORY}:{variables['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "trains causal rows only" in told["refused"]
    held = told["held"]
    for prefix in ("", "adam_m.", "adam_v."):
        assert held[f"{prefix}backbone.blocks.0.attention.dense1.weight"] == [16, 64]
        assert held[f"{prefix}backbone.blocks.0.output.projection.weight"] == [64, 64]
        assert held[f"{prefix}backbone.position_embedding.embedding_table"] == [16, 64]
