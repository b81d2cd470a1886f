"""A step of a fine-tuning under a strategy: MindSpore compiles it, and communicates what the emulator says."""

from collections import Counter
from pathlib import Path

import pytest

from pangu.tuning.adapter_file import MODULES
from pangu.tuning.tuning_settings import METHODS
from parallel_strategy.cli import main
from parallel_strategy.mindspore.dryrun import fine_tuning
from parallel_strategy.mindspore.dryrun.difference import differences, emulated, of_mindspore
from parallel_strategy.mindspore.dryrun.fine_tuning import FineTuning
from parallel_strategy.mindspore.dryrun.job import compile_rank
from parallel_strategy.mindspore.pangu_network import LINEAR, TABLE_COPY
from parallel_strategy.spec.strategy import Setup
from tests.parallel_strategy.test_compile import EXPERTS, MESH, STAGED, needs_compiler, strategy_file

HSDP = MESH + "zero: {optimizer_shard: true, threshold_kb: 0}\nrecompute: {mode: full}\n"


@needs_compiler
@pytest.mark.parametrize(
    ("text", "rank", "tuning"),
    [
        pytest.param(HSDP, 5, FineTuning("lora", rank=4, modules=("all",)), id="lora"),
        pytest.param(STAGED, 4, FineTuning("adapter", bottleneck=16), id="adapter on the last stage"),
    ],
)
def test_the_compiler_communicates_what_the_emulator_says(
    tmp_path: Path, text: str, rank: int, tuning: FineTuning
) -> None:
    path = strategy_file(tmp_path, text)
    setup = Setup.load(path)
    compiled = compile_rank(path, setup, rank, flags=tuning.flags())
    found = of_mindspore(compiled.collectives)
    assert differences(emulated(setup, rank, tuning=tuning), found) == []
    assert differences(emulated(setup, rank), found) != []  # a step of training is another one
    # Only what is added has moments, and a frozen word table of two stages has a copy that nothing updates.
    moments = [name for name in compiled.parameters if name.startswith(("adam_m.", "adam_v."))]
    assert moments and all("lora_" in name or ".adapter." in name for name in moments)
    if rank == 4:
        assert TABLE_COPY in compiled.parameters


def test_the_names_are_those_of_finetune() -> None:
    assert {name: LINEAR[operator] for name, operator in fine_tuning.MODULES.items()} == MODULES
    assert set(fine_tuning.METHODS) < set(METHODS)


def test_only_what_is_trained_has_gradients(tmp_path: Path) -> None:
    setup = Setup.load(strategy_file(tmp_path, MESH))
    training = emulated(setup, 0)
    assert emulated(setup, 0, tuning=FineTuning("full")) == training
    staged = Setup.load(strategy_file(tmp_path, STAGED))
    both = [emulated(staged, 4, whole_batch=True, tuning=tuning) for tuning in (None, FineTuning("full"))]
    assert both[0] == both[1]  # the tied table's too
    lora = emulated(setup, 0, tuning=FineTuning("lora", rank=4))
    gradients = Counter({(one.bytes, len(one.group)): count for one, count in lora.items() if one.phase == "step"})
    # Two layers of A [4, 64] for q and v, summed over all 8 ranks, and of B [64 / 4, 4] over the 2 that share it.
    assert gradients == Counter({(4 * 64 * 4, 8): 4, (16 * 4 * 4, 2): 4, (4, 8): 1})
    # LoRA beside the feed-forward layer alone: the first layer's attention needs no sum of gradients, nor do words.
    inner = emulated(setup, 0, tuning=FineTuning("lora", modules=("c_fc",)))
    lost = [(one.phase, one.layer, one.bytes) for one in lora - inner if one.phase != "step"]
    assert lost == [("backward", 0, 2 * 32 * 64 * 2)]
    assert sum(training.values()) > sum(lora.values())


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (["--method", "prefix"], MESH, "--method prefix: is not compiled under a strategy; right: full, lora"),
        (["--method", "lorra"], MESH, "did you mean 'lora'?"),
        (["--method", "lora", "--module", "q_prok"], MESH, "--module q_prok: is unknown; did you mean 'q_proj'?"),
        (["--method", "adapter", "--module", "q_proj"], MESH, "--module: goes with --method lora"),
        (["--module", "q_proj"], MESH, "--module: goes with --method lora"),
        (["--method", "lora", "--lora-rank", "0"], MESH, "--lora-rank 0: must be 1 to 64"),
        (["--method", "adapter", "--bottleneck", "65"], MESH, "--bottleneck 65: must be 1 to 64"),
        (["--method", "lora", "--skeleton", "x.json"], MESH, "--skeleton: is for a step of training"),
        (["--method", "lora"], EXPERTS, "model.experts: a fine-tuning drops no token"),
        (["--method", "lora", "--diff"], MESH + "zero: {optimizer_shard: true, level: 3}\n", "zero.level 3: "),
        (["--method", "lora", "--diff"], MESH + "zero: {bucket_mb: 4}\n", "zero.bucket_mb: "),
        (
            ["--method", "bitfit"],
            STAGED.replace("micro: 2", "micro: 1") + "pipeline: {schedule: zb_v}\n",
            "pipeline.schedule zb_v: ",
        ),
    ],
)
def test_what_cannot_be_compiled_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], text: str, said: str
) -> None:
    path = strategy_file(tmp_path, text)
    model = tmp_path / "model.yaml"
    experts = "experts: {count: 4, routing: switch, capacity_factor: 4.0}\n" if text is EXPERTS else ""
    model.write_text(model.read_text().replace("layers: 2", "layers: 4") + experts)
    assert main(["compile", str(path), *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
