"""What a person looks at: the sums are right, the page is self-contained, the trace is a trace."""

import importlib
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from plotly import graph_objects

from parallel_strategy.cli import main
from parallel_strategy.predict import Prediction
from parallel_strategy.report.details import memory_over_time, operators, traffic
from parallel_strategy.report.page import shown_stages, timeline
from parallel_strategy.search.parts import parts_of
from parallel_strategy.spec.file import PRESETS
from parallel_strategy.spec.model import ModelSpec
from tests.parallel_strategy.strategies import setup_of

STRATEGY = (
    "model: {preset: pangu-alpha-13b}\ncluster: {preset: atlas-800-910a}\nbatch: {global: 32, micro: 1}\n"
    "mesh: {pp: 4, dp: 2, tp: 4}\nzero: {optimizer_shard: true}\nrecompute: {mode: full}\n"
)


@pytest.fixture
def strategy(tmp_path):
    path = tmp_path / "strategy.yaml"
    path.write_text(STRATEGY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prediction():
    fields = yaml.safe_load(STRATEGY)
    del fields["model"], fields["cluster"]
    return Prediction(setup_of(ModelSpec.preset("pangu-alpha-13b"), "atlas-800-910a", "mindspore", **fields))


def test_parts_sum_to_the_step(prediction):
    assert sum(parts_of(prediction).values()) == pytest.approx(prediction.closed_form_seconds, rel=1e-6)


def test_memory_over_time_ends_empty_and_peaks_at_the_prediction(prediction):
    for stage, summary in enumerate(prediction.stage_memory):
        times, levels = memory_over_time(prediction, stage)
        assert levels.max() == pytest.approx(summary.total, rel=1e-6)
        assert levels[-1] == pytest.approx(levels[0]) and (times[1:] >= times[:-1] - 1e-12).all()


def test_traffic_counts_every_collective(prediction):
    links = {(t.axis, t.op): t for t in traffic(prediction)}
    # 10 layers of a stage, 16 micro-batches: two forward, two again for recomputation, and backward one for
    # feed-forward and one where query, key and value leave
    assert links["tp", "all_reduce"].count >= 10 * 16 * 6
    assert links["tp", "all_reduce"].level == "hccs" and links["pp", "send"].level == "rack"
    assert links["weights", "reduce_scatter"].count == 1


def test_operators_stay_below_the_roof(prediction):
    peak = prediction.setup.cluster.device.peak("fp16") / 1e12
    assert all(o.tflops <= peak and o.milliseconds > 0 for o in operators(prediction))


def test_page_and_trace(strategy, tmp_path, capsys):
    page, trace = tmp_path / "report.html", tmp_path / "trace.json"
    assert main(["timeline", str(strategy), "--html", str(page), "--trace", str(trace)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "pangu-alpha-13b" in text and "Plotly.newPlot" in text and 'src="http' not in text
    events = json.loads(trace.read_text())["traceEvents"]
    streams = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert streams == {"compute", "hccs", "server", "rack"}  # links by level; nothing is copied to the host
    compute = [e for e in events if e["ph"] == "X" and e["tid"] == 0 and e["name"].startswith("forward")]
    assert len(compute) == 4 * 16
    for stage in range(4):
        mine = sorted((e["ts"], e["dur"]) for e in events if e["ph"] == "X" and e["tid"] == 0 and e["pid"] == stage)
        assert all(a + d <= b + 1e-3 for (a, d), (b, _) in pairwise(mine))
    assert main(["timeline", str(strategy)]) == 2


def test_explain_and_compare(strategy, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(STRATEGY.replace("mode: full", "mode: none"), encoding="utf-8")
    assert main(["explain", str(strategy)]) == 0
    assert "recomputation" in capsys.readouterr().out
    assert main(["explain", str(strategy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operators"]
    assert main(["compare", str(strategy), str(other), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert second["step_seconds"] < first["step_seconds"] and second["parts_seconds"]["recomputation"] == 0


def test_very_many_stages_are_drawn_in_part_but_whole_in_time():
    paper = setup_of(
        ModelSpec.preset("pangu-alpha-200b"), "cloudbrain2-2048", "mindspore",
        batch={"global": 512}, mesh={"pp": 64, "dp": 8, "tp": 4}, recompute={"mode": "full"},
    )  # fmt: skip
    prediction = Prediction(paper)
    stages = shown_stages(prediction)
    assert stages[0] == 0 and stages[-1] == 63 and len(stages) == 16
    figure = timeline(prediction, stages, graph_objects)
    ends = {trace.name: max(a + b for a, b in zip(trace.base, trace.x, strict=True)) for trace in figure.data}
    assert ends["end of the step"] == pytest.approx(prediction.seconds)
    assert ends["idle"] > 0.9 * prediction.seconds and ends["backward"] > 0.9 * prediction.seconds


def inputs_of_examples(folder: Path) -> None:
    """Write the files that the examples of the help name."""
    shutil.copy(PRESETS / "clusters" / "a100-server.yaml", folder / "mine.yaml")
    sizes = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "intermediate_size": 3072}
    config = {"model_type": "qwen3", "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_act": "silu"}
    (folder / "PROF_DIR").mkdir()
    (folder / "PROF_DIR" / "kernel_details.csv").write_text(
        "Name,Type,Accelerator Core,Duration(us),Input Shapes,Input Data Types,Output Shapes\n"
        'a,MatMul,AI_CORE,80,"1024,2048;2048,4096",FLOAT16;FLOAT16,"1024,4096"\n'
    )
    (folder / "Qwen3-8B").mkdir()
    (folder / "Qwen3-8B" / "config.json").write_text(json.dumps(config | sizes))
    (folder / "pretrain_gpt.sh").write_text(
        "torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 4 --hidden-size 1024 --num-attention-heads 16 "
        "--seq-length 1024 --max-position-embeddings 1024 --micro-batch-size 1 --global-batch-size 8 "
        "--vocab-size 32000\n"
    )


@pytest.mark.parametrize("verb", ["init", "predict", "search", "compare", "goodput", "explain", "timeline", "ranks"])
def test_examples_of_the_help_work(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if verb != "init":
        for name in ("strategy.yaml", "before.yaml", "after.yaml", "a.yaml", "b.yaml"):
            assert main(["init", name, "--model", "pangu-alpha-1.3b"]) == 0
    inputs_of_examples(tmp_path)
    help_text = importlib.import_module(f"parallel_strategy.commands.{verb}").__doc__
    examples = [line.split("#")[0].split() for line in help_text.splitlines() if "python -m parallel_strategy" in line]
    assert examples
    for words in examples:
        for name in [word for word in [*words, "model.yaml"] if verb == "init" and word.endswith(".yaml")]:
            (tmp_path / name).unlink(missing_ok=True)
        assert main(words[3:]) == 0
    assert capsys.readouterr().out


def test_json_of_every_verb_names_its_units(strategy, capsys):
    def numbers(value, name=""):
        if isinstance(value, dict):
            return [found for key, inner in value.items() for found in numbers(inner, key)]
        if isinstance(value, list):
            return [found for inner in value for found in numbers(inner, name)]
        return [name] if isinstance(value, float) else []

    units = ("second", "_ms", "gib", "gbps", "flops", "_per_", "utilisation", "bubble", "intensity", "change", "share")
    for argv in (["predict"], ["explain"], ["compare"], ["search", "--tp", "4", "--pp", "2", "--on-device"]):
        assert main([argv[0], str(strategy), *argv[1:], "--json"]) == 0
        data = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
        for part in ("parts_seconds", "operators", "pareto"):
            for row in data if isinstance(data, list) else [data]:
                row.pop(part, None)
        unnamed = [name for name in numbers(data) if not any(unit in name for unit in units)]
        assert set(unnamed) <= {"activations_on_host", "bucket_mb"}


def test_what_does_not_fit_is_exit_code_3_and_says_by_how_much(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = tmp_path / "strategy.yaml"
    path.write_text(
        "model: {preset: pangu-alpha-13b}\ncluster: {preset: atlas-800-910a}\nbatch: {global: 32}\n"
        "mesh: {dp: 2, tp: 4}\nzero: {optimizer_shard: true}\nrecompute: {mode: full}\n"
    )
    assert main(["predict", str(path)]) == 3
    said = capsys.readouterr().out
    assert "memory: needs 30.54 GiB, 30.50 usable: 0.04 too much" in said
    assert "103.17" in said and "263.54" in said and "-0.04" in said  # no digit is cut in 60 columns
    assert main(["predict", str(path), "--json"]) == 3 and json.loads(capsys.readouterr().out)["out_of_memory"]
    assert main(["predict", str(path), "--set", "mesh.tp", "8", "--set", "mesh.dp", "1"]) == 0
