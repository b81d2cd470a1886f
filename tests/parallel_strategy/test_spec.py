"""Files that people write: what is read, and the one line that says what is wrong."""

import json

import pytest

from pangu.config import load_size
from pangu.foundation.errors import UserError
from parallel_strategy.cli import main
from parallel_strategy.placement import axis_levels, group_ranks, places
from parallel_strategy.spec.cluster import ClusterSpec
from parallel_strategy.spec.framework import FrameworkSpec
from parallel_strategy.spec.model import ModelSpec
from parallel_strategy.spec.strategy import Mesh, Setup, StrategySpec, even_stages

EXAMPLE = """
version: 1
model: {preset: pangu-alpha-200b, seq: 1024, dtype: fp16}
batch: {global: 512, micro: 1}
mesh: {pp: 16, dp: 16, tp: 8, order: [dp, pp, tp]}
pipeline: {schedule: 1f1b, stages: [4,4,4,4,4,4,4,4,4,4,4,4,4,4,4,4], vpp: 1, micro_batches: 32}
tensor: {sequence_parallel: false, vocab: split}
zero: {optimizer_shard: true, group: dp, weight_shard_size: -1, threshold_kb: 64}
recompute: {mode: full, per_stage: null, mp_comm: true, slice_activation: false}
offload: {optimizer: false, activation: false}
overrides: []
"""


@pytest.mark.parametrize("kind", [ModelSpec, ClusterSpec, FrameworkSpec])
def test_every_preset_is_legal(kind):
    for name in kind.preset_names():
        assert kind.preset(name).name == name


def test_every_preset_says_where_its_figures_come_from():
    """A cluster names a data sheet, a paper or a measurement; the other files say at their head what they are."""
    words = ("data sheet", "paper", "specification", "benchmark", "nccl-tests", "measured", "appendix", "timed")
    for name in ClusterSpec.preset_names():
        assert any(word in ClusterSpec.preset(name).sources for word in words), name
    for kind in (ModelSpec, FrameworkSpec, StrategySpec):
        for path in kind.presets_directory().glob("*.yaml"):
            assert path.read_text(encoding="utf-8").startswith("# "), path.name


def test_what_people_rent_has_the_figures_of_its_data_sheet():
    rented = {
        "h20-server": (148, 96, 4000), "h800-server": (989, 80, 3350), "h200-server": (989, 141, 4800),
        "a800-server": (312, 80, 2039), "rtx4090-server": (165.2, 24, 1008), "l40s-server": (362, 48, 864),
        "cloudmatrix-384": (376, 64, 1600), "atlas-900-a3-384": (376, 64, 1600),
    }  # fmt: skip
    for name, figures in rented.items():
        device = ClusterSpec.preset(name).device
        assert (device.peak_tflops["bf16"], device.hbm.gb, device.hbm.gbps) == figures, name
    for name in ("cloudmatrix-384", "atlas-900-a3-384"):  # host memory is that of a server of 8 packages
        assert ClusterSpec.preset(name).devices_per_server == 16
    assert ClusterSpec.preset("cloudmatrix-384").device_count == 768


def test_strategy_survives_a_round_trip():
    strategy = StrategySpec.parse(EXAMPLE, "example")
    assert StrategySpec.parse(strategy.dump(), "again") == strategy


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("schedule: 1f1b", "schedul: 1f1b", ["pipeline.schedul", "did you mean 'schedule'"]),
        ("schedule: 1f1b", "schedule: 1f1", ["pipeline.schedule", "'1f1b'"]),
        ("micro: 1", "micro: 3", ["4: field 'batch.micro': 3 must", "nearest: 2"]),
        ("global: 512", "global: 500", ["mesh.dp 16", "nearest: 496"]),
        ("tp: 8", "tp: 6", ["field 'mesh.tp': 6", "num_heads 128", "nearest: 4"]),
        ("tp: 8", "tp: 16", ["4096 devices", "nearest mesh.dp: 8"]),
        ("[4,4,", "[5,4,", ["field 'pipeline.stages': sums to 65", "64 layers"]),
        ("preset: pangu-alpha-200b", "preset: pangu-alpha-2000b", ["did you mean 'pangu-alpha-200b'"]),
        ("micro_batches: 32", "micro_batches: 31", ["field 'pipeline.micro_batches': 31", "32"]),
        ("mode: full", "mode: ful", ["recompute.mode", "'full'"]),
    ],
)
def test_a_wrong_file_is_one_line_with_the_nearest_legal_value(tmp_path, capsys, old, new, words):
    path = tmp_path / "strategy.yaml"
    path.write_text(EXAMPLE.replace(old, new), encoding="utf-8")
    assert main(["predict", str(path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "strategy.yaml" in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00", "batch: 3"])
def test_strange_text_is_a_user_error(tmp_path, text):
    path = tmp_path / "strategy.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        Setup.load(path)


def test_a_model_file_of_pangu_is_read_as_it_is(tmp_path):
    fields = (
        "num_layers: 32\nhidden_size: 2560\nnum_heads: 32\nffn_hidden_size: 10240\nseq_length: "
        "1024\nvocab_size: 40000\n"
        "query_layer: true\nfinal_norm: before_query\nactivation: gelu_tanh\nsoftmax_dtype: fp32\ncompute_dtype: fp16\n"
        "initializer: released\ndropout_rate: 0.1\n"
    )
    (tmp_path / "model.yaml").write_text(fields, encoding="utf-8")
    (tmp_path / "strategy.yaml").write_text(
        "model: {file: model.yaml}\nbatch: {global: 8}\nmesh: {dp: 8}\n", encoding="utf-8"
    )
    assert Setup.load(tmp_path / "strategy.yaml").model.query_layer
    (tmp_path / "whole.yaml").write_text(load_size("2.6B").dump())  # as a run writes it
    assert ModelSpec.load(tmp_path / "whole.yaml").hidden_size == 2560
    (tmp_path / "sparse.yaml").write_text(load_size("2.6B").dump().replace("pattern: full", "pattern: strided"))
    with pytest.raises(UserError, match="'strided'"):
        ModelSpec.load(tmp_path / "sparse.yaml")


def test_ranks_follow_the_order_of_the_file():
    mesh = Mesh(dp=2, pp=4, tp=4, order=["dp", "pp", "tp"])
    table = {place.coordinate: place.rank for place in places(mesh, ClusterSpec.preset("cloudbrain2-2048"))}
    assert [table[c] for c in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 3, 3))] == [0, 1, 4, 16, 31]
    assert group_ranks(mesh, "pp", 17) == [17, 21, 25, 29]


def test_the_papers_placement_of_200b():
    mesh = Mesh(pp=16, dp=16, tp=8, order=["dp", "pp", "tp"])
    levels = axis_levels(mesh, ClusterSpec.preset("cloudbrain2-2048"))
    assert levels == {"tp": "server", "pp": "rack", "dp": "spine"}


def test_even_stages_leave_the_ends_lighter():
    assert even_stages(10, 4) == [2, 3, 3, 2]
    assert sum(even_stages(61, 16)) == 61


def test_init_writes_files_that_predict_and_ranks_accept(tmp_path, capsys):
    path = tmp_path / "strategy.yaml"
    assert main(["init", str(path), "--model", "pangu-alpha-13b", "--copy-presets"]) == 0
    assert main(["init", str(path)]) == 2
    capsys.readouterr()
    assert main(["predict", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"] == 12_800_870_400
    assert data["step_seconds"] > 0 and len(data["stages"]) == data["mesh"]["pp"]
    assert main(["ranks", str(path), "--json", "--rank", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"][0]["rank"] == 1
    assert main(["ranks", str(path), "--rank", "99"]) == 2


def test_planning_imports_nothing_heavy():
    import subprocess
    import sys

    script = (
        "import sys, parallel_strategy.predict, parallel_strategy.commands.predict;"
        "print([m for m in ('mindspore', 'scipy', 'numba', 'plotly', 'matplotlib', 'pangu.config', 'data_pipeline') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_schemas_accept_what_init_writes(tmp_path, capsys):
    """Editors check with the schemas; every preset and the template pass, and a misspelt field does not."""
    jsonschema = pytest.importorskip("jsonschema")
    import yaml

    from parallel_strategy.spec.file import PRESETS

    assert main(["init", str(tmp_path / "schemas"), "--schema"]) == 0
    assert main(["init", str(tmp_path / "strategy.yaml")]) == 0
    kinds = ("strategy", "model", "cluster", "framework")
    schemas = {kind: json.loads((tmp_path / f"schemas/{kind}.schema.json").read_text()) for kind in kinds}
    for kind in ("model", "framework"):
        for path in (PRESETS / f"{kind}s").glob("*.yaml"):
            jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schemas[kind])
    written = yaml.safe_load((tmp_path / "strategy.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(written, schemas["strategy"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(written | {"mech": {}}, schemas["strategy"])
