"""Files that nobody should write: each is one line that says what is wrong, exit code 2, and nothing half-written."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parallel_strategy.cli import main
from parallel_strategy.spec.file import PRESETS

BASE = (
    "model: {preset: pangu-alpha-13b}\ncluster: {preset: atlas-800-910a}\nbatch: {global: 32, micro: 1}\n"
    "mesh: {pp: 4, dp: 2, tp: 4}\n"
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MODEL = "num_layers: 8\nhidden_size: 512\nnum_heads: 8\nffn_hidden_size: 2048\nseq_length: 256\nvocab_size: 1000\n"


def complaint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a verb says before it gives up."""
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and len(said.err) < 600, said.err[:1000]
    return said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mapping"), (b"\x00\xff\xfe\x01", "UTF-8"), ("\x00", "not YAML"), ("[1, 2]", "mapping"),
        (BASE.encode("utf-16"), "UTF-8"), ("a: [", "not YAML"), ("a:\n\t- x", "not YAML"), ("[" * 5000, "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"), (BASE + "---\n" + BASE, "single document"),
        (BASE + "mesh: {dp: 2}\n", "'mesh' stands twice"), (BASE.replace("dp: 2", "dp: 2, dp: 4"), "'dp' stands twice"),
        (BASE + "mesj: {}\n", "did you mean 'mesh'"), (BASE.replace("dp: 2", "ddp: 2"), "did you mean 'dp'"),
        (BASE.replace("batch", "bach"), "did you mean 'batch'"), (BASE + "7: 1\n", "field '7': is unknown"),
        (BASE + "? [a]\n: 1\n", "not YAML"),
        (BASE + "yes: 1\n", "YAML reads the key yes as no name; quote it: 'yes'"),
        (BASE + "? \n: 1\n", "reads the key null as no name"),
        (BASE + "pipeline: {vpp: 1000000, schedule: interleaved}\n", "nearest pp"),
        (BOMB, "holds more than"), ("&a {model: *a, batch: *a}\n", "itself"),
        (BASE + "overrides: &a [*a]\n", "itself"), (BASE.replace("32", "9" * 400), "larger than any size"),
        (BASE.replace("32", "-32"), "nearest: 1"), (BASE.replace("32", ".nan"), "finite"),
        (BASE.replace("32", ".inf"), "finite"), (BASE.replace("dp: 2", "dp: 0"), "nearest: 1"),
        (BASE.replace("dp: 2", "dp: 2.5"), "nearest: 2"), (BASE.replace("dp: 2", "dp: two"), "mesh.dp"),
        (BASE.replace("{pp: 4, dp: 2, tp: 4}", "[4, 2]"), "mapping of fields"),
        (BASE.replace("dp: 2", "dp: {a: 1}"), "mesh.dp"), (BASE.replace("dp: 2", "dp: 64"), "nearest: 32"),
        (BASE.replace("preset: pangu-alpha-13b", "preset: pangu-alpha-14b"), "did you mean 'pangu-alpha-13b'"),
        (BASE.replace("preset: pangu-alpha-13b", "preset: ''"), "is no preset of models"),
        (BASE.replace("preset: pangu-alpha-13b", "preset: ../clusters/dgx-a100"), "is no preset of models"),
        (BASE.replace("preset: pangu-alpha-13b", "file: strategi.yaml"), "did you mean 'strategy.yaml'"),
        (BASE.replace("preset: pangu-alpha-13b", "file: ."), "no such file"),
        (BASE.replace("preset: pangu-alpha-13b", 'file: "a\\0b"'), "no such file"),
        (BASE.replace("preset: pangu-alpha-13b", "file: strategy.yaml"), "is unknown"),
        (BASE + "framework: strategy.yaml\n", "is unknown"),
        (BASE + "framework: mindspor\n", "did you mean 'mindspore'"),
        (BASE.replace("tp: 4", "tp: 3"), "nearest: 2"), (BASE.replace("dp: 2", "dp: 2, ep: 2"), "experts"),
        (BASE.replace("micro: 1", "micro: 3"), "nearest: 2"), (BASE.replace("pp: 4", "pp: 64"), "devices"),
        (BASE.replace("dp: 2", "dp: 2, cp: 3"), "sequence 1024; nearest: 2"),
        (BASE + "pipeline: {stages: [1, 1, 1, 37], schedule: zb_v}\n", "2 chunks"),
        (BASE + "pipeline: {stages: [40, 0, 0, 0]}\n", "pipeline.stages.1"),
        (BASE + "recompute: {mode: full, per_stage: [99, 1, 1, 1]}\n", "nearest: 10"),
        (BASE + "recompute: {mode: full, per_stage: [-1, 1, 1, 1]}\n", "nearest: 0"),
        (BASE + "offload: {activation: 2}\n", "nearest: 1"), (BASE + "offload: {activation: .nan}\n", "finite"),
        (BASE + "zero: {bucket_mb: 1.0e-300}\n", "bucket_mb"),
        (BASE + "zero: {optimizer_shard: true, weight_shard_size: 3}\n", "nearest: 2"),
        (BASE.replace("32", "1000000000"), "are more than are replayed; nearest: 2500000"),
        (BASE + "version: 99\n", "99 is not 1"), (BASE + "pipeline: {schedule: 1F1B}\n", "did you mean '1f1b'"),
    ],
)  # fmt: skip
def test_strategy(text: str | bytes, words: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "strategy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = complaint(["predict", str(path)], capsys)
    assert words in said and "strategy.yaml" in said


def changed(kind: str, name: str, place: str, value: object) -> str:
    """A preset with one value changed, as YAML."""
    fields = yaml.safe_load((PRESETS / f"{kind}s" / f"{name}.yaml").read_text(encoding="utf-8"))
    inner = fields
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in way:
        inner = inner[part]
    inner[last] = value
    return yaml.safe_dump(fields)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("topology", [], "at least 1"), ("topology.0.size", 0, "nearest: 1"), ("topology.0.size", 10**30, "larger"),
        ("topology.1.level", "hccs", "'hccs'"), ("topology.0.latency_us", float("nan"), "finite"),
        ("topology.0.bus_gbps", {}, "bus_gbps"), ("device.hbm.gbps", float("inf"), "finite"),
        ("device.hbm.usable_gb", 1e4, "nearest: 32"), ("device.peak_tflops", {}, "fp16"),
        ("device.peak_tflops", "much", "peak_tflops"), ("device.gemm.tiles", [], "at least 1"),
        ("device.hbm.gb", 32 << 30, "nearest: 100000"), ("device.peak_tflops.fp16", 256e12, "nearest: 1e+06"),
        ("topology.2.nic_gbit", 100e9, "nearest: 1e+08"),
        ("device.gemm.tiles", [[0, 0]], "nearest: 1"), ("host", 3, "mapping of fields"), ("topologi", 1, "'topology'"),
    ],
)  # fmt: skip
def test_cluster(place: str, value: object, words: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "cluster.yaml").write_text(changed("cluster", "atlas-800-910a", place, value), encoding="utf-8")
    path = tmp_path / "strategy.yaml"
    path.write_text(BASE.replace("preset: atlas-800-910a", "file: cluster.yaml"), encoding="utf-8")
    assert words in complaint(["predict", str(path)], capsys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MODEL.replace("num_layers: 8", "num_layers: 1000000000"), "nearest: 10000"),
        (MODEL.replace("512", "1" + "0" * 200), "larger"), (MODEL.replace("512", "513"), "nearest: 512"),
        (MODEL + "kv_heads: 3\n", "nearest: 2"), (MODEL + "hiden_size: 3\n", "did you mean 'hidden_size'"),
        (MODEL.replace("num_layers: 8", "num_layers: x") + "experts: {routing: switch, count: 4}\n", "whole number"),
        (MODEL + "experts: {routing: switch, count: 4, layers: 5}\n", "layers"),
        (MODEL + "experts: {routing: switch, count: 4, layers: []}\n", "experts in the last blocks only"),
        (MODEL + "experts: {routing: switch, count: 4, layers: [a]}\n", "experts in the last blocks only"),
        (MODEL + "experts: {routing: [], count: 4}\n", "routing"),
        (MODEL + "experts: {count: 4, top_k: 9, ffn_hidden_size: 8}\n", "there are 4 experts; nearest: 4"),
        (MODEL + "experts: {count: 4, first_layer: 8, ffn_hidden_size: 8}\n", "counted from 0; nearest: 7"),
        (MODEL + "num_layers: 9\n", "stands twice"), (MODEL + "dropout_rate: 7\n", "dropout_rate"),
    ],
)  # fmt: skip
def test_model(text: str, words: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    path = tmp_path / "strategy.yaml"
    path.write_text(BASE.replace("preset: pangu-alpha-13b", "file: model.yaml"), encoding="utf-8")
    said = complaint(["predict", str(path)], capsys)
    assert words in said and "model.yaml" in said


GROUP = {"multipliers": {"gemm_eff": 1.0}, "deviations": {}, "rows": [], "reach": 1.3, "shares": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a calibration"), ("[]", "groups"), ("null", "groups"), ('{"groups": []}', "groups"),
        ("[" * 100_000, "not a calibration"), (json.dumps({"groups": {}, "version": 9}), "nearest: 2"),
        (json.dumps({"groups": {}, "version": 1}), "made anew"),
        (json.dumps({"groups": {"g": 3}}), "'groups.g'"), (json.dumps({"groups": {"g": {}}}), "multipliers"),
        (json.dumps({"groups": {"g": GROUP | {"multipliers": {"gem": 1}}}}), "did you mean 'gemm_eff'"),
        (json.dumps({"groups": {"g": GROUP | {"multipliers": {"gemm_eff": -1}}}}), "above 0"),
        (json.dumps({"groups": {"g": GROUP | {"multipliers": {"gemm_eff": float("nan")}}}}), "finite"),
        (json.dumps({"groups": {"g": GROUP | {"memory": {"context_gib": "x"}}}}), "context_gib"),
        (json.dumps({"groups": {"g": GROUP | {"more": 1}}}), "more"),
    ],
)  # fmt: skip
def test_calibration(text: str, words: str, tmp_path: Path, capsys) -> None:
    path, calibration = tmp_path / "strategy.yaml", tmp_path / "calibration.json"
    path.write_text(BASE, encoding="utf-8")
    calibration.write_text(text, encoding="utf-8")
    said = complaint(["predict", str(path), "--calibration", str(calibration)], capsys)
    assert words in said and "calibration.json" in said


@pytest.mark.parametrize(
    ("column", "value"),
    [("n_dev", "0"), ("mbs", "0"), ("iter_time_s", "nan"), ("iter_time_s", "-3"), ("mem_gib", "nan"), ("seq", "1e30"),
     ("hidden", ""), ("layers", "99999999999"), ("tp", "0"), ("gbs", "x"), ("hw", "Quantum"),
     ("pp", "1e308"), ("dp", "1e308"), ("mbs", "1e308"), ("tp", "2.5"), ("n_dev", "9" * 30)],
)  # fmt: skip
def test_a_row_that_cannot_be_is_named_and_skipped(column: str, value: str, tmp_path: Path, capsys) -> None:
    row = {
        "id": "one", "quality": "A", "source": "", "hw": "A100-SXM4-80GB", "framework": "Megatron-LM",
        "dev_per_node": "8", "n_dev": "8", "model": "GPT", "layers": "8", "hidden": "1024", "heads": "16",
        "vocab": "51200", "seq": "1024", "tp": "8", "pp": "1", "dp": "1", "mbs": "1", "gbs": "8", "recompute": "none",
        "precision": "fp16", "iter_time_s": "1.0", "mem_gib": "10", "mem_kind": "", "notes": "",
    }  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, row)
    writer.writeheader()
    writer.writerow(row | {column: value})
    path = tmp_path / "rows.csv"
    path.write_text(text.getvalue() + "\nshort,row\n", encoding="utf-8")
    assert main(["calibrate", str(path), "--out", str(tmp_path / "calibration.json")]) == 2
    said = capsys.readouterr().err
    assert "skipped" in said and "Traceback" not in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]


def test_outputs_replace_plain_files_only(tmp_path: Path, capsys) -> None:
    path = tmp_path / "strategy.yaml"
    path.write_text(BASE, encoding="utf-8")
    for target in (str(tmp_path), "/dev/full", str(path / "trace.json")):
        complaint(["timeline", str(path), "--trace", target], capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["strategy.yaml"] and Path("/dev/full").is_char_device()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    "model", "model.preset", "model.seq", "cluster", "framework", "batch", "batch.global", "batch.micro", "mesh",
    "mesh.pp", "mesh.tp", "mesh.ep", "mesh.cp", "mesh.order", "pipeline.stages", "pipeline.vpp", "pipeline.schedule",
    "zero.weight_shard_size", "zero.bucket_mb", "zero.level", "recompute.per_stage", "recompute.mode",
    "offload.activation", "tensor.interleave", "tensor.vocab", "overrides", "version",
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_anywhere_is_taken_or_named(place: str, value: object, tmp_path: Path, capsys) -> None:
    fields = yaml.safe_load(BASE) | {"pipeline": {}, "zero": {}, "recompute": {}, "offload": {}, "tensor": {}}
    *way, last = place.split(".")
    inner = fields
    for part in way:
        inner = inner[part]
    inner[last] = value
    path = tmp_path / "strategy.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    code = main(["predict", str(path), "--json"])
    said = capsys.readouterr()
    assert code in (0, 2, 3) and said.err.count("\n") == (code == 2)
    if code != 2:
        assert json.loads(said.out)["step_seconds"] > 0
