"""MindSpore, safetensors and the PyTorch port's names into one another, judged by the libraries that own them."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pangu import parameters
from pangu.cli import main
from pangu.config import ModelConfig
from pangu.formats import mindspore_checkpoint, names
from pangu.formats import write_output as write
from pangu.formats.data_types import BF16, FP16, FP32, FP64, cast, to_bfloat16
from pangu.formats.mindspore_checkpoint import index_checkpoint
from pangu.formats.open_source import open_source
from pangu.foundation.errors import UserError
from tests.conftest import REPOSITORY
from tests.pangu.convert_files import random_weights, torch_weights, write_ckpt, write_index, write_torch

MASTER = "backbone.embedding."


def convert(source: Path, target: str, out: Path, *more: str) -> Path:
    assert main(["convert", str(source), "--to", target, "--out", str(out), *more]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of an error, checked to have left nothing behind."""
    assert main(["convert", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def without_buffers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in state.items() if not names.TORCH_BUFFER.fullmatch(name)}


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    return random_weights()


@pytest.fixture
def model(tmp_path: Path, weights: dict[str, np.ndarray]) -> Path:
    """The small model in safetensors, as their library writes it."""
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    return path


def test_mindspore_reads_what_we_write_and_we_read_what_it_writes(
    tmp_path: Path, model: Path, weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mindspore as ms

    ours = convert(model, "mindspore", tmp_path / "ours.ckpt")
    loaded = ms.load_checkpoint(str(ours))
    assert_equal({name: value.asnumpy() for name, value in loaded.items()}, weights)
    in_order = [{"name": name, "data": ms.Tensor(weights[name])} for name in parameters.canonical_order(2, True)]
    ms.save_checkpoint(in_order, str(tmp_path / "theirs.ckpt"))
    assert (tmp_path / "theirs.ckpt").read_bytes() == ours.read_bytes()
    ms.save_checkpoint(in_order, str(tmp_path / "checked.ckpt"), crc_check=True)
    assert_equal(load_file(convert(tmp_path / "checked.ckpt", "safetensors", tmp_path / "b.safetensors")), weights)
    # Tensors above 512 MiB are cut into pieces: here MindSpore does so above 1024 bytes, and we above 256.
    monkeypatch.setattr(ms.train.serialization, "SLICE_SIZE", 1)
    ms.save_checkpoint(in_order, str(tmp_path / "pieces.ckpt"))
    cut = index_checkpoint(tmp_path / "pieces.ckpt").tensors["backbone.blocks.0.output.mapping.weight"]
    assert len(cut.chunks) == 3
    assert_equal(load_file(convert(tmp_path / "pieces.ckpt", "safetensors", tmp_path / "c.safetensors")), weights)
    monkeypatch.setattr(mindspore_checkpoint, "LARGEST_VALUE", 256)
    pieces = convert(model, "mindspore", tmp_path / "our_pieces.ckpt")
    assert pieces.stat().st_size > ours.stat().st_size
    loaded = ms.load_checkpoint(str(pieces))
    assert_equal({name: value.asnumpy() for name, value in loaded.items()}, weights)
    loaded = ms.load_checkpoint(str(tmp_path / "b.safetensors"), format="safetensors")
    assert_equal({name: value.asnumpy() for name, value in loaded.items()}, weights)


def test_bfloat16_goes_through_mindspore(tmp_path: Path, model: Path, weights: dict[str, np.ndarray]) -> None:
    import mindspore as ms

    path = convert(model, "mindspore", tmp_path / "half.ckpt", "--dtype", "bf16")
    for name, value in ms.load_checkpoint(str(path)).items():
        assert value.dtype == ms.bfloat16
        expected = ms.Tensor(weights[name]).astype(ms.bfloat16).astype(ms.float32).asnumpy()
        np.testing.assert_array_equal(value.astype(ms.float32).asnumpy(), expected)
    back = convert(path, "safetensors", tmp_path / "half.safetensors")
    with safe_open(back, "np") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    assert convert(back, "mindspore", tmp_path / "again.ckpt").read_bytes() == path.read_bytes()


def test_all_forms_in_a_circle(tmp_path: Path, model: Path, weights: dict[str, np.ndarray]) -> None:
    port = convert(model, "pytorch", tmp_path / "port.safetensors")
    assert_equal(load_file(port), without_buffers(torch_weights(weights)))
    with safe_open(port, "np") as file:
        assert file.metadata()["format"] == "pt"
    ckpt = convert(port, "mindspore", tmp_path / "model.ckpt")
    again = convert(ckpt, "safetensors", tmp_path / "again.safetensors")
    assert_equal(load_file(again), weights)
    assert convert(again, "pytorch", tmp_path / "port2.safetensors").read_bytes() == port.read_bytes()


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_pytorch_file(tmp_path: Path, weights: dict[str, np.ndarray], prefix: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    write_torch(path, torch_weights(weights, prefix))
    assert_equal(load_file(convert(path, "safetensors", tmp_path / "a.safetensors")), weights)
    assert_equal(load_file(convert(tmp_path, "safetensors", tmp_path / "b.safetensors")), weights)


def test_pytorch_itself_writes_the_same(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its files are made by hand in other tests")
    state = {name: torch.from_numpy(array) for name, array in torch_weights(weights).items()}
    torch.save(state, tmp_path / "plain.bin")
    torch.save(
        {"state_dict": {name: torch.nn.Parameter(t, False) for name, t in state.items()}}, tmp_path / "nested.pt"
    )
    for file in ("plain.bin", "nested.pt"):
        out = tmp_path / f"{file}.safetensors"
        assert_equal(load_file(convert(tmp_path / file, "safetensors", out)), weights)
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in state.items()}
    ordered = torch.nn.Module().state_dict()
    ordered.update(half)
    torch.save(ordered, tmp_path / "half.bin")
    out = convert(tmp_path / "half.bin", "safetensors", tmp_path / "half.safetensors", "--dtype", "fp32")
    expected = {name: torch.from_numpy(array).bfloat16().float().numpy() for name, array in weights.items()}
    assert_equal(load_file(out), expected)
    from safetensors.torch import load_file as load_torch_file

    port = load_torch_file(convert(tmp_path / "plain.bin", "pytorch", tmp_path / "port.safetensors"))
    assert all(torch.equal(port[name], state[name]) for name in port)
    strided = dict(state) | {"transformer.h.0.mlp.c_fc.weight": state["transformer.h.0.mlp.c_fc.weight"].t()}
    torch.save(strided, tmp_path / "strided.bin")
    assert main(["convert", str(tmp_path / "strided.bin"), "--to", "safetensors", "--dry-run"]) == 2


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_several_files_with_an_index(
    tmp_path: Path, weights: dict[str, np.ndarray], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = {"bin": "pytorch_model", "safetensors": "model"}[kind]
    state = list(torch_weights(weights).items())
    parts = {f"{stem}-0000{i + 1}-of-00003.{kind}": dict(state[i::3]) for i in range(3)}
    for file, tensors in parts.items():
        write_torch(tmp_path / file, tensors) if kind == "bin" else save_file(tensors, tmp_path / file)
    write_index(tmp_path / f"{stem}.{kind}.index.json", parts)
    out = tmp_path / "out"
    out.mkdir()
    assert_equal(load_file(convert(tmp_path, "safetensors", out / "a.safetensors")), weights)
    (tmp_path / f"{stem}-00002-of-00003.{kind}").unlink()
    first = tmp_path / f"{stem}-00001-of-00003.{kind}"
    first.write_bytes(first.read_bytes()[:-100])
    error = refused(capsys, tmp_path, "--to", "safetensors", "--dry-run")
    assert "2 of 3 files cannot be used" in error and "00001-of" in error and "00002-of" in error


def test_both_spellings_of_the_embeddings(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    master = {
        n.replace("backbone.word", MASTER + "word").replace("backbone.pos", MASTER + "pos"): weights[n] for n in weights
    }
    assert len(set(master) - set(weights)) == 2
    save_file(master, tmp_path / "master.safetensors")
    assert_equal(
        load_file(convert(tmp_path / "master.safetensors", "safetensors", tmp_path / "a.safetensors")), weights
    )
    path = convert(tmp_path / "a.safetensors", "mindspore", tmp_path / "master.ckpt", "--names", "master")
    assert set(index_checkpoint(path).tensors) == set(master)
    assert names.canonical_names(master) == {n: n.replace(MASTER, "backbone.") for n in master}
    wrapped = {f"network.network.{name}": name for name in weights}
    assert names.canonical_names(wrapped) == wrapped


def test_query_layer_named_as_a_block(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """The first pipeline network: its final norm also stands elsewhere, which is carried along."""
    pipeline = {name.replace("top_query_layer", "blocks.2"): array for name, array in weights.items()}
    save_file(pipeline, tmp_path / "pipeline.safetensors")
    heads = ["--model-yaml", "--heads", "4"]
    out = convert(tmp_path / "pipeline.safetensors", "safetensors", tmp_path / "a.safetensors", *heads)
    assert_equal(load_file(out), weights)
    assert ModelConfig.load(tmp_path / "model.yaml").final_norm == "after_query"
    out = convert(out, "safetensors", tmp_path / "b.safetensors", "--overwrite", *heads)
    assert ModelConfig.load(tmp_path / "model.yaml").final_norm == "after_query"


def test_model_without_a_query_layer(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    plain = {name: array for name, array in weights.items() if "top_query" not in name}
    save_file(plain, tmp_path / "gpt.safetensors")
    port = convert(tmp_path / "gpt.safetensors", "pytorch", tmp_path / "port.safetensors")
    assert "transformer.wqe.weight" not in load_file(port)
    assert_equal(load_file(convert(port, "safetensors", tmp_path / "again.safetensors")), plain)


def test_optimizer_states_are_left_out_or_kept(tmp_path: Path, weights: dict[str, np.ndarray], capsys) -> None:
    moments = {f"adam_{m}.{name}": array + 1 for m in "mv" for name, array in weights.items()}
    counters = {"global_step": np.array([7], np.int32), "scale_sense": np.array(1024, np.float32)}
    write_ckpt(tmp_path / "training.ckpt", weights | moments | counters)
    without = convert(tmp_path / "training.ckpt", "safetensors", tmp_path / "a.safetensors", "--json")
    assert_equal(load_file(without), weights)
    assert set(json.loads(capsys.readouterr().out)["left_out"]) == moments.keys() | counters.keys()
    kept = convert(tmp_path / "training.ckpt", "safetensors", tmp_path / "b.safetensors", "--keep-optimizer")
    assert_equal(load_file(kept), weights | moments)
    back = convert(kept, "mindspore", tmp_path / "again.ckpt", "--keep-optimizer", "--names", "master")
    assert f"adam_m.{MASTER}word_embedding.embedding_table" in index_checkpoint(back).tensors
    assert "no place for Adam" in refused(capsys, kept, "--to", "pytorch", "--dry-run", "--keep-optimizer")


def test_summary_checksum_and_model_file(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = convert(model, "safetensors", tmp_path / "out.safetensors", "--json", "--model-yaml", "--heads", "4")
    summary = json.loads(capsys.readouterr().out)
    assert summary["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert summary["bytes"] == out.stat().st_size
    config = ModelConfig.load(tmp_path / "model.yaml")
    assert summary["parameters"] == config.num_parameters == sum(a.size for a in random_weights().values())
    sizes = (config.num_layers, config.hidden_size, config.ffn_hidden_size, config.seq_length, config.vocab_size)
    assert sizes == (3, 16, 48, 6, 11) and config.num_heads == 4 and config.final_norm == "before_query"
    assert "already exists" in refused(capsys, model, "--to", "safetensors", "--out", out)
    fresh = tmp_path / "fresh.safetensors"
    again = ["--to", "safetensors", "--out", fresh, "--model-yaml"]
    assert "model.yaml: already exists" in refused(capsys, model, *again, "--heads", "4")
    assert "--heads 2: the model has 4" in refused(capsys, model, *again, "--heads", "2")
    (tmp_path / "model.yaml").unlink()
    assert "or give --heads" in refused(capsys, model, *again)
    assert "multiple of num_heads 3" in refused(capsys, model, *again, "--heads", "3")
    assert not fresh.exists()


def test_heads_of_a_known_size(tmp_path: Path) -> None:
    size = ModelConfig.load(REPOSITORY / "pangu" / "sizes" / "tiny.yaml")
    sizes = (size.num_layers - 1, size.hidden_size, size.ffn_hidden_size)
    save_file(random_weights(*sizes, dtype="float16"), tmp_path / "in.safetensors")
    convert(tmp_path / "in.safetensors", "safetensors", tmp_path / "out.safetensors", "--model-yaml")
    assert ModelConfig.load(tmp_path / "model.yaml").num_heads == size.num_heads


def test_dry_run_lists_and_writes_nothing(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    arguments = ["convert", str(model), "--to", "pytorch", "--dtype", "fp16", "--out", str(out), "--dry-run"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    line = "backbone.blocks.0.output.mapping.weight -> transformer.h.0.mlp.c_fc.weight  fp16 [48, 16]  transposed"
    assert line in text.splitlines()
    assert main([*arguments, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["steps"]) == len(random_weights()) + 1
    assert list(tmp_path.iterdir()) == [model]


def test_what_cannot_be_a_model_is_named(tmp_path: Path, weights: dict[str, np.ndarray], capsys) -> None:
    path = tmp_path / "in.safetensors"

    def error(tensors: dict[str, np.ndarray]) -> str:
        save_file(tensors, path)
        return refused(capsys, path, "--to", "safetensors", "--dry-run")

    port = torch_weights(weights)
    # The 13B file of one port lacked the feed-forward weights of its last layer.
    lacking = {name: array for name, array in port.items() if not name.startswith("transformer.h.2.mlp.")}
    assert "4 weights are missing: backbone.top_query_layer.output.mapping.weight, " in error(lacking)
    assert "no weights of blocks 0" in error({n: a for n, a in weights.items() if ".blocks.0." not in n})
    assert "missing: backbone.layernorm.beta" in error(
        {n: a for n, a in weights.items() if n != "backbone.layernorm.beta"}
    )
    expert = {"backbone.blocks.0.output.experts.mapping.weight": np.zeros((2, 2), np.float32)}
    assert "1 weights belong to no layer of this network: backbone.blocks.0.output.experts" in error(weights | expert)
    assert "two frameworks" in error(weights | {"transformer.ln_f.bias": np.zeros(16, np.float32)})
    both = {MASTER + "word_embedding.embedding_table": np.zeros((11, 16), np.float32)}
    assert "are both 'backbone.word_embedding.embedding_table'" in error(weights | both)
    wrong = {"backbone.blocks.1.attention.dense1.weight": np.zeros((16, 8), np.float32)}
    assert "backbone.blocks.1.attention.dense1.weight [16, 8]" in error(weights | wrong)
    integers = {"backbone.layernorm.beta": np.zeros(16, np.int32)}
    assert "not floating-point numbers: backbone.layernorm.beta" in error(weights | integers)
    assert "no weights of PanGu-α" in error({"encoder.weight": np.zeros(3, np.float32)})
    far = {"backbone.blocks.999999.layernorm1.gamma": np.zeros(16, np.float32)}
    assert "no weights of blocks 2, 3, 4, 5" in error(weights | far)
    untied = port | {"lm_head.weight": port["lm_head.weight"] + 1}
    assert "'lm_head.weight' differs from 'transformer.wte.weight'" in error(untied)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.sampled_from([FP16, BF16, FP64]))
def test_conversion_of_numbers(values: list[float], target) -> None:
    """Rounded as MindSpore and NumPy round; a finite number never becomes infinite."""
    numbers = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        expected = bfloat16_by_search(numbers) if target == BF16 else numbers.astype(target.storage)
    overflows = (np.isfinite(numbers) & ~np.isfinite(expected)).any()
    try:
        found = cast(numbers, FP32, target)
    except OverflowError:
        assert overflows
        return
    assert not overflows
    as_numbers = cast(found, BF16, FP32) if target == BF16 else found
    np.testing.assert_array_equal(as_numbers, expected)


def bfloat16_by_search(numbers: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, the even one of two, found from the neighbours in float64."""
    result = numbers.copy()
    for place, number in enumerate(numbers):
        if not np.isfinite(number):
            continue
        below = (number.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        above_bits = np.uint64(below.view(np.uint32)) + np.uint64(0x10000)
        above = np.uint32(above_bits).view(np.float32)
        limit = np.float64(2.0) ** 128 * np.sign(np.float64(below) or 1)
        above_value = np.float64(above) if np.isfinite(above) else limit
        to_below, to_above = abs(np.float64(number) - below), abs(above_value - np.float64(number))
        even_below = (below.view(np.uint32) >> 16) % 2 == 0
        result[place] = below if to_below < to_above or (to_below == to_above and even_below) else above
    return result


def test_bfloat16_of_not_a_number_stays_one() -> None:
    bits = np.array([0x7F800001, 0xFFFFFFFF, 0x7FC00000, 0x7F800000], np.uint32).view(np.float32)
    converted = to_bfloat16(bits)
    as_single = cast(converted, BF16, FP32)
    assert np.isnan(as_single[:3]).all() and as_single[3] == np.inf


def test_a_number_too_large_is_an_error_and_leaves_nothing(tmp_path: Path, weights, capsys) -> None:
    weights["backbone.layernorm.gamma"][3] = 1e5
    save_file(weights, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    error = refused(capsys, tmp_path / "in.safetensors", "--to", "safetensors", "--out", out, "--dtype", "fp16")
    assert "'backbone.layernorm.gamma': 100000 is beyond fp16; take another --dtype" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_output_goes_nowhere_wrong(tmp_path: Path, model: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    content = model.read_bytes()
    assert "is one of the files" in refused(capsys, model, "--to", "safetensors", "--out", model, "--overwrite")
    assert "is one of the files" in refused(capsys, model, "--to", "safetensors", "--out", link, "--overwrite")
    assert "writes a .ckpt file" in refused(capsys, model, "--to", "mindspore", "--out", tmp_path / "a.safetensors")
    assert "no such directory" in refused(capsys, model, "--to", "mindspore", "--out", tmp_path / "no" / "a.ckpt")
    assert "--out FILE" in refused(capsys, model, "--to", "mindspore")
    assert "no such file" in refused(capsys, tmp_path / "none.ckpt", "--to", "mindspore", "--dry-run")
    text = REPOSITORY / "pyproject.toml"
    assert "must be a directory or end in" in refused(capsys, text, "--to", "mindspore", "--dry-run")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    assert "GB are free there" in refused(capsys, model, "--to", "mindspore", "--out", tmp_path / "a.ckpt")
    assert model.read_bytes() == content and {path.name for path in tmp_path.iterdir()} == {model.name, link.name}


def test_two_at_once_are_refused(tmp_path: Path, model: Path, capsys) -> None:
    out = tmp_path / "out.ckpt"
    with write.OutputFile(out) as first:
        assert "being written by another process" in refused(capsys, model, "--to", "mindspore", "--out", out)
        first.write(b"whole")
        first.commit()
    assert out.read_bytes() == b"whole"


def test_full_disk_leaves_nothing(tmp_path: Path, model: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    out = tmp_path / "out.ckpt"
    assert "No space left on device" in refused(capsys, model, "--to", "mindspore", "--out", out)
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_kill_in_the_middle_leaves_no_output(tmp_path: Path, how: signal.Signals) -> None:
    """Killed at random moments, the output is never there unless whole, and the next run ends with the same bytes."""
    save_file(random_weights(4, 256, 1024), tmp_path / "in.safetensors")
    whole = convert(tmp_path / "in.safetensors", "mindspore", tmp_path / "whole.ckpt").read_bytes()
    out = tmp_path / "out.ckpt"
    # Slow enough to be hit: the process sleeps a little after each tensor.
    program = (
        "import sys, time; from pangu.formats import write_output as write; from pangu.cli import main\n"
        "step = write.write_tensor\n"
        "write.write_tensor = lambda *a: (step(*a), print('.', flush=True), time.sleep(0.01))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "convert", str(tmp_path / "in.safetensors"), "--to", "mindspore"]
    generator = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, "--out", str(out)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(generator.random() * 0.3)
        process.send_signal(how)
        process.wait()
        process.stdout.close()
        assert not out.exists()
        assert (tmp_path / ".out.ckpt.partial").exists() == (how == signal.SIGKILL)
    assert convert(tmp_path / "in.safetensors", "mindspore", out).read_bytes() == whole
    assert not (tmp_path / ".out.ckpt.partial").exists()


def test_one_parameter_at_a_time(tmp_path: Path) -> None:
    """The memory of a conversion stays below its largest parameter and a fixed amount."""
    save_file(random_weights(3, 1024, 4096), tmp_path / "in.safetensors")
    program = (
        "import re, sys; from pathlib import Path; from pangu.cli import main\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "main(['convert', sys.argv[1], '--to', 'pytorch', '--dry-run', '--json'])\n"
        # Sets the peak back to what is used now.
        "Path('/proc/self/clear_refs').write_text('5'); before = peak()\n"
        "main(['convert', sys.argv[1], '--to', 'pytorch', '--out', sys.argv[2]])\n"
        "print(peak() - before)"
    )
    paths = [str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")]
    run = subprocess.run([sys.executable, "-c", program, *paths], cwd=REPOSITORY, capture_output=True, check=True)
    grown = int(run.stdout.split()[-1]) * 1024
    largest = 1024 * 4096 * 4
    assert largest // 2 < grown < largest + 3 * write.BLOCK


def test_pytorch_names_are_not_canonical_without_converting() -> None:
    with pytest.raises(UserError, match="--to safetensors"):
        names.canonical_names(["transformer.wte.weight"])
    with pytest.raises(UserError, match="no parameter of PanGu-α"):
        names.canonical_names(["backbone.blocks.0.router.weight"])


def test_oracle_weights(shared: Path, tmp_path: Path) -> None:
    """The oracle's parameters, in the later spelling, become the released names, and go through the port's."""
    with np.load(shared / "oracle" / "pangu_tiny_fp32_gelu.npz") as oracle:
        found = {key.removeprefix("param/"): oracle[key] for key in oracle.files if key.startswith("param/")}
    write_ckpt(tmp_path / "oracle.ckpt", found)
    expected = {name.replace(MASTER, "backbone."): array for name, array in found.items()}
    port = convert(tmp_path / "oracle.ckpt", "pytorch", tmp_path / "port.safetensors")
    assert_equal(load_file(port), without_buffers(torch_weights(expected)))
    with open_source(port) as source:
        assert source.tensors["lm_head.weight"].shape == expected["backbone.word_embedding.embedding_table"].shape
    assert_equal(load_file(convert(port, "safetensors", tmp_path / "a.safetensors")), expected)
