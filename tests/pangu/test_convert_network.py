"""Whatever way a run's weights take, the network comes along: every field of it, in every form that is written."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pangu.checkpoint.open import MOMENTS, STATE, TrainingState, step_directories
from pangu.checkpoint.save import save_checkpoint
from pangu.checkpoint.weights import load_for_inference
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.parameters import TARGET_TABLE
from tests.pangu.convert_files import random_weights, released_layouts
from tests.pangu.test_reshard import ours, write_layouts

SIZES = {"num_layers": 3, "hidden_size": 16, "ffn_hidden_size": 48, "seq_length": 6, "vocab_size": 11}
FIELDS = {
    "num_heads": (1, 2, 4, 16),
    "query_layer": (True, False),
    "final_norm": ("before_query", "after_query"),
    "activation": ("gelu_tanh", "gelu_erf", "fast_gelu"),
    "softmax_dtype": ("fp32", "fp16"),
    "compute_dtype": ("fp32", "fp16", "bf16"),
    "initializer": ("released", "master"),
    "dropout_rate": (0.0, 0.1),
}
MODELS = [
    ModelConfig(**SIZES, **dict(zip(FIELDS, values, strict=True)))
    for values in itertools.product(*FIELDS.values())
    if dict(zip(FIELDS, values, strict=True))["query_layer"] or "after_query" not in values
]


def test_the_fields_are_all_of_them() -> None:
    """What not every form has has a test of its own: the table of targets, patterns of attention, experts."""
    assert set(ModelConfig.model_fields) == set(SIZES) | set(FIELDS) | {"target_in_trunk", "attention", "experts"}


def test_a_pattern_of_attention_goes_with_the_weights_or_is_refused(tmp_path: Path, capsys) -> None:
    attention = {"pattern": "fixed", "span": 3, "summary": 2}
    model = ModelConfig.from_fields({**SIZES, "num_heads": 2, "attention": attention}, "test")
    run = save(tmp_path / "run", model, weights_of(model))
    for way in (to_safetensors, to_mindspore):
        config, _, _ = load_for_inference(way(step_of(run), tmp_path))
        assert config.attention.model_dump() == attention
    for form in ("pytorch", "huggingface"):
        assert main(["convert", str(step_of(run)), "--to", form, "--out", str(tmp_path / f"{form}.safetensors")]) == 2
        assert "PyTorch port" in capsys.readouterr().err


def test_a_table_of_targets_goes_with_the_weights_or_is_refused(tmp_path: Path, capsys) -> None:
    model = ModelConfig(**SIZES, num_heads=2, target_in_trunk=True)
    table = np.random.default_rng(3).standard_normal((6, 16)).astype(np.float32)
    run = save(tmp_path / "run", model, weights_of(model) | {TARGET_TABLE: table})
    for way in (to_safetensors, to_mindspore):
        config, weights, _ = load_for_inference(way(step_of(run), tmp_path))
        assert config.target_in_trunk
        np.testing.assert_array_equal(weights[TARGET_TABLE], table)
    assert main(["convert", str(step_of(run)), "--to", "pytorch", "--out", str(tmp_path / "torch.safetensors")]) == 2
    assert "the PyTorch port has no target_in_trunk" in capsys.readouterr().err


def weights_of(model: ModelConfig) -> dict[str, np.ndarray]:
    weights = random_weights(blocks=model.num_blocks)
    return weights if model.query_layer else {n: a for n, a in weights.items() if "top_query" not in n}


def save(run: Path, model: ModelConfig, weights: dict[str, np.ndarray]) -> Path:
    """A run with one checkpoint."""
    moments = {f"{prefix}{name}": np.abs(a) for prefix in MOMENTS for name, a in weights.items()}
    state = TrainingState(7, 1.0, 0, 0, 99, 2.5)
    save_checkpoint(run, state, weights, moments, model, {})
    return run


def command(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def step_of(run: Path) -> Path:
    return step_directories(run)[0]


# Each way: from a run to something that can be loaded.
def to_safetensors(start: Path, folder: Path) -> Path:
    command("convert", start, "--to", "safetensors", "--out", folder / "a.safetensors")
    return folder / "a.safetensors"


def to_mindspore(start: Path, folder: Path) -> Path:
    command("convert", start, "--to", "mindspore", "--out", folder / "a.ckpt")
    return folder / "a.ckpt"


def to_pytorch(start: Path, folder: Path) -> Path:
    command("convert", start, "--to", "pytorch", "--out", folder / "port.safetensors")
    return folder / "port.safetensors"


def to_one_file(start: Path, folder: Path) -> Path:
    command("reshard", start, "--out", folder / "w.safetensors", "--weights-only")
    return folder / "w.safetensors"


def to_one_ckpt(start: Path, folder: Path) -> Path:
    command("reshard", start, "--out", folder / "w.ckpt", "--weights-only")
    return folder / "w.ckpt"


def layouts_for(start: Path, folder: Path) -> Path:
    _, weights, _ = load_for_inference(start)
    write_layouts(folder / "layout.ckpt", ours(released_layouts(weights, 2, 1)))
    return folder / "layout.ckpt"


def to_shards(start: Path, folder: Path) -> Path:
    command("reshard", start, "--to", layouts_for(start, folder), "--out", folder / "shards")
    return folder / "shards"


def to_weight_shards(start: Path, folder: Path) -> Path:
    command("reshard", start, "--to", layouts_for(start, folder), "--out", folder / "shards", "--weights-only")
    return folder / "shards"


def to_ckpt_shards(start: Path, folder: Path) -> Path:
    words = ["--out", folder / "shards", "--weights-only", "--format", "ckpt"]
    command("reshard", start, "--to", layouts_for(start, folder), *words)
    return folder / "shards"


WAYS = (
    *(to_safetensors, to_mindspore, to_pytorch, to_one_file, to_one_ckpt),
    *(to_shards, to_weight_shards, to_ckpt_shards),
)
# What a reshard can begin with is in MindSpore's names.
AFTER_PYTORCH = (to_safetensors, to_mindspore, to_pytorch)


@settings(max_examples=120)
@given(st.sampled_from(MODELS), st.lists(st.sampled_from(WAYS), min_size=1, max_size=3), st.booleans())
def test_every_field_goes_every_way(tmp_path_factory, model: ModelConfig, ways: list, from_run: bool) -> None:
    """Equal weights under an equal configuration: what computes with them computes the same numbers."""
    folder = tmp_path_factory.mktemp("ways")
    weights = weights_of(model)
    place = save(folder / "run", model, weights)
    place = place if from_run else step_of(place)
    for number, way in enumerate(ways):
        if place.name == "port.safetensors" and way not in AFTER_PYTORCH:
            way = to_safetensors
        if place.name == "shards" and not (place / STATE).is_file() and way in AFTER_PYTORCH:
            way = to_one_file
        step = folder / str(number)
        step.mkdir()
        place = way(place, step)
    config, loaded, _ = load_for_inference(place)
    assert config == model
    assert loaded.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(loaded[name], weight)


@pytest.mark.parametrize("model", [MODELS[number] for number in (37, 101, 202, 444)], ids=lambda m: m.activation)
def test_model_yaml_is_the_runs_own(tmp_path: Path, model: ModelConfig, capsys) -> None:
    run = save(tmp_path / "run", model, weights_of(model))
    command("convert", run, "--to", "pytorch", "--out", tmp_path / "port.safetensors", "--model-yaml", "--json")
    assert ModelConfig.load(tmp_path / "model.yaml") == model
    summary = json.loads(capsys.readouterr().out)
    assert summary["network"] == "known" and summary["config"] == model.model_dump(mode="json")
    with safe_open(tmp_path / "port.safetensors", "np") as file:
        assert file.metadata()["format"] == "pt" and file.metadata()["final_norm"] == model.final_norm


def test_logits_of_what_was_converted_are_the_runs(tmp_path: Path) -> None:
    """By the real network, for the fields that once were lost on the way."""
    from pangu.device import use_device

    use_device()
    ids = np.arange(12).reshape(2, 6) % 11
    np.save(tmp_path / "ids.npy", ids.astype(np.int32))
    model = ModelConfig(
        **SIZES, num_heads=4, final_norm="after_query", activation="fast_gelu", compute_dtype="fp32", dropout_rate=0.0
    )
    run = save(tmp_path / "run", model, {n: 0.2 * a for n, a in weights_of(model).items()})
    (tmp_path / "run/model.yaml").write_text(model.dump())
    port = to_pytorch(run, tmp_path)
    command("convert", port, "--to", "mindspore", "--out", tmp_path / "b.ckpt", "--model-yaml")
    for yaml, weights, out in ((run / "model.yaml", run, "a"), (tmp_path / "model.yaml", tmp_path / "b.ckpt", "b")):
        command("logits", yaml, "--weights", weights, "--ids", tmp_path / "ids.npy", "--out", tmp_path / f"{out}.npy")
    difference = np.abs(np.load(tmp_path / "a.npy") - np.load(tmp_path / "b.npy")).max()
    assert difference <= 1e-6


def test_what_is_not_known_is_asked_for(tmp_path: Path, capsys) -> None:
    from safetensors.numpy import save_file

    model = MODELS[101]
    save_file(weights_of(model), tmp_path / "foreign.safetensors")
    words = ["convert", str(tmp_path / "foreign.safetensors"), "--to", "safetensors"]
    assert main([*words, "--out", str(tmp_path / "x.safetensors"), "--model-yaml"]) == 2
    assert "give --model, a model.yaml that says everything" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "y.safetensors")]) == 0
    assert "are not known, and the output does not say them" in capsys.readouterr().out
    (tmp_path / "given.yaml").write_text(model.dump())
    assert main([*words, "--out", str(tmp_path / "z.safetensors"), "--model", str(tmp_path / "given.yaml")]) == 0
    assert load_for_inference(tmp_path / "z.safetensors")[0] == model
    other = model.model_copy(update={"vocab_size": 12})
    (tmp_path / "given.yaml").write_text(other.dump())
    assert main([*words, "--out", str(tmp_path / "v.safetensors"), "--model", str(tmp_path / "given.yaml")]) == 2
    assert "the weights have vocab_size 11, the model is said to have 12" in capsys.readouterr().err


def test_a_damaged_description_is_one_line(tmp_path: Path, capsys) -> None:
    from safetensors.numpy import save_file

    for text, expected in (("{", "is not JSON"), ("[]", "must be a JSON object"), ('{"new_field": 1}', "is unknown")):
        save_file(weights_of(MODELS[0]), tmp_path / "a.safetensors", metadata={"model_config": text})
        assert main(["convert", str(tmp_path / "a.safetensors"), "--to", "mindspore", "--dry-run"]) == 2
        assert expected in capsys.readouterr().err


def test_mindspore_reads_the_string_and_the_weights(tmp_path: Path) -> None:
    import mindspore as ms

    model = MODELS[202]
    weights = weights_of(model)
    out = to_mindspore(save(tmp_path / "run", model, weights), tmp_path)
    loaded = ms.load_checkpoint(str(out))
    said = loaded.pop("model_config")
    assert json.loads(said) == model.model_dump(mode="json")
    assert loaded.keys() == weights.keys()
    in_order = [{"name": name, "data": value} for name, value in loaded.items()]
    ms.save_checkpoint(in_order, str(tmp_path / "theirs.ckpt"), append_dict={"model_config": said})
    assert load_for_inference(tmp_path / "theirs.ckpt")[0] == model


def test_the_same_checkpoint_is_the_same_bytes(tmp_path: Path) -> None:
    """Whatever process writes it: the names of a header stand in one order."""
    import subprocess
    import sys

    program = (
        "import sys, numpy as np; from pathlib import Path; from pangu.formats.safetensors_file import save_file\n"
        "save_file({'b': np.ones((2, 3), np.float32), 'a': np.zeros(0, np.int8), 'c': np.float32(7)},"
        " Path(sys.argv[1]), {key: key for key in ('x', 'y', 'z', 'format')})"
    )
    written = set()
    for number in range(3):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / f"{number}")], check=True)
        written.add((tmp_path / f"{number}").read_bytes())
    assert len(written) == 1
    with safe_open(tmp_path / "0", "np") as file:
        assert file.metadata() == {key: key for key in ("x", "y", "z", "format")}
        assert file.get_tensor("b").tolist() == [[1.0] * 3] * 2 and file.get_tensor("c") == 7
